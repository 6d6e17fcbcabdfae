"""`plimsoll memory` and /metrics against the kernel's own figures."""

import json
import pathlib
import urllib.request
from concurrent.futures import ThreadPoolExecutor


def smaps(pid):
    figures = {}
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, value = line.split(":")
        figures[key] = int(value.split()[0]) * 1024
    return figures


def report(server):
    return json.loads(server.cli("memory", "-o", "json").stdout)


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
    assert abs(memory["unattributed_bytes"]) < 0.10 * memory["rss_bytes"], memory


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
