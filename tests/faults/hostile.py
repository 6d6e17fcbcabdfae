"""What tenants do to a server that they do not wish well, and what an innocent one does meanwhile.
Every `random` is seeded by the caller."""

import asyncio
import json
import random as randoms
import sys

from drill import CHAT, EMBED
from traffic import CHAT as CHAT_PATH
from traffic import COMPLETIONS, EMBEDDINGS, Client

WORDS = "the sea was calm and a ship came slowly home with salt timber rope tea iron".split()


def text(random, words):
    return " ".join(random.choices(WORDS, k=words))


def tokens(random, count):
    return [random.randrange(100, 40000) for _ in range(count)]


def completion(prompt, max_tokens, stream=True, **more):
    return {
        "model": CHAT,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "stream": stream,
        **more,
    }


async def repeat(count, once):
    """`count` at a time, again and again, until cancelled."""

    async def one():
        while True:
            out = await once()
            # A refusal is not waited out: these do not care.
            if out is None or out.state != "finished":
                await asyncio.sleep(0.05)

    await asyncio.gather(*(one() for _ in range(count)))


async def long_prompts(client, random, context):
    await repeat(
        random.randint(4, 24),
        lambda: client.send(COMPLETIONS, completion(tokens(random, context - 40), 32)),
    )


async def many_streams(client, random, context):
    await repeat(
        random.randint(30, 120),
        lambda: client.send(
            COMPLETIONS, completion(tokens(random, random.randint(20, context // 4)), context // 2)
        ),
    )


async def big_n(client, random, context):
    await repeat(
        random.randint(2, 6),
        lambda: client.send(
            COMPLETIONS,
            completion(tokens(random, context // 4), context // 2, n=16, temperature=1),
        ),
    )


async def one_byte_changed(client, random, context):
    """The same huge text, but for one of its bytes."""
    base = text(random, context - 100)

    def once():
        at = random.randrange(len(base))
        return client.send(COMPLETIONS, completion(base[:at] + "#" + base[at + 1 :], 4))

    await repeat(random.randint(4, 12), once)


async def unread(client, random, context, count=None, again_s=0.2):
    """Streams that are opened and never read."""
    count = count or random.randint(30, 150)
    body = completion(tokens(random, 12), min(context - 20, 1000), logprobs=5)
    writers = []
    try:
        while True:
            while len(writers) < count:
                try:
                    _, writer = await client.open(COMPLETIONS, body, receive_buffer=4096)
                    writers.append(writer)
                except OSError:
                    break
            await asyncio.sleep(again_s)
            writers = [writer for writer in writers if not writer.is_closing()]
    finally:
        for writer in writers:
            writer.close()


async def thousand_unread(client, random, context):
    """Opened once, and again where they were refused, when they are told to come again."""
    await unread(client, random, context, count=1000, again_s=1)


async def huge_bodies(client, random, context, limit_bytes=8 << 20):
    """Up to as large as the configuration takes them, which may be more than there is memory for: a
    prompt that is much too long, deep and wide trees, one endless word."""

    def made():
        size = limit_bytes // random.choice([1, 2, 4, 6, 8, 16, 32]) - 4096
        kinds = [
            lambda: json.dumps(completion("a " * (size // 2), 4)).encode(),
            lambda: json.dumps(completion("a" * (size // 16), 4)).encode(),
            lambda: json.dumps(completion([1] * (size // 3), 4)).encode(),
            lambda: b'{"model": ' + b"[" * (size - 20),
            lambda: b'{"model": "m", "messages": [' + b'{"a":1},' * (size // 8 - 8) + b"{}]}",
            lambda: json.dumps(
                {"model": CHAT, "messages": [{"role": "user", "content": "b " * (size // 2)}]}
            ).encode(),
        ]
        return random.choice(kinds)()

    bodies = [made() for _ in range(12)]
    await repeat(random.randint(8, 32), lambda: client.send(COMPLETIONS, random.choice(bodies)))


async def half_bodies(client, random, context, limit_bytes=8 << 20):
    """Bodies that are announced, sent by half, and held."""
    writers = []
    try:
        for _ in range(random.randint(16, 64)):
            size = limit_bytes // random.choice([1, 4, 8, 16])
            _, writer = await asyncio.open_connection(client.host, client.port)
            writers.append(writer)
            writer.write(client.head(COMPLETIONS, size) + b"x" * (size // 2))
        await asyncio.sleep(3600)
    except OSError:
        await asyncio.sleep(3600)
    finally:
        for writer in writers:
            writer.close()


async def whole_logprobs(client, random, context):
    """Answers in one piece that are much larger than their tokens."""
    await repeat(
        random.randint(4, 12),
        lambda: client.send(
            COMPLETIONS,
            completion(tokens(random, 16), context // 2, stream=False, logprobs=5, n=4),
        ),
    )


async def embedding_batches(client, random, context):
    inputs = [text(random, random.randint(20, 200)) for _ in range(256)]
    await repeat(
        random.randint(4, 16), lambda: client.send(EMBEDDINGS, {"model": EMBED, "input": inputs})
    )


KINDS = [
    long_prompts,
    many_streams,
    big_n,
    one_byte_changed,
    unread,
    huge_bodies,
    half_bodies,
    whole_logprobs,
    embedding_batches,
]


def chat(random, stream=True, max_tokens=None):
    return {
        "model": CHAT,
        "messages": [{"role": "user", "content": text(random, random.randint(4, 40)) + "?"}],
        "max_tokens": max_tokens or random.randint(4, 20),
        "stream": stream,
        "stream_options": {"include_usage": True},
    }


async def innocents(client, random, until, at_a_time=2, patience=90, **options):
    """Modest chat, one after the other, until `until()`; returns what became of each."""
    outcomes = []

    async def one():
        while not until():
            body = chat(random, **options)
            outcomes.append(await client.send_until_taken(CHAT_PATH, body, patience, 120))
            await asyncio.sleep(0.1)

    await asyncio.gather(*(one() for _ in range(at_a_time)))
    return outcomes


async def flood(kind, url, key, context):
    """Until standard input ends."""
    load = globals()[kind](Client(url, key), randoms.Random(1), int(context))
    task = asyncio.create_task(load)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(flood(*sys.argv[1:]))
