"""Memory that is not the tenants': a leak, and a neighbour in the group that eats and gives back."""

import asyncio
import pathlib
import random
import re
import time

import pytest

import hostile
from drill import MIB, Drill, tenant_entry
from groups import Eater, Group
from traffic import CHAT as CHAT_PATH
from traffic import COMPLETIONS

pytestmark = pytest.mark.usefixtures("limited")
LEAK_BYTES_PER_SECOND = MIB

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


FEASTS = [("same group", 8), ("group above", 8)]
SLOW_FEASTS = [("same group", 1)]  # takes minutes


def pytest_generate_tests(metafunc):
    if "feast" in metafunc.fixturenames:
        feasts = FEASTS + (SLOW_FEASTS if metafunc.config.getoption("--long") else [])
        names = [f"{where} at {rate} MiB a second" for where, rate in feasts]
        metafunc.parametrize("feast", feasts, ids=names)


def test_a_neighbour_eats_and_gives_back(tmp_path, feast):
    where, rate_mib = feast
    limit = 256 * MIB
    with Group(where.replace(" ", "-"), limit) as outer:
        group = outer
        if where == "group above":
            group = Group("server", None, parent=outer)
            eaters = Group("eater", None, parent=outer)
        try:
            eat_and_give_back(
                tmp_path, outer, group, eaters if where == "group above" else outer, limit, rate_mib
            )
        finally:
            if where == "group above":
                eaters.remove()
                group.remove()


def anonymous_bytes(process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024


def eat_and_give_back(tmp_path, outer, group, eaters, limit, rate_mib):
    server = Drill(tmp_path, group, [tenant_entry("innocent")], engine_kv_memory="96MiB")
    eater = Eater(eaters)
    client = server.client("innocent")
    rng = random.Random(1)

    def levels():
        return [e["level"] for e in server.events() if e["kind"] == "level"]

    def eat_until_left(left, rate_mib):
        """In bites, none of which is enough for the next level; returns when the limit would be
        reached at that rate."""
        while outer.unreclaimable_bytes() < limit - left:
            next_at = time.monotonic() + 1 / rate_mib
            assert eater.eat(MIB), "the eater was killed"
            time.sleep(max(0, next_at - time.monotonic()))
        return time.time() + (limit - outer.unreclaimable_bytes()) / (rate_mib * MIB)

    try:
        # Something that can be shrunk.
        prompts = [hostile.completion(hostile.tokens(rng, 500), 1, stream=False) for _ in range(3)]
        for prompt in prompts:
            assert asyncio.run(client.send(COMPLETIONS, prompt)).state == "finished"
        full = anonymous_bytes(server.process)
        eat_until_left(110 * MIB, 8)
        assert wait_for(lambda: levels()[-1:] in ([], ["green"]), 30), levels()
        eat_until_left(20 * MIB, rate_mib)
        chat = asyncio.run(client.send_until_taken(CHAT_PATH, hostile.chat(rng)))
        assert chat.state == "finished", chat
        reached = eat_until_left(14 * MIB, rate_mib)
        assert wait_for(lambda: "red" in levels(), 10), levels()
        events = server.events()
        shrunk = anonymous_bytes(server.process)
        relieved = time.time()
        assert eater.give_back()
        assert wait_for(lambda: levels()[-1] == "green", 30), levels()
        recovery = time.time() - relieved
        chat = asyncio.run(client.send_until_taken(CHAT_PATH, hostile.chat(rng)))
        assert chat.state == "finished", chat

        last_green = max(
            (i for i, e in enumerate(events) if e["kind"] == "level" and e["level"] == "green"),
            default=-1,
        )
        climb = events[last_green + 1 :]
        # By when it last climbed there: shrunk caches made room for some more bites.
        began = {e["level"]: e["unix_seconds"] for e in climb if e["kind"] == "level"}
        leads = {level: reached - at for level, at in began.items()}
        evicted = sum(e["bytes"] for e in events if e["kind"] == "evict")
        print(
            f"\nat {rate_mib} MiB/s: "
            + ", ".join(f"{level} {lead:.1f} s before the limit" for level, lead in leads.items())
            + f"; green {recovery:.1f} s after the end; "
            f"evicted {evicted / MIB:.1f} MiB, anonymous memory fell by {(full - shrunk) / MIB:.1f}"
        )
        first = [e["level"] for e in climb if e["kind"] == "level"]
        assert list(dict.fromkeys(first)) == ["yellow", "orange", "red"], first
        assert leads["yellow"] > leads["orange"] > leads["red"] > 0, leads
        kinds = [e["kind"] for e in events]
        assert "evict" in kinds, kinds
        assert not {"preempt", "cancel"} & set(kinds[: kinds.index("evict")]), kinds
        # What was given up is the kernel's again, and not the allocator's or the pool's.
        assert evicted > 16 * MIB
        assert full - shrunk > 0.8 * evicted, (full, shrunk, evicted)
        assert outer.oom_kills() == 0 and server.alive()
    finally:
        eater.end()
        server.end()
