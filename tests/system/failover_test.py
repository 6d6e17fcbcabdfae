"""Two servers with the same model: a client of both outlives the one it went to."""

import json
import os
import signal
import subprocess
import time

import pytest
from conftest import BINARY, CHAT, Server, need_models

PROMPT = "The lighthouse keeper and the sea: a long story. Once"
ASKED = ["-n", "160", "--seed", "11", "-t", "0.9", PROMPT]


@pytest.fixture
def servers():
    need_models(CHAT)
    both = [Server(models=(CHAT,)) for _ in range(2)]
    yield both
    for server in both:
        server.stop()


def running(server):
    status = json.loads(server.cli("status", "-o", "json").stdout)
    return sum(e["running"] + e["waiting"] for n in status["nodes"] for e in n["engines"])


def serving(servers):
    """The one that has work; waits for it."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for server in servers:
            if running(server):
                return server
    raise AssertionError("no server has work")


def addresses(servers):
    return ",".join(server.rpc for server in servers)


def test_an_answer_goes_on_when_its_server_is_killed(servers):
    whole = servers[0].cli("generate", *ASKED)
    assert whole.returncode == 0 and len(whole.stdout) > 200, whole.stderr
    assert servers[1].cli("generate", *ASKED).stdout == whole.stdout

    command = [BINARY, "generate", "--address", addresses(servers), *ASKED]
    # Unbuffered: communicate() does not see what a buffer has read ahead.
    client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    begun = client.stdout.read(30)  # mid-stream
    hit = serving(servers)
    hit.process.send_signal(signal.SIGKILL)
    hit.process.wait()
    rest, complaints = client.communicate(timeout=120)
    assert client.returncode == 0, complaints
    assert (begun + rest).decode() == whole.stdout

    # What comes afterwards goes to the one that is left, wherever the list begins.
    for order in (servers, servers[::-1]):
        done = subprocess.run(
            [BINARY, "models", "-o", "json"],
            env={**os.environ, "PLIMSOLL_ADDRESS": addresses(order)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0 and CHAT in done.stdout, done.stderr
