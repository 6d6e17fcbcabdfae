#!/usr/bin/env python3
"""What a user of the HTTP API gets, beside another server with the same model, in turns (A B B A ...).

  serving_bench.py streams      many streams at once: tokens/s, time to first token, time between tokens
  serving_bench.py prefix       streams that begin with the same text: the first token, with it cached and not
  serving_bench.py memory       anonymous memory while long streams run, and after
  serving_bench.py start        from the start of the process to the first token, with files in memory
  serving_bench.py embeddings   sentences/s, one at a time and in batches

The peer is any server with OpenAI's API that takes "ignore_eos" and counts tokens: --peer-command starts
it ({port} and {model}, the path of the weights, are filled in), --peer URL is one that runs. Without
either our server is measured alone. Its own flags follow in --options. Needs a built binary
(PLIMSOLL_BINARY) and the model (PLIMSOLL_MODELS).
"""

import argparse
import array
import asyncio
import base64
import json
import math
import operator
import random
import shlex
import statistics
import time
import urllib.request

from sides import MIB, Side, our_command, system, traffic

# Each is one token, with the space before it, in the vocabularies of the catalogue's models.
WORDS = ["ship", "wind", "rope", "north", "south", "deck", "load", "tide", "storm", "light", "coast",
         "water", "stone", "river", "city", "road", "house", "garden", "paper", "music", "winter",
         "summer", "morning", "evening", "table", "window", "letter", "market", "forest", "mountain"]
COMPARED_SENTENCES = 8
SENTENCE_WORDS = 14  # with its two special tokens 16


def words(rng, count):
    return "".join(" " + rng.choice(WORDS) for _ in range(count))


class Figures:
    """Of each figure, what every turn gave on each side; printed with the ratio of the pairs."""

    def __init__(self):
        self.of = {}

    def add(self, side, measured):
        for figure, value in measured.items():
            self.of.setdefault(figure, {}).setdefault(side, []).append(value)

    def print(self):
        print(f"{'':34} {'plimsoll':>10} {'peer':>10}   plimsoll / peer")
        for figure, sides in self.of.items():
            ours, peers = sides.get("plimsoll", []), sides.get("peer", [])
            line = f"{figure:34} {shown(ours)} {shown(peers)}"
            if ours and len(ours) == len(peers):
                ratios = [a / b for a, b in zip(ours, peers)]
                line += (f"   {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}, "
                         f"{len(ratios)} pairs)")
            print(line)


def shown(values):
    return f"{statistics.median(values):10.4g}" if values else f"{'':10}"


async def in_turns(sides, pairs, measure):
    """`measure(side, seed)` of each side with the same seed, in an order that is turned each time."""
    figures = Figures()
    for pair in range(pairs):
        for side in sides if pair % 2 == 0 else sides[::-1]:
            figures.add(side.name, await measure(side, pair))
    return figures


class Completions:
    """Asks a side for completions of an exact length, and checks that it counted the same."""

    def __init__(self, side):
        self.side, self.around = side, 0

    async def settle(self):
        """Starts the side, and learns how many tokens it puts around a prompt."""
        self.side.start()
        out = await self.side.send_when_ready(traffic.COMPLETIONS, self.body(words(random.Random(0), 1), 2))
        self.around = out.usage["prompt_tokens"] - 1
        return self

    def body(self, prompt, tokens):
        return {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
                "stream": True, "stream_options": {"include_usage": True}}

    async def ask_all(self, prompts, tokens):
        outs = await asyncio.gather(
            *(self.side.send(traffic.COMPLETIONS, self.body(prompt, tokens)) for prompt in prompts))
        for prompt, out in zip(prompts, outs):
            counted = out.usage["prompt_tokens"], out.usage["completion_tokens"]
            wanted = prompt.count(" ") + self.around, tokens
            assert counted == wanted, f"{self.side.name}: {counted} tokens of prompt and answer, not {wanted}"
        return outs

    def prompts(self, seed, count, tokens, shared=""):
        """Their tokens are with what is around them, and without what they share."""
        rng = random.Random(seed)
        return [shared + words(rng, tokens - (0 if shared else self.around)) for _ in range(count)]

    def shared(self, seed, tokens):
        return words(random.Random(f"shared {seed}"), tokens - self.around)


async def settle_all(sides):
    return {side.name: await Completions(side).settle() for side in sides}


async def streams(arguments, sides):
    asked = await settle_all(sides)

    async def measure(side, seed):
        client = asked[side.name]
        prompts = client.prompts(seed, arguments.streams, arguments.prompt)
        begin = time.monotonic()
        outs = await client.ask_all(prompts, arguments.answer)
        took = time.monotonic() - begin
        first = [1000 * out.ttft for out in outs]
        between = [1000 * gap for out in outs for gap in out.gaps]
        return {
            "generated tokens/s": arguments.streams * arguments.answer / took,
            "first token, p50, ms": traffic.quantile(first, 0.5),
            "first token, p99, ms": traffic.quantile(first, 0.99),
            "between tokens, p50, ms": traffic.quantile(between, 0.5),
            "between tokens, p99, ms": traffic.quantile(between, 0.99),
        }

    return await in_turns(sides, arguments.pairs, measure)


