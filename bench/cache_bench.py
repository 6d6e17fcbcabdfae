#!/usr/bin/env python3
"""What the cache on disk is worth, and what it costs, of the real server with a real model.

  cache_bench.py first-token    a long prompt's first token: computed, from memory, from disk after a
                                restart, from disk on another node that takes the folder over
  cache_bench.py trace          a seeded trace of conversations of several tenants, in a KV pool that
                                is too small for them: how much of the prompts was not computed
  cache_bench.py cost           prompts that never come again, with and without a cache, in turns:
                                throughput, and bytes written next to bytes stored

Needs a built binary (PLIMSOLL_BINARY) and the model (PLIMSOLL_MODELS). --folder says on which disk.
"""

import argparse
import asyncio
import hashlib
import json
import pathlib
import random
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.request

from sides import MIB, system, traffic

PATIENCE = 60
WORDS = ["ship", "harbour", "wind", "rope", "north", "sail", "deck", "load", "tide", "anchor",
         "mast", "captain", "storm", "cargo", "light", "coast"]


STARTED = []  # processes, so that none outlives this one


def serve(*options):
    server = system.Server(*map(str, options), models=(system.CHAT,))
    STARTED.append(server.process)
    return server


def words(rng, count):
    """About as many tokens."""
    return " ".join(rng.choice(WORDS) for _ in range(count))


class Door:
    """An OpenAI endpoint and its metrics."""

    def __init__(self, url):
        self.url = url

    def ask(self, prompt, tokens=8, key=""):
        body = {"model": system.CHAT, "prompt": prompt, "max_tokens": tokens, "temperature": 0,
                "stream": True, "stream_options": {"include_usage": True}}
        request = urllib.request.Request(
            f"{self.url}/v1/completions", json.dumps(body).encode(),
            {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}))
        text, first, usage = "", None, {}
        begin = time.monotonic()
        with urllib.request.urlopen(request, timeout=300) as stream:
            for line in stream:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                usage = event.get("usage") or usage
                for choice in event.get("choices", []):
                    first = first or time.monotonic() - begin
                    text += choice["text"]
        return text, first, usage

    def metric(self, name, **labels):
        with urllib.request.urlopen(f"{self.url}/metrics") as page:
            lines = page.read().decode().splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in lines
            if line.split("{")[0].split(" ")[0] == name
            and all(f'{key}="{value}"' in line for key, value in labels.items()))


class Cluster:
    """A router, and nodes that come and go."""

    def __init__(self, folder):
        self.folder, self.nodes = folder, {}
        self.router = self.start("router", "router", "--cluster-listen", "127.0.0.1:0",
                                 "--http-listen", "127.0.0.1:0", "--rpc-listen", "127.0.0.1:0")
        self.join = self.log_of("router", r"nodes +(\S+:\d+)")
        self.door = Door(self.log_of("router", r"OpenAI\s+(\S+)/v1"))

    def start(self, name, role, *options):
        with (self.folder / f"{name}.log").open("w") as log:
            STARTED.append(subprocess.Popen(
                [system.BINARY, role, "--model", system.CHAT, "--cluster-name", name,
                 "--cluster-state-directory", "", *map(str, options)], stdout=log, stderr=log))
        return STARTED[-1]

    def start_node(self, name, *options):
        self.nodes[name] = self.start(name, "node", "--join", self.join, *options)
        end = time.monotonic() + PATIENCE
        while not self.door.metric("plimsoll_node_ready", node=name):
            assert time.monotonic() < end, f"{name} is not ready"
            time.sleep(0.05)

    def end_node(self, name, how):
        process = self.nodes.pop(name)
        process.send_signal(how)
        process.wait(PATIENCE)

    def log_of(self, name, pattern):
        end = time.monotonic() + PATIENCE
        while not (found := re.findall(pattern, (self.folder / f"{name}.log").read_text())):
            assert time.monotonic() < end, f"{name}: no {pattern}"
            time.sleep(0.05)
        return found[-1]

    def close(self):
        for process in [*self.nodes.values(), self.router]:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)


def row(name, times, usages):
    cached = [u["prompt_tokens_details"]["cached_tokens"] for u in usages]
    print(f"{name:34} {statistics.median(times):7.3f} s   {min(times):.3f} to {max(times):.3f}   "
          f"{statistics.median(cached):6.0f} tokens from a cache")


