"""Random configurations under random hostile loads, in a group in which the kernel really kills, and
of which a neighbour has taken so much that little is left: it shall not have to, and whoever behaves shall not notice. And the proof that this can fail."""

import asyncio
import contextlib
import random
import re
import time
from dataclasses import dataclass

import pytest

import hostile
from drill import CHAT, EMBED, MIB, Drill, Refused, own_model_files, tenant_entry
from groups import Eater, Group

pytestmark = pytest.mark.usefixtures("limited")
SHORT, LONG = 6, 200


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        config = metafunc.config
        count = LONG if config.getoption("--long") else SHORT
        first = config.getoption("--first-seed")
        metafunc.parametrize("seed", range(first, first + count))


@dataclass
class Setup:
    limit_mib: int
    settings: dict
    hostile: dict  # tenant -> tier
    loads: list  # (tenant, what it does)
    embeds: bool
    own_files: bool
    seconds: float
    left_share: float | None = None  # of the limit, by a neighbour, before it begins


def random_setup(seed):
    rng = random.Random(seed)
    context = rng.choice([1024, 2048, 4096, 8192])
    step = rng.choice([64, 128, 256, 512])
    embeds = rng.random() < 0.25
    settings = {
        "engine_context_tokens": context,
        "engine_step_tokens": step,
        "engine_chunk_tokens": min(step, rng.choice([64, 128, 256])),
        "engine_max_batch": rng.choice([4, 8, 16, 32, 64]),
        "engine_block_tokens": rng.choice([16, 32]),
        "engine_kv_type": rng.choice(["bf16", "f16", "int8", "int4"]),
        "engine_prefix_sharing": rng.choice(["true", "true", "false"]),
        "engine_queue_length": rng.choice([32, 256, 1024]),
        "http_body_limit": rng.choice(["1MiB", "8MiB"]),
    }
    tenants = {f"hostile{i}": rng.choice(["standard", "best-effort"]) for i in range(rng.randint(1, 3))}
    kinds = [kind for kind in hostile.KINDS if embeds or kind is not hostile.embedding_batches]
    loads = [(rng.choice(list(tenants)), rng.choice(kinds)) for _ in range(rng.randint(2, 4))]
    return Setup(
        limit_mib=rng.choice([80, 88, 96, 112, 128]) + (96 if embeds else 0),
        settings=settings,
        hostile=tenants,
        loads=loads,
        embeds=embeds,
        own_files=rng.random() < 0.5,
        seconds=rng.uniform(5, 8),
        left_share=rng.uniform(0.22, 0.40),
    )


def start(setup, folder, name, tenants, models, settings):
    """(server, group). The server has as much KV memory as its plan agrees to; where the plan does
    not agree at all, the group gets the limit that it asks for, which is as tight as can be."""
    for _ in range(3):
        group = Group(name, setup.limit_mib * MIB)
        try:
            return Drill(folder, group, tenants, models, **settings), group
        except Refused as e:
            group.remove()
            wanted = re.search(r"raise the limit to (\d+) MiB", str(e))
            if not wanted:
                raise
            setup.limit_mib = int(wanted[1])
        except BaseException:
            group.remove()
            raise
    raise AssertionError(f"what the plan asks for is not enough: {setup}")


def untouched_bytes(server):
    """What it has promised itself beside KV, and will come to use: nobody can shed that."""
    rows = server.memory()["rows"]
    return sum(
        row["bytes"] - row["resident_bytes"]
        for row in rows
        if row["kind"] == "anonymous" and row["component"] != "kv"
    )


async def watch(group, figures):
    while True:
        figures.append(group.unreclaimable_bytes())
        await asyncio.sleep(0.05)


