"""Drives each part of a server's memory to the bound that its plan gives it, all at the same time."""

import asyncio
import json
import re
import threading

import hostile
from drill import CHAT, EMBED, MIB
from traffic import COMPLETIONS, EMBEDDINGS

# Each is one token or two of the model, and long for that.
LONG_WORDS = (
    " international development understanding information government relationship environmental"
    " responsibility communication professional significantly traditional administration"
).split()


class Anonymous(threading.Thread):
    """The peak of a process's anonymous memory, looked at every few milliseconds."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.path, self.peak, self.over = f"/proc/{pid}/status", 0, threading.Event()
        self.start()

    def now(self):
        with open(self.path) as status:
            found = re.search(r"RssAnon:\s+(\d+)", status.read())
        return int(found[1]) * 1024 if found else 0  # it has ended

    def run(self):
        while not self.over.wait(0.005):
            self.peak = max(self.peak, self.now())

    def stop(self):
        self.over.set()
        self.join()
        return self.peak


async def settled(anonymous, patience=30):
    """Until the peak has not moved for three seconds."""
    end = asyncio.get_running_loop().time() + patience
    quiet, before = 0, 0
    while quiet < 6 and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.5)
        quiet = quiet + 1 if anonymous.peak < before + MIB // 4 else 0
        before = max(before, anonymous.peak)


def plan_of(welcome):
    """{(component, what): bytes} of the table that the server prints."""
    rows = re.findall(r"^  (\S.*?)\s+(\d+\.\d)  .*$", welcome, re.MULTILINE)
    return {tuple(name.split("  ")): float(mib) * MIB for name, mib in rows}


async def fill_pool(client, rng, context, pool_tokens):
    """Different prompts, which stay in the prefix cache, until no block was never used."""
    count = pool_tokens // (context - 20) + 2
    for start in range(0, count, 3):
        sent = [
            client.send(COMPLETIONS, hostile.completion(hostile.tokens(rng, context - 20), 1, False))
            for _ in range(min(3, count - start))
        ]
        for out in await asyncio.gather(*sent):
            assert out.state == "finished", out


async def largest_steps(client, rng, max_batch):
    """As many sequences as a step may have, each of a single block."""
    sent = []
    for _ in range(2 * max_batch):
        body = hostile.completion(hostile.tokens(rng, 5), 10, False, temperature=1)
        sent.append(client.send(COMPLETIONS, body, timeout=120))
    states = [out.state for out in await asyncio.gather(*sent)]
    assert "finished" in states, states


class Held:
    """What clients keep a server holding, until close()."""

    def __init__(self, client):
        self.client, self.writers = client, []

    async def _connect(self):
        _, writer = await asyncio.open_connection(self.client.host, self.client.port)
        self.writers.append(writer)
        return writer

    async def connections(self, count, header_bytes):
        """Each with a head that does not end."""
        for _ in range(count):
            writer = await self._connect()
            writer.write(b"POST / HTTP/1.1\r\nX-Filler: " + b"f" * (header_bytes - 1000))

    async def requests(self, rng, count, budget, context):
        """`count` times many long texts that wait for their turn: more than the budget in all."""
        words = context // 3
        for _ in range(count):
            text = " ".join(rng.choices(LONG_WORDS, k=words))
            prompts = [f"{rng.random()} {text}" for _ in range(max(1, int(budget / 4 / len(text))))]
            body = hostile.completion(prompts[:100], context // 4)
            self.writers.append((await self.client.open(COMPLETIONS, body, 4096))[1])

    def close(self):
        for writer in self.writers:
            writer.close()


async def largest_embeddings(client, rng):
    inputs = [" ".join(rng.choices(hostile.WORDS, k=200)) for _ in range(24)]
    out = await client.send(EMBEDDINGS, {"model": EMBED, "input": inputs})
    assert out.state == "finished", out
