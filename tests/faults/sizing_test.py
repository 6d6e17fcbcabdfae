"""The plan that a server prints against what it comes to, when each part of its memory is driven to
its bound: KV pool, steps, connections, requests."""

import asyncio
import random
from dataclasses import dataclass

import pytest

import bounds
from drill import CHAT, EMBED, MIB, Drill, Refused, tenant_entry

TENANTS = [f"t{i}" for i in range(30)]  # each gets a 31st of the memory for requests


@dataclass
class Case:
    context: int = 512
    step: int = 256
    batch: int = 16
    kv_type: str = "bf16"
    kv: str = "16MiB"
    limit: str = "128MiB"
    connections: int = 96
    embeds: bool = False

    def __str__(self):
        return "-".join(str(value) for value in vars(self).values())

    @property
    def token_bytes(self):  # of SmolLM2-135M
        rows = 2 * 30 * 3
        return rows * {"bf16": 2 * 64, "int8": 64 + 2, "int4": 64 / 2 + 2 * 4}[self.kv_type]

    def settings(self):
        return {
            "memory_limit": self.limit,
            "engine_kv_memory": self.kv,
            "engine_kv_type": self.kv_type,
            "engine_context_tokens": self.context,
            "engine_step_tokens": self.step,
            "engine_chunk_tokens": self.step,
            "engine_max_batch": self.batch,
            "engine_queue_length": 4000,
            "engine_ttft_objective": "100h",
            "http_body_limit": "1MiB",
            "http_connections": self.connections,
            "rpc_connections": 4,
            "http_header_timeout": "120s",
            "http_write_timeout": "120s",
        }


SHORT = [
    Case(),
    Case(kv="auto", kv_type="int8", limit="80MiB", step=128, batch=8),
    Case(kv_type="int4", kv="8MiB"),
    Case(embeds=True, limit="192MiB"),
]
LONG = [
    Case(step=512, batch=48, kv="32MiB"),
    Case(context=1024, step=64, batch=4, kv="24MiB"),
    Case(kv_type="int8", kv="12MiB"),
    Case(kv="auto", limit="96MiB", step=128, batch=8),
] + [
    Case(context=context, step=step, batch=batch, kv_type=kv_type, kv=kv, limit=limit, embeds=embeds)
    for context, step, batch in ((512, 128, 8), (2048, 512, 32), (4096, 1024, 128))
    for kv_type in ("bf16", "int8", "int4")
    for kv, limit in (("auto", "256MiB"), ("128MiB", "384MiB"))
    for embeds in (False, True)
]


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        cases = SHORT + (LONG if metafunc.config.getoption("--long") else [])
        metafunc.parametrize("case", cases, ids=str)


async def drive(case, server, plan, anonymous):
    rng = random.Random(1)
    client = server.client(TENANTS[0])
    pool_tokens = int(plan[("kv", CHAT)] / case.token_bytes)
    await bounds.fill_pool(client, rng, min(case.context, pool_tokens), pool_tokens)
    await bounds.most_logits(client, rng, case.context)
    held = bounds.Held(client)
    try:
        if case.embeds:
            await bounds.largest_embeddings(client, rng, case.context)
        await held.connections(case.connections - 2 * len(TENANTS) - 4, 16384)
        await asyncio.sleep(0.5)
        for tenant in TENANTS:
            share = plan[("requests",)] / (len(TENANTS) + 1)
            await held.requests(rng, server.client(tenant), share, case.context)
        await bounds.holds_requests(server, 0.9 * plan[("requests",)])
        await bounds.settled(anonymous)
    finally:
        held.close()


def test_the_plan_is_what_it_comes_to(case, tmp_path):
    tenants = [tenant_entry(tenant, sequences=4000) for tenant in TENANTS]
    models = (CHAT, EMBED) if case.embeds else (CHAT,)
    # Nothing is to be given up meanwhile.
    switches = {"PLIMSOLL_FAULT_GOVERNOR": "off"}
    server = Drill(tmp_path, None, tenants, models, switches, **case.settings())
    try:
        plan = bounds.plan_of(server.welcome)
        anonymous = bounds.Anonymous(server.process.pid)
        asyncio.run(drive(case, server, plan, anonymous))
        peak = anonymous.stop()
        told = f"planned {plan[('= peak',)] / MIB:.1f} MiB, came to {peak / MIB:.1f} MiB"
        print(f"\n{case}: {told}, {plan[('= peak',)] / peak - 1:+.1%}")
        assert abs(plan[("= peak",)] / peak - 1) <= 0.05, told + "\n" + server.welcome
    finally:
        server.end()


def test_a_full_pool_does_not_shed(tmp_path):
    """With everything left to the plan: the limit is all that an operator gives."""
    settings = {"memory_limit": "128MiB", "engine_ttft_objective": "100h"}
    server = Drill(tmp_path, None, [tenant_entry("t0")], **settings)
    try:
        plan = bounds.plan_of(server.welcome)
        tokens = int(plan[("kv", CHAT)] / Case().token_bytes)
        client = server.client("t0")
        asyncio.run(bounds.fill_pool(client, random.Random(1), min(1024, tokens), tokens))
        events = server.events()
        kinds = {event["kind"] for event in events}
        print("\nfull:", [(event["level"], event["kind"], event["cause"]) for event in events])
        assert not {"preempt", "cancel", "refuse", "evict", "purge"} & kinds, events
        levels = {event["level"] for event in events if event["kind"] == "level"}
        assert levels <= {"green", "yellow"}, events
    finally:
        server.end()


def test_a_limit_that_is_too_small_says_what_would_do(tmp_path):
    with pytest.raises(Refused) as refused:
        Drill(tmp_path, None, memory_limit="72MiB")
    said = str(refused.value)
    assert "the plan needs" in said and "of 72 MiB, memory_limit" in said, said
    batch = int(said.split("engine.max_batch to ")[1].split(",")[0].split(" ")[0])
    step = int(said.split("engine.chunk_tokens to ")[1].split(",")[0].split(" ")[0])
    settings = {"engine_max_batch": batch, "engine_step_tokens": step, "engine_chunk_tokens": step}
    server = Drill(tmp_path, None, memory_limit="72MiB", **settings)
    server.end()
