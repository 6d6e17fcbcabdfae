"""`plimsoll memory` and /metrics against the kernel's own figures."""

import hashlib
import json
import pathlib
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import conftest
import pytest


def smaps(pid):
    figures = {}
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, value = line.split(":")
        figures[key] = int(value.split()[0]) * 1024
    return figures


def report(server, *options):
    return json.loads(server.cli("memory", "-o", "json", *options).stdout)


def load(server, streams):
    with ThreadPoolExecutor(streams) as pool:
        words = ("-n", "48", "-t", "0.8")
        jobs = [
            pool.submit(server.cli, "generate", f"Story number {i} of the sea. " * 20, *words)
            for i in range(streams)
        ]
        assert all(job.result().returncode == 0 for job in jobs)


def test_the_ledger_explains_what_the_kernel_sees(server):
    load(server, 8)
    memory = report(server)
    kernel = smaps(server.process.pid)
    assert abs(memory["rss_bytes"] - kernel["Rss"]) < 0.05 * kernel["Rss"]
    assert abs(memory["anonymous_bytes"] - kernel["Anonymous"]) < 0.05 * kernel["Rss"]
    assert (
        memory["unattributed_bytes"]
        == memory["anonymous_bytes"] - memory["ledger_touched_bytes"]
    )


TENANTS = {"search": "pk-search", "support": "pk-support", "batch": "pk-batch", "ops": "pk-ops"}


@pytest.fixture
def shared_server(tmp_path):
    """Several tenants, with keys; `ops` is the operator."""
    conftest.need_models(conftest.CHAT, conftest.EMBED)
    config = tmp_path / "plimsoll.yaml"
    entries = "".join(
        f"  - name: {name}\n    api_key_sha256: {hashlib.sha256(key.encode()).hexdigest()}\n"
        f"    operator: {'true' if name == 'ops' else 'false'}\n"
        for name, key in TENANTS.items()
    )
    config.write_text("tenants:\n" + entries)
    running = conftest.Server("--config", str(config))
    yield running
    assert running.stop() == 0, running.log_text()


def call(server, key, path, body):
    """Reads the whole answer, streamed or not."""
    request = urllib.request.Request(
        server.url + path,
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer " + key},
    )
    with urllib.request.urlopen(request, timeout=180) as answer:
        return answer.read()


def mixed_load(server, round_number):
    def chat(key, number, stream):
        messages = [{"role": "user", "content": f"Tell story {number} of round {round_number}."}]
        body = {"model": conftest.CHAT, "messages": messages, "max_tokens": 40, "stream": stream}
        return call(server, key, "/v1/chat/completions", body)

    def complete(key, number, words):
        prompt = f"Ship {number}, voyage {round_number}. " + "".join(
            f"Day {day}: the sea was calm. " for day in range(words)
        )
        body = {"model": conftest.CHAT, "prompt": prompt, "max_tokens": 24}
        return call(server, key, "/v1/completions", body)

    def embed(key, number):
        texts = [f"Cargo {number}.{i}" * 8 for i in range(16)]
        return call(server, key, "/v1/embeddings", {"model": conftest.EMBED, "input": texts})

    with ThreadPoolExecutor(8) as pool:
        jobs = []
        for i, key in enumerate(list(TENANTS.values()) * 2):
            jobs.append(pool.submit(chat, key, i, i % 2 == 0))
            jobs.append(pool.submit(complete, key, i, 4))
            jobs.append(pool.submit(embed, key, i))
        jobs.append(pool.submit(complete, TENANTS["batch"], 99, 200))
        for job in jobs:
            yield report(server, "--api-key", TENANTS["ops"])
            job.result()


def test_under_a_mixed_load_hardly_anything_is_unattributed(shared_server):
    shares = []
    for number in range(2):
        shares += [
            (abs(m["unattributed_bytes"]) / m["anonymous_bytes"], m)
            for m in mixed_load(shared_server, number)
        ]
    # The first ones are of a server that has done nothing yet.
    loaded = sorted(shares[len(shares) // 4 :], key=lambda pair: pair[0])
    after = report(shared_server, "--api-key", TENANTS["ops"])
    assert abs(after["unattributed_bytes"]) <= 0.03 * after["anonymous_bytes"], after
    # The kernel's figures and the ledger's are not of the same instant while there is load.
    assert loaded[len(loaded) * 9 // 10][0] <= 0.03, [round(share, 4) for share, _ in loaded]
    endpoints = {row["endpoint"] for row in after["rows"] if row["peak_bytes"] > 0}
    assert {"chat_completions", "completions", "embeddings"} <= endpoints
    tenants = {row["tenant"] for row in after["rows"] if row["component"] == "kv"}
    assert set(TENANTS) <= tenants


def test_rows_name_components_models_and_tenants(server):
    load(server, 1)
    rows = report(server)["rows"]
    by_component = {}
    for row in rows:
        by_component[row["component"]] = by_component.get(row["component"], 0) + row["bytes"]
    for component in ("weights", "kv", "activations", "tokenizer"):
        assert by_component.get(component, 0) > 0, component
    assert any(r["component"] == "requests" and r["tenant"] == "local" and r["peak_bytes"] > 0
               for r in rows)
    weights = [r for r in rows if r["component"] == "weights"]
    assert all(r["kind"] == "mapped" for r in weights if r["bytes"] > 0)


def test_requests_are_returned_when_they_end(server):
    load(server, 4)
    rows = report(server)["rows"]
    left = sum(r["bytes"] for r in rows if r["component"] in ("requests", "queues"))
    assert left == 0, [r for r in rows if r["component"] in ("requests", "queues")]


def test_steady_load_does_not_grow(server):
    def outside_kv():
        """The prefix cache may fill its budget; everything else stays as it was."""
        memory = report(server)
        kv = sum(r["resident_bytes"] for r in memory["rows"] if r["component"] == "kv")
        return memory["anonymous_bytes"] - kv

    load(server, 8)
    before = outside_kv()
    for _ in range(3):
        load(server, 8)
    after = outside_kv()
    assert after - before < 16 << 20, (before, after)


def test_metrics_hold_the_same_ledger(server):
    text = urllib.request.urlopen(server.url + "/metrics", timeout=10).read().decode()
    lines = [l for l in text.splitlines() if l.startswith("plimsoll_memory_bytes{")]
    assert any('component="weights"' in l and 'kind="mapped"' in l for l in lines)
    assert any('component="unattributed"' in l for l in lines)


def test_the_table_is_for_people(server):
    text = server.cli("memory").stdout
    for word in ("COMPONENT", "local", "weights", "kv", "unattributed", "RSS", "PSS"):
        assert word in text
    assert "TENANT" in server.cli("memory", "--by", "tenant").stdout
