"""Two routers that share their records in etcd, and two nodes: what one router's end costs."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest
from conftest import BINARY, CHAT, need_models

PROMPT = "The lighthouse keeper and the sea: a long story. Once"
ASKED = ["-n", "160", "--seed", "11", "-t", "0.9", PROMPT]
PATIENCE = 60


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, what):
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.05)
    return found


class Cluster:
    def __init__(self, folder):
        self.folder, self.processes, self.rpc, self.doors = folder, {}, {}, {}
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self.etcd = client
        self.start("etcd", [
            shutil.which("etcd"), "--data-dir", str(folder / "etcd"),
            "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", f"default={peer}",
        ])
        self.log_of("etcd", r"ready to serve client requests")
        for name in ("router-1", "router-2"):
            self.start_router(name, 0)
        for name in ("node-1", "node-2"):
            self.start(name, [
                BINARY, "node", "--model", CHAT, "--cluster-name", name,
                "--cluster-state-directory", str(folder / name), "--engine-threads", "1",
                "--engine-kv-memory", "64MiB", "--join", ",".join(self.doors.values()),
            ])
        for router in ("router-1", "router-2"):
            wait_until(lambda: self.ready_nodes(router) == 2, f"nodes at {router}")

    def start(self, name, words):
        with (self.folder / f"{name}.log").open("w") as log:
            self.processes[name] = subprocess.Popen(
                [str(w) for w in words], stdout=log, stderr=log
            )

    def start_router(self, name, port):
        self.start(name, [
            BINARY, "router", "--model", CHAT, "--cluster-name", name,
            "--cluster-etcd", self.etcd, "--cluster-listen", f"127.0.0.1:{port}",
            "--http-listen", "127.0.0.1:0", "--rpc-listen", "127.0.0.1:0",
        ])
        self.doors[name] = self.log_of(name, r"nodes +(\S+:\d+)")
        self.rpc[name] = self.log_of(name, r"RPC +(\S+:\d+)")

    def log_of(self, name, pattern):
        """The last match in a process's log, once it has one."""
        def look():
            assert self.processes[name].poll() is None, self.log(name)
            return re.findall(pattern, self.log(name))
        return wait_until(look, f"{name}: {pattern}")[-1]

    def log(self, name):
        return pathlib.Path(self.folder / f"{name}.log").read_text()

    def cli(self, router, *words, key=""):
        return subprocess.run(
            [BINARY, *words, "--address", self.rpc[router]], capture_output=True, text=True,
            timeout=PATIENCE, env={**os.environ, "PLIMSOLL_API_KEY": key},
        )

    def ready_nodes(self, router):
        done = self.cli(router, "cluster", "nodes", "-o", "json")
        nodes = json.loads(done.stdout) if done.returncode == 0 else []
        return sum(node["state"] == "ready" for node in nodes)

    def kill(self, name):
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def close(self):
        codes = {}
        for name in ("node-1", "node-2", "router-1", "router-2", "etcd"):
            if name not in self.processes:
                continue
            self.processes[name].send_signal(signal.SIGTERM)
            try:
                codes[name] = self.processes[name].wait(30)
            except subprocess.TimeoutExpired:
                self.kill(name)
                codes[name] = "hung"
        return codes


@pytest.fixture
def cluster(tmp_path):
    need_models(CHAT)
    if shutil.which("etcd") is None:
        pytest.skip("no etcd here; install etcd-server")
    running = Cluster(tmp_path)
    yield running
    codes = running.close()
    codes.pop("etcd", None)
    assert set(codes.values()) == {0}, codes


def test_what_one_router_is_told_the_other_knows(cluster):
    made = cluster.cli("router-1", "tenant", "create", "acme", "--requests-per-second", "2",
                       "--burst", "2s", "-o", "json")
    assert made.returncode == 0, made.stderr
    key = json.loads(made.stdout)["api_key"]
    short = ["generate", "-n", "2", "-t", "0", "Hello"]
    wait_until(lambda: cluster.cli("router-2", *short, key=key).returncode == 0, "the key counts")

    # Of 2 requests a second, 4 at once: both routers together give no more.
    answers, began = [], time.monotonic()
    while len(answers) < 24:
        router = ("router-1", "router-2")[len(answers) % 2]
        answers.append(cluster.cli(router, *short, key=key))
    seconds = time.monotonic() - began
    served = sum(a.returncode == 0 for a in answers)
    assert 1 <= served <= 2 * seconds + 4 + 2, (served, seconds)
    refused = [a.stderr for a in answers if a.returncode != 0]
    assert all("rate" in text or "quota" in text for text in refused), refused

    suspended = cluster.cli("router-2", "tenant", "suspend", "acme", "--yes")
    assert suspended.returncode == 0, suspended.stderr
    wait_until(lambda: "suspended" in cluster.cli("router-1", *short, key=key).stderr,
               "suspended everywhere")


def test_an_answer_outlives_its_router(cluster):
    whole = cluster.cli("router-1", "generate", *ASKED)
    assert whole.returncode == 0 and len(whole.stdout) > 200, whole.stderr

    both = ",".join(cluster.rpc.values())
    command = [BINARY, "generate", "--address", both, *ASKED]
    # Unbuffered: communicate() does not see what a buffer has read ahead.
    client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    begun = client.stdout.read(30)  # mid-stream

    def streams(router):
        view = json.loads(cluster.cli(router, "cluster", "status", "-o", "json").stdout)
        return next(r["streams"] for r in view["routers"] if r["self"])

    hit = next(router for router in ("router-1", "router-2", "router-1") if streams(router))
    cluster.kill(hit)
    rest, complaints = client.communicate(timeout=PATIENCE)
    assert client.returncode == 0, complaints
    assert (begun + rest).decode() == whole.stdout

    # It comes back under its name, and the nodes come back to it.
    port = cluster.doors[hit].rsplit(":", 1)[1]
    cluster.start_router(hit, port)
    wait_until(lambda: cluster.ready_nodes(hit) == 2, "nodes at the router that came back")
    again = cluster.cli(hit, "generate", *ASKED)
    assert again.stdout == whole.stdout, again.stderr


def test_a_drain_reaches_every_router(cluster):
    done = cluster.cli("router-1", "cluster", "drain", "node-1", "--deadline", "5s", "--yes")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: cluster.ready_nodes("router-2") == 1, "drained at the other router")
    assert cluster.cli("router-2", "generate", "-n", "2", "Hello").returncode == 0
