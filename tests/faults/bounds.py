"""Drives each part of a server's memory to the bound that its plan gives it, all at the same time."""

import asyncio
import json
import re
import threading

import hostile
from drill import CHAT, EMBED, MIB
from traffic import COMPLETIONS, EMBEDDINGS

# What a request of one short prompt takes of the budget while it waits (actors/requests.h).
WAITING_BYTES = 6400 + 4 * 20


class Anonymous(threading.Thread):
    """The peak of a process's anonymous memory, looked at every few milliseconds."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.path, self.peak, self.over = f"/proc/{pid}/status", 0, threading.Event()
        self.start()

    def now(self):
        try:
            with open(self.path) as status:
                found = re.search(r"RssAnon:\s+(\d+)", status.read())
        except FileNotFoundError:
            found = None
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


async def holds_requests(server, least, patience=60):
    """Until requests hold so much of the budget: a busy machine takes its time to read them."""
    end = asyncio.get_running_loop().time() + patience
    while True:
        rows = (await asyncio.to_thread(server.memory))["rows"]
        held = sum(row["bytes"] for row in rows if row["component"] == "requests")
        if held >= least:
            return
        assert asyncio.get_running_loop().time() < end, f"{held} of {least} bytes are held"
        await asyncio.sleep(0.2)


def plan_of(welcome):
    """{(component, what): bytes} of the table that the server prints."""
    rows = re.findall(r"^  (\S.*?)\s+(\d+\.\d)  .*$", welcome, re.MULTILINE)
    return {tuple(name.split("  ")): float(mib) * MIB for name, mib in rows}


async def fill_pool(client, rng, context, pool_tokens):
    """Different prompts, which stay in the prefix cache, until no block was never used."""
    for _ in range(pool_tokens // (context - 20) + 2):
        body = hostile.completion(hostile.tokens(rng, context - 20), 1, False)
        out = await client.send(COMPLETIONS, body)
        assert out.state == "finished", out


async def most_logits(client, rng, context):
    """A prompt that is scored takes as many rows of logits as a step may have."""
    body = hostile.completion(hostile.tokens(rng, context // 2), 0, False, echo=True, logprobs=0)
    out = await client.send(COMPLETIONS, body)
    assert out.state == "finished", out


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

    async def requests(self, rng, client, share, context):
        """As many as `share` bytes of the budget hold, in two bodies. They wait for their turn, and
        nobody reads the answers. Short prompts leave most to be generated, for which there is room."""
        count = int(share / WAITING_BYTES)
        for part in (count // 2, count - count // 2):
            prompts = [hostile.tokens(rng, 20) for _ in range(part)]
            body = hostile.completion(prompts, context - 20)
            self.writers.append((await client.open(COMPLETIONS, body, 4096))[1])
            await asyncio.sleep(0.05)  # what reading it takes is given back, for the next

    def close(self):
        for writer in self.writers:
            writer.close()


async def largest_embeddings(client, rng, context):
    words = min(context, 256) - 20  # the model takes no longer ones
    inputs = [" ".join(rng.choices(hostile.WORDS, k=words)) for _ in range(24)]
    out = await client.send(EMBEDDINGS, {"model": EMBED, "input": inputs})
    assert out.state == "finished", out