def first_token(arguments, folder):
    prompts = [words(random.Random(seed), arguments.tokens) for seed in range(arguments.prompts)]
    others = [words(random.Random(1000 + i), 300) for i in range(2)]
    cache = folder / "cache"
    settled = ("--engine-context-tokens", "4096", "--cache-directory", cache)

    def ask_all(name, door, asked=prompts):
        for other in others:  # so that nothing is the first of its kind
            door.ask(other)
        answers = [door.ask(prompt) for prompt in asked]
        row(name, [a[1] for a in answers], [a[2] for a in answers])
        return [a[0] for a in answers], answers[0][2]["prompt_tokens"]

    server = serve(*settled)
    texts, tokens = ask_all("computed", Door(server.url))
    print(f"  (prompts of {tokens} tokens)")
    assert ask_all("from memory", Door(server.url))[0] == texts
    server.stop(60)
    server = serve(*settled)
    assert ask_all("from disk, after a restart", Door(server.url))[0] == texts
    server.stop(60)

    shutil.rmtree(cache)
    cluster = Cluster(folder)
    cluster.start_node("first", *settled)
    ask_all("computed, on a node", cluster.door)
    cluster.end_node("first", signal.SIGTERM)
    cluster.start_node("second", *settled)
    assert ask_all("from disk, on the next node", cluster.door)[0] == texts
    # A node that is killed leaves what it had written: what memory had no room for.
    cluster.end_node("second", signal.SIGTERM)
    shutil.rmtree(cache)
    small = (*settled, "--engine-kv-memory", "96MiB")
    cluster.start_node("third", *small)
    ask_all("computed, in a small pool", cluster.door)
    time.sleep(7)  # what is evicted is on the disk after five seconds at most
    cluster.end_node("third", signal.SIGKILL)
    cluster.start_node("fourth", *small)
    assert ask_all("from disk, after a kill", cluster.door, prompts[:-3])[0] == texts[:-3]
    cluster.close()


def key_of(tenant):
    return f"pk-{tenant}"


def write_tenants(folder, names):
    """The path of a configuration in which each of them has a key."""
    config = folder / "plimsoll.yaml"
    config.write_text("tenants:\n" + "".join(
        f"  - name: {name}\n    api_key_sha256: {hashlib.sha256(key_of(name).encode()).hexdigest()}\n"
        for name in names))
    return config


def conversations(seed, tenants, sessions, turns):
    """Turns of all sessions in a random order: (tenant, session, what the user says). A tenant's
    sessions begin with its own instructions; a session that is picked up again comes back soon or
    late, as people do."""
    rng = random.Random(seed)
    open_sessions = []
    for t in range(tenants):
        instructions = words(rng, rng.randint(100, 250))
        for s in range(sessions):
            says = [words(rng, min(200, int(rng.lognormvariate(4, 0.6)))) for _ in range(turns)]
            open_sessions.append((f"tenant-{t}", s, instructions, says))
    at = [0] * len(open_sessions)
    left = [i for i, session in enumerate(open_sessions) for _ in session[3]]
    recent = None
    while left:
        again = recent in left and rng.random() < 0.3
        index = recent if again else rng.choice(left)
        left.remove(index)
        tenant, session, instructions, says = open_sessions[index]
        yield tenant, (tenant, session), instructions, says[at[index]]
        at[index] += 1
        recent = index


def trace(arguments, folder):
    config = write_tenants(folder, [f"tenant-{t}" for t in range(arguments.tenants)])
    answers = {}
    for name, options in (("no cache on disk", ()), ("cache on disk", ("--cache-directory", folder / "cache"))):
        server = serve("--config", config, "--cluster-state-directory", "", "--engine-kv-memory",
                       arguments.kv, "--engine-context-tokens", "2048", *options)
        door = Door(server.url)
        histories, firsts, prompt, cached, per_tenant = {}, [], 0, 0, {}
        requests = 0
        for tenant, session, instructions, says in conversations(
                arguments.seed, arguments.tenants, arguments.sessions, arguments.turns):
            history = histories.get(session, instructions) + f"\nUser: {says}\nAnswer:"
            text, first, usage = door.ask(history, 24, key_of(tenant))
            assert answers.setdefault((session, history), text) == text, "a cache changed an answer"
            histories[session] = history + text
            firsts.append(first)
            hit = usage["prompt_tokens_details"]["cached_tokens"]
            prompt, cached, requests = prompt + usage["prompt_tokens"], cached + hit, requests + 1
            of = per_tenant.setdefault(tenant, [0, 0])
            of[0] += usage["prompt_tokens"]
            of[1] += hit
        shares = [100 * hit / all_ for all_, hit in per_tenant.values()]
        quantiles = statistics.quantiles(firsts, n=20)
        print(f"{name:18} {requests} requests, {prompt} prompt tokens, {100 * cached / prompt:.1f}% not "
              f"computed (tenants {min(shares):.0f} to {max(shares):.0f}%); first token p50 "
              f"{statistics.median(firsts):.3f} s, p95 {quantiles[-1]:.3f} s, sum {sum(firsts):.1f} s")
        if options:
            hits = door.metric("plimsoll_cache_lookups_total", kind="prefix", result="hit")
            print(f"  blocks from disk {hits:.0f}; evicted "
                  f"{door.metric('plimsoll_cache_lost_total', why='evicted'):.0f}; dropped "
                  f"{door.metric('plimsoll_cache_lost_total', why='dropped'):.0f}")
        server.stop(60)