async def storm(setup, server, group, rng):
    """(outcomes of the innocents, the highest use that was seen)"""
    context = setup.settings["engine_context_tokens"]
    figures = []
    tasks = [asyncio.create_task(watch(group, figures))]
    for tenant, kind in setup.loads:
        more = {}
        if kind in (hostile.huge_bodies, hostile.half_bodies):
            more["limit_bytes"] = int(setup.settings["http_body_limit"][:-3]) * MIB
        load = kind(server.client(tenant), random.Random(rng.random()), context, **more)
        tasks.append(asyncio.create_task(load))
    end = time.monotonic() + setup.seconds
    over = lambda: time.monotonic() >= end or not server.alive()
    innocents = [
        hostile.innocents(server.client(name), random.Random(rng.random()), over)
        for name in ("innocent0", "innocent1")
    ]
    waits = asyncio.gather(*innocents)
    while not over():
        await asyncio.sleep(0.05)
    for task in tasks[1:]:
        task.cancel()
    outcomes = await waits
    tasks[0].cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    wrong = [e for e in done if isinstance(e, Exception) and not isinstance(e, OSError)]
    assert not wrong, wrong  # of the test itself
    return [o for each in outcomes for o in each], max(figures)


@contextlib.contextmanager
def drill(setup, folder, name, switches=None):
    tenants = [tenant_entry(f"innocent{i}") for i in range(2)]
    tenants += [tenant_entry(tenant, tier, sequences=1000) for tenant, tier in setup.hostile.items()]
    model = own_model_files(folder) if setup.own_files else CHAT
    models = (model, EMBED) if setup.embeds else (model,)
    settings = {**setup.settings, "drain_deadline": "1s", "switches": switches}
    server, group = start(setup, folder, name, tenants, models, settings)
    eater = None
    with group:
        try:
            if setup.left_share:
                # Else seconds would not be enough to fill the group.
                eater = Eater(group)
                eater.give_back()  # it runs
                left = int(setup.left_share * setup.limit_mib * MIB) + untouched_bytes(server)
                eaten = setup.limit_mib * MIB - group.unreclaimable_bytes() - left
                assert eaten <= 0 or eater.eat(eaten)
            yield server, group
        finally:
            server.end()
            if eater:
                eater.end()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


def test_nothing_is_killed_and_no_innocent_aborted(seed, folder):
    setup = random_setup(seed)
    with drill(setup, folder, f"oom{seed}") as (server, group):
        innocents, most = asyncio.run(storm(setup, server, group, random.Random(seed)))
        states = [o.state for o in innocents]
        told = (
            f"seed {seed}: {setup.limit_mib} MiB, peak {most / MIB / setup.limit_mib:.0%}, "
            f"{group.limit_hits()} limit hits, {group.oom_kills()} kills; "
            f"{[f'{tenant}:{kind.__name__}' for tenant, kind in setup.loads]}; "
            f"innocents {({state: states.count(state) for state in set(states)})}, "
            f"refused first {sum(o.tries > 1 for o in innocents)}"
        )
        print("\n" + told)
        assert group.oom_kills() == 0, told + server.log_text()[-4000:]
        assert server.alive(), told + server.log_text()[-4000:]
        levels = [e["level"] for e in server.events() if e["kind"] == "level"]
        print("  levels", levels)
        bad = [(o.state, o.status, o.why) for o in innocents if o.state != "finished"]
        assert not bad, (told, bad, server.log_text()[-4000:])
        assert innocents
        assert server.stop(30) == 0


# Fills its KV pool within seconds, and buffers besides.
CULPRIT = Setup(
    limit_mib=128,
    settings={
        "engine_context_tokens": 2048,
        "engine_step_tokens": 256,
        "engine_max_batch": 32,
        "engine_kv_type": "bf16",
        "http_body_limit": "8MiB",
    },
    hostile={"hostile0": "standard"},
    loads=[("hostile0", hostile.long_prompts), ("hostile0", hostile.huge_bodies)],
    embeds=False,
    own_files=False,
    seconds=20,
    left_share=0.3,  # the plan alone would keep it below the limit
)


@pytest.mark.parametrize("governor", ["off", "on"])
def test_with_the_governor_off_the_kernel_kills(governor, folder):
    with drill(CULPRIT, folder, governor, {"PLIMSOLL_FAULT_GOVERNOR": governor}) as (server, group):
        _, most = asyncio.run(storm(CULPRIT, server, group, random.Random(1)))
        print(
            f"\ngovernor {governor}: peak {most / MIB / CULPRIT.limit_mib:.0%}, "
            f"{group.limit_hits()} limit hits, {group.oom_kills()} kills"
        )
        assert ("event=fire_drill" in server.log_text()) == (governor == "off")
        assert (group.oom_kills() > 0) == (governor == "off"), server.log_text()[-4000:]
        assert server.alive() == (governor == "on")
