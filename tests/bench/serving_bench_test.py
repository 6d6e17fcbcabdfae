"""bench/serving_bench.py with our own server as the peer: every figure is there for both."""

import math
import os
import pathlib
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
from sides import Side, our_command, system  # noqa: E402


@pytest.fixture(autouse=True)
def needed():
    system.need_models(system.CHAT, system.EMBED)
    if not os.access(system.BINARY, os.X_OK):
        pytest.skip(f"no binary {system.BINARY}; build it first")


def run(part, *sizes, peer):
    done = subprocess.run(
        [sys.executable, ROOT / "bench/serving_bench.py", *peer, part, "--pairs", "1", *map(str, sizes)],
        capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    head = next(i for i, line in enumerate(lines) if line.endswith("plimsoll / peer"))
    rows = {line[:34].strip(): line[34:].split() for line in lines[head + 1 :]}
    for row in rows.values():
        values = [float(word) for word in row[:3]]  # ours, the peer's, the ratio
        assert all(math.isfinite(value) and value > 0 for value in values), done.stdout
    return rows, done.stdout


def started_by_it(model):
    return ["--peer-command", shlex.join(our_command(model, []))]


@pytest.mark.parametrize(
    "part, sizes, figures",
    [
        ("streams", ("--streams", 2, "--prompt", 16, "--answer", 8), 5),
        ("prefix", ("--streams", 2, "--shared", 64, "--prompt", 16, "--answer", 4), 4),
        ("memory", ("--streams", 2, "--context", 64, "--answer", 8, "--idle", 0), 3),
        ("start", (), 1),
    ],
)
def test_completions(part, sizes, figures):
    rows, _ = run(part, *sizes, peer=started_by_it(system.CHAT))
    assert len(rows) == figures


def test_embeddings_of_a_peer_that_runs():
    peer = Side("peer", system.EMBED, our_command(system.EMBED, []))
    peer.start()
    try:
        rows, text = run("embeddings", "--batch", 1, 4, "--seconds", 0.2, peer=["--peer", peer.url])
    finally:
        peer.stop()
    assert len(rows) == 2
    assert "least cosine of the two sides' vectors of 8 sentences: 1.000000" in text