def written_by(pid):
    """Bytes that a process wrote to a disk, and those of them that were deleted before."""
    io = dict(line.split(": ") for line in pathlib.Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(io["write_bytes"]) - int(io["cancelled_write_bytes"]), int(io["write_bytes"])


async def run_load(url, seed, requests, at_once, prompt_words):
    client = traffic.Client(url, key_of("bench"))
    rng = random.Random(seed)
    bodies = [{"model": system.CHAT, "prompt": words(rng, prompt_words), "max_tokens": 16,
               "temperature": 0, "stream": True} for _ in range(requests)]
    todo = iter(bodies)

    async def work():
        for body in todo:
            outcome = await client.send(traffic.COMPLETIONS, body, 300)
            assert outcome.state == "finished", outcome.why

    begin = time.monotonic()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return time.monotonic() - begin


def cost(arguments, folder):
    """Both servers are up all the time; they take turns, so that a disturbance meets both."""
    options = ("--config", write_tenants(folder, ["bench"]), "--cluster-state-directory", "",
               "--engine-kv-memory", "48MiB", "--engine-context-tokens", "1024")
    cache = ("--cache-directory", folder / "cache", "--cache-bytes", "1GiB")
    servers = {"off": serve(*options), "on": serve(*options, *cache)}
    load = (arguments.requests, 4, arguments.words)
    for number, server in enumerate(servers.values()):
        asyncio.run(run_load(server.url, 9_000 + number, *load))
    on = servers["on"]
    before = written_by(on.process.pid)
    accepted_before = Door(on.url).metric("plimsoll_cache_accepted_bytes_total")
    ratios = []
    for pair in range(arguments.pairs):
        order = ("off", "on") if pair % 2 == 0 else ("on", "off")
        took = {name: asyncio.run(run_load(servers[name].url, 100 + pair, *load)) for name in order}
        ratios.append(took["off"] / took["on"])
        print(f"pair {pair}: off {took['off']:.2f} s, on {took['on']:.2f} s, throughput {ratios[-1]:.3f}",
              flush=True)
    time.sleep(7)
    after = written_by(on.process.pid)
    door = Door(on.url)
    accepted = door.metric("plimsoll_cache_accepted_bytes_total") - accepted_before
    print(f"throughput with the cache {statistics.median(ratios):.3f} of that without (median of "
          f"{len(ratios)}; {min(ratios):.3f} to {max(ratios):.3f})")
    print(f"accepted {accepted / MIB:.0f} MiB; written {(after[1] - before[1]) / MIB:.0f} MiB, "
          f"{(after[1] - before[1]) / accepted:.3f} times; hits "
          f"{door.metric('plimsoll_cache_lookups_total', kind='prefix', result='hit'):.0f}, dropped "
          f"{door.metric('plimsoll_cache_lost_total', why='dropped'):.0f}")
    for server in servers.values():
        server.stop(60)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", help="where caches lie; default: the system's temporary folder")
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("first-token")
    part.add_argument("--tokens", type=int, default=2000)
    part.add_argument("--prompts", type=int, default=6)
    part.set_defaults(run=first_token)
    part = parts.add_parser("trace")
    part.add_argument("--seed", type=int, default=1)
    part.add_argument("--tenants", type=int, default=5)
    part.add_argument("--sessions", type=int, default=4)
    part.add_argument("--turns", type=int, default=5)
    part.add_argument("--kv", default="64MiB")
    part.set_defaults(run=trace)
    part = parts.add_parser("cost")
    part.add_argument("--pairs", type=int, default=8)
    part.add_argument("--requests", type=int, default=12)
    part.add_argument("--words", type=int, default=400)
    part.set_defaults(run=cost)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="cache-bench-") as folder:
        try:
            arguments.run(arguments, pathlib.Path(folder))
        finally:
            for process in STARTED:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