async def prefix(arguments, sides):
    asked = await settle_all(sides)

    async def last_first_token(client, prompts):
        return traffic.quantile([1000 * out.ttft for out in await client.ask_all(prompts, arguments.answer)], 0.99)

    async def measure(side, seed):
        client, count = asked[side.name], arguments.streams
        shared = client.shared(seed, arguments.shared)
        alone = client.prompts(f"cold {seed}", count, arguments.shared + arguments.prompt)
        cold = await last_first_token(client, alone)
        first = await last_first_token(client, client.prompts(f"first {seed}", count, arguments.prompt, shared))
        again = await last_first_token(client, client.prompts(f"again {seed}", count, arguments.prompt, shared))
        return {
            "first token, p99, ms: not shared": cold,
            "shared, for the first time": first,
            "shared and cached": again,
            "shared and cached / not shared": again / cold,
        }

    return await in_turns(sides, arguments.pairs, measure)


async def memory(arguments, sides):
    need_processes(sides)

    async def measure(side, seed):
        client = await Completions(side).settle()
        try:
            prompts = client.prompts(seed, arguments.streams, arguments.context - arguments.answer)
            started = side.anonymous_bytes()
            peak = await side.peak_anonymous_bytes(client.ask_all(prompts, arguments.answer))
            await asyncio.sleep(arguments.idle)
            return {
                "anonymous, MiB: started": started / MIB,
                "at most": peak / MIB,
                "idle, after": side.anonymous_bytes() / MIB,
            }
        finally:
            side.stop()

    return await in_turns(sides, arguments.pairs, measure)


async def start(arguments, sides):
    need_processes(sides)

    async def measure(side, seed):
        begin = time.monotonic()
        side.start()
        body = Completions(side).body(words(random.Random(seed), 8), 2)
        out = await side.send_when_ready(traffic.COMPLETIONS, body)
        took = out.began + out.ttft - begin
        side.stop()
        return {"start to first token, ms": 1000 * took}

    for side in sides:  # so that files are in memory, and packed weights made
        await measure(side, 0)
    return await in_turns(sides, arguments.pairs, measure)


def need_processes(sides):
    if any(not side.command for side in sides):
        raise SystemExit("this part looks at the peer's process: give --peer-command, not --peer")


def vectors_of(side, sentences):
    body = json.dumps({"model": side.model, "input": sentences, "encoding_format": "base64"}).encode()
    request = urllib.request.Request(f"{side.url}/v1/embeddings", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        data = json.load(answer)["data"]
    return [array.array("f", base64.b64decode(one["embedding"])) for one in data]


def cosine(a, b):
    def dot(x, y):
        return sum(map(operator.mul, x, y))

    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


async def embeddings(arguments, sides):
    for side in sides:
        side.start()
        await side.send_when_ready(traffic.EMBEDDINGS, {"input": ["ready"]})
    if len(sides) == 2:
        rng = random.Random(0)
        some = [words(rng, rng.randint(1, 4 * SENTENCE_WORDS)) for _ in range(COMPARED_SENTENCES)]
        least = min(map(cosine, *(vectors_of(side, some) for side in sides)))
        print(f"least cosine of the two sides' vectors of {len(some)} sentences: {least:.6f}")

    async def measure(side, seed):
        measured = {}
        for batch in arguments.batch:
            rng = random.Random(f"{batch} {seed}")
            done, begin = 0, time.monotonic()
            while time.monotonic() - begin < arguments.seconds:
                batch_now = [words(rng, SENTENCE_WORDS) for _ in range(batch)]
                await side.send(traffic.EMBEDDINGS, {"input": batch_now, "encoding_format": "base64"})
                done += batch
            measured[f"sentences/s, batches of {batch}"] = done / (time.monotonic() - begin)
        return measured

    return await in_turns(sides, arguments.pairs, measure)


def add_part(parts, run, pairs, model=system.CHAT, **sizes):
    part = parts.add_parser(run.__name__)
    part.add_argument("--model", default=model)
    part.add_argument("--pairs", type=int, default=pairs)
    for name, value in sizes.items():
        nargs = {"nargs": "+"} if isinstance(value, list) else {}
        kind = float if isinstance(value, float) else int
        part.add_argument(f"--{name}", type=kind, default=value, **nargs)
    part.set_defaults(run=run)


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peer", default="", help="URL of a server that runs")
    parser.add_argument("--peer-command", type=shlex.split, help="starts one, on {port} with {model}")
    parser.add_argument("--options", type=shlex.split, default=[], help="flags of our server")
    parser.add_argument("--threads", default="2", help="compute threads of our server")
    parts = parser.add_subparsers(dest="part", help="without one: all, of our server alone")
    add_part(parts, streams, pairs=4, streams=16, prompt=128, answer=128)
    add_part(parts, prefix, pairs=4, streams=16, shared=512, prompt=32, answer=16)
    add_part(parts, memory, pairs=1, streams=16, context=2048, answer=64, idle=5.0)
    add_part(parts, start, pairs=8)
    add_part(parts, embeddings, pairs=4, model=system.EMBED, batch=[1, 32], seconds=2.0)
    return parser, list(parts.choices)


def run(arguments):
    options = ["--engine-threads", arguments.threads, *arguments.options]
    sides = [Side("plimsoll", arguments.model, our_command(arguments.model, options))]
    if arguments.peer or arguments.peer_command:
        sides.append(Side("peer", arguments.model, arguments.peer_command, arguments.peer.rstrip("/")))
    try:
        asyncio.run(arguments.run(arguments, sides)).print()
    finally:
        for side in sides:
            side.stop()


def main():
    parser, parts = make_parser()
    arguments = parser.parse_args()
    if arguments.part:
        run(arguments)
        return
    if arguments.peer or arguments.peer_command:
        parser.error("name the part in which the peer is to be measured")
    for part in parts:
        print(f"== {part}")
        run(parser.parse_args(["--threads", arguments.threads, part]))


if __name__ == "__main__":
    main()
