"""Scorecards: short runs against a real model, from a mix and from traces."""

import json
import subprocess

from conftest import BINARY, CHAT


def run(server, tmp_path, name, *words):
    card = tmp_path / f"{name}.json"
    done = server.cli("scorecard", *words, "--save", str(card))
    assert done.returncode == 0, done.stderr
    return json.loads(card.read_text()), done.stdout


def compare(tmp_path, *words):
    return subprocess.run(
        [BINARY, "scorecard", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), *words],
        capture_output=True, text=True,
    )


def test_a_mix_is_sent_measured_and_compared(server, tmp_path):
    words = ("--mix", "agents", "--rate", "5", "--limit", "6", "--length-scale", "0.1")
    a, text = run(server, tmp_path, "a", *words, "--quality", "--machine-price-hour", "1")
    assert a["schema"] == "plimsoll.scorecard/1"
    assert a["requests"]["finished"] == a["requests"]["due"] == 6
    assert a["conditions"]["model"]["version"].startswith(CHAT + "@")
    assert a["latency"]["ttft"]["p99_ms"] >= a["latency"]["ttft"]["p50_ms"] > 0
    assert a["latency"]["itl"]["count"] == a["requests"]["generated_tokens"] - 6
    memory = a["memory"]
    assert memory["anonymous"]["peak_bytes"] >= memory["anonymous"]["before_bytes"] > 0
    assert memory["components"]["kv"]["peak_bytes"] > 0
    assert a["tenants"][0]["requests"] == 6 and a["tenants"][0]["kv_byte_seconds"] > 0
    assert a["offenders"]["kv_byte_seconds_per_token"][0]["tenant"] == a["tenants"][0]["tenant"]
    assert a["cost"]["per_1000_requests"] > 0
    # English, by a model that knows it.
    assert 5 < a["quality"]["perplexity"] < 60 and a["quality"]["tasks_right"] >= 8
    assert "perplexity" in text and "BIGGEST OFFENDERS" in text

    b, _ = run(server, tmp_path, "b", *words, "--quality")
    assert b["fingerprint"] == a["fingerprint"]
    done = compare(tmp_path, "--fail-if", "task_agreement<0.5", "--fail-if", "p50_ttft>1000")
    assert done.returncode == 0, done.stdout
    assert "prices.machine_hour: 1.0 -> 0.0" in done.stdout
    failed = compare(tmp_path, "--fail-if", "peak_anonymous>0.01", "-o", "json")
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["failed"] == ["peak_anonymous>0.01"]
    assert compare(tmp_path, "--fail-if", "p50_tfft>1").returncode == 2


def test_an_azure_trace(server, tmp_path):
    trace = tmp_path / "azure.csv"
    trace.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.9799600,48,3\n"
        "2023-11-16 18:17:04.0319600,37,4\n"
        "2023-11-16 18:17:04.0781000,60,5\n"
    )
    card, text = run(server, tmp_path, "a", "--trace", str(trace), "--length-scale", "0.5")
    assert card["requests"]["finished"] == 3
    assert card["requests"]["generated_tokens"] == 2 + 2 + 3
    assert "trace azure.csv" in text


def test_a_mooncake_trace_shares_its_blocks(server, tmp_path):
    trace = tmp_path / "mooncake.jsonl"
    trace.write_text("".join(
        json.dumps({"timestamp": 2000 * i, "input_length": 1100, "output_length": 8,
                    "hash_ids": [900, 901, 902 + i]}) + "\n"
        for i in range(3)
    ))
    card, _ = run(server, tmp_path, "a", "--trace", str(trace), "--length-scale", "0.25",
                  "--seed", "77")
    assert card["requests"]["prompt_tokens"] == 3 * 275
    # The first computes two blocks of 128 tokens, the others find them.
    assert card["requests"]["cached_tokens"] >= 2 * 240


def test_what_is_wrong_is_told(server, tmp_path):
    trace = tmp_path / "bad.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1\n")
    done = server.cli("scorecard", "--trace", str(trace))
    assert done.returncode == 2 and "bad.csv:2: TIMESTAMP" in done.stderr
    mix = tmp_path / "mix.yaml"
    mix.write_text("traffic:\n  - prompt: {median: -1}\n")
    done = server.cli("scorecard", "--mix-file", str(mix))
    assert done.returncode == 2 and "mix.yaml:2: mix.traffic[0].prompt.median" in done.stderr


def test_tenants_with_keys_of_their_own(server, tmp_path):
    names = ("card-a", "card-b")
    keys = tmp_path / "keys"
    lines = []
    for name in names:
        made = subprocess.run([BINARY, "tenant", "create", name, "--address", server.rpc],
                              capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        lines.append(f"{name} {made.stdout.strip()}\n")
    keys.write_text("# two tenants\n" + "".join(lines))
    card, _ = run(server, tmp_path, "a", "--rate", "10", "--limit", "8", "--length-scale", "0.1",
                  "--keys", str(keys))
    assert {s["sender"] for s in card["senders"]} == set(names)
    assert {t["tenant"] for t in card["tenants"]} >= set(names)
    assert card["memory"]["active_tenants"] == 2
