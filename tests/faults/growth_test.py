"""Memory that is not the tenants': a leak, and a neighbour in the group that eats and gives back."""

import asyncio
import random
import re
import subprocess
import sys
import time

import pytest

import hostile
from drill import MIB, Drill, tenant_entry
from groups import Group
from traffic import CHAT as CHAT_PATH
from traffic import COMPLETIONS

pytestmark = pytest.mark.usefixtures("limited")
LEAK_BYTES_PER_SECOND = MIB

# Takes, and keeps, as many bytes as the number on each line says; gives all back at "0".
EATER = """
import mmap, sys
eaten = []
for line in sys.stdin:
    size = int(line)
    if size:
        eaten.append(mmap.mmap(-1, size))
        eaten[-1].write(b"e" * size)
    else:
        while eaten:
            eaten.pop().close()
    print("done", flush=True)
"""


class Eater:
    def __init__(self, group):
        self.process = subprocess.Popen(
            group.enter([sys.executable, "-c", EATER]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def eat(self, size):
        self.process.stdin.write(f"{size}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline() == "done\n"

    def give_back(self):
        return self.eat(0)

    def end(self):
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


def wait_for(what, timeout):
    """What `what` returns, once it is true; None after the time."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.25)
    return None


def test_a_leak_is_told_a_minute_before_the_limit(tmp_path):
    limit = 256 * MIB
    with Group("leak", limit) as group:
        switches = {"PLIMSOLL_FAULT_LEAK": str(LEAK_BYTES_PER_SECOND)}
        server = Drill(tmp_path, group, switches=switches, engine_kv_memory="32MiB")
        began = time.monotonic()
        try:
            alarm = wait_for(
                lambda: next((e for e in server.events() if e["kind"] == "alarm"), None), 90
            )
            assert alarm, server.log_text()[-2000:]
            lead = (limit - group.unreclaimable_bytes()) / LEAK_BYTES_PER_SECOND
            said = float(re.search(r"(\d+) s before the limit", alarm["cause"])[1])
            print(f"\nalarm after {time.monotonic() - began:.0f} s, {lead:.0f} s before the limit")
            print(" ", alarm["cause"])
            assert lead >= 60
            assert 0.7 * lead <= said <= 1.3 * lead, (said, lead)
            assert group.oom_kills() == 0
        finally:
            server.end()


@pytest.mark.parametrize("where", ["same group", "group above"])
def test_a_neighbour_eats_and_gives_back(tmp_path, where):
    limit = 256 * MIB
    with Group(where.replace(" ", "-"), limit) as outer:
        group = outer
        if where == "group above":
            group = Group("server", None, parent=outer)
            eaters = Group("eater", None, parent=outer)
        try:
            feast(tmp_path, outer, group, eaters if where == "group above" else outer, limit)
        finally:
            if where == "group above":
                eaters.remove()
                group.remove()


def feast(tmp_path, outer, group, eaters, limit):
    server = Drill(tmp_path, group, [tenant_entry("innocent")], engine_kv_memory="96MiB")
    eater = Eater(eaters)
    client = server.client("innocent")
    rng = random.Random(1)
    try:
        # Something that can be shrunk.
        prompts = [hostile.completion(hostile.tokens(rng, 500), 1, stream=False) for _ in range(3)]
        for prompt in prompts:
            assert asyncio.run(client.send(COMPLETIONS, prompt)).state == "finished"
        began = time.monotonic()
        orange = None

        def levels():
            return [e["level"] for e in server.events() if e["kind"] == "level"]

        while outer.unreclaimable_bytes() < limit - 14 * MIB:
            assert eater.eat(4 * MIB), "the eater was killed"
            time.sleep(0.5)
            if orange is None and "orange" in levels():
                orange = time.monotonic()
                chat = asyncio.run(client.send(CHAT_PATH, hostile.chat(rng)))
                assert chat.state == "finished", chat
        assert wait_for(lambda: "red" in levels(), 10), levels()
        reached = time.monotonic()
        climb = levels()[: levels().index("red") + 1]
        assert eater.give_back()
        relieved = time.monotonic()
        assert wait_for(lambda: levels()[-1] == "green", 30), levels()
        recovery = time.monotonic() - relieved
        chat = asyncio.run(client.send_until_taken(CHAT_PATH, hostile.chat(rng)))
        print(
            f"\nlevels {levels()}; orange {reached - (orange or reached):.1f} s before 14 MiB were "
            f"left, after {reached - began:.1f} s of eating; green {recovery:.1f} s after the end"
        )
        assert chat.state == "finished", chat
        # It may come down a rung on the way, where shrunk caches made room for the next bites.
        assert list(dict.fromkeys(climb)) == ["yellow", "orange", "red"], climb
        assert orange is not None
        kinds = [e["kind"] for e in server.events()]
        assert "evict" in kinds, kinds
        assert not {"preempt", "cancel"} & set(kinds[: kinds.index("evict")]), kinds
        assert outer.oom_kills() == 0 and server.alive()
    finally:
        eater.end()
        server.end()
