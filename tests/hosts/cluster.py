"""A router and nodes in processes of their own, on hosts (net.py), that a test can hurt."""

import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
BINARY = os.environ.get("PLIMSOLL_BINARY", "plimsoll")
PRETEND = os.environ.get("PLIMSOLL_PRETEND", "pretend_plimsoll")
HEARTBEAT_MS = 200


def _go_first():
    """What else the machine computes must not look like a lost node."""
    try:
        os.nice(-10)
    except PermissionError:
        pass


class Process:
    """One process on a host, its log, and its end."""

    def __init__(self, host, name, words, folder):
        self.host, self.name = host, name
        self.log_file = folder / f"{name}.log"
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                host.command(words), stdout=log, stderr=log, preexec_fn=_go_first
            )

    def log(self):
        return self.log_file.read_text(errors="replace")

    def wait_for(self, pattern, times=1, timeout=30):
        """Until the log has that many matches; returns them."""
        until = time.monotonic() + timeout
        while len(found := re.findall(pattern, self.log())) < times:
            if self.process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"{self.name} never said {pattern!r}:\n{self.log()[-3000:]}")
            time.sleep(0.01)
        return found

    def signal(self, number):
        self.process.send_signal(number)  # `ip netns exec` has become the command itself

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Cluster:
    """One router and some nodes; `slow` names nodes whose link delays by 200 ms each way.

    `http`, `rpc` and `door` are the router's ports.
    """

    def __init__(self, net, folder, nodes=3, step_ms=40, slow=(), node_options=()):
        folder.mkdir()
        self.folder, self.step_ms, self._node_options = folder, step_ms, node_options
        self.processes = []
        self.nodes = {}
        self.lives = {}  # how often each was started
        self._ca("init")
        self.router_host = net.host("router")
        self._hosts = {f"node-{i}": net.host(f"node-{i}") for i in range(1, nodes + 1)}
        self.slow = slow
        try:
            self.router = self._start_router()
            ports = self.router.wait_for(r"event=listening http=(\d+) rpc=(\d+) nodes=(\d+)")[0]
            self.http, self.rpc, self.door = map(int, ports)
            for name in self._hosts:
                self.start_node(name)
            self.wait_until_serving(*self._hosts)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for process in self.processes:
            process.end()

    def _ca(self, *words):
        command = [BINARY, "ca", *words, "--directory", self.folder / "ca"]
        subprocess.run(command, check=True, capture_output=True)

    def _start(self, host, name, words):
        process = Process(host, name, words, self.folder)
        self.processes.append(process)
        return process

    def _member(self, host, role, name, *options):
        if not (self.folder / f"{name}.key").exists():
            self._ca("issue", name, "--role", role, "--out", self.folder, "--ip", host.address)
        words = [PRETEND, role, "--name", name, "--step-ms", self.step_ms]
        words += ["--heartbeat-ms", HEARTBEAT_MS, "--state-directory", self.folder / name]
        words += ["--ca-file", self.folder / "ca/ca.crt"]
        words += ["--certificate", self.folder / f"{name}.crt"]
        words += ["--key", self.folder / f"{name}.key"]
        return self._start(host, name, words + list(options))

    def _start_router(self):
        address = self.router_host.address
        return self._member(self.router_host, "router", "router-1", "--listen", address)

    def start_node(self, name):
        host = self._hosts[name]
        door = f"{self.router_host.address}:{self.door}"
        if name in self.slow:
            words = [sys.executable, HERE / "slow_link.py", f"127.0.0.1:{self.door}", door, "200"]
            self._start(host, f"{name}-link", words).wait_for("listening")
            door = f"127.0.0.1:{self.door}"
        self.lives[name] = self.lives.get(name, 0) + 1
        self.nodes[name] = self._member(host, "node", name, "--join", door, *self._node_options)
        return self.nodes[name]

    def get(self, path):
        """(status, body) of the router's answer; (0, "") if there is none."""
        answers = []

        def ask():  # in a thread of its own, since it stays on the router's host
            self.router_host.enter()
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=5)
                connection.request("GET", path)
                answer = connection.getresponse()
                answers.append((answer.status, answer.read().decode()))
            except OSError:
                answers.append((0, ""))

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        return answers[0]

    def cli(self, *words):
        """The operator's command line on the router's host."""
        command = [BINARY, *words, "--address", f"127.0.0.1:{self.rpc}"]
        return subprocess.run(
            self.router_host.command(command), capture_output=True, text=True, timeout=60
        )

    def serving(self):
        """The names of the nodes that are ready and have the model."""
        done = self.cli("cluster", "nodes", "--output", "json")
        assert done.returncode == 0, done.stderr
        return {n["name"] for n in json.loads(done.stdout) if n["state"] == "ready" and n["models"]}

    def wait_until_serving(self, *names, timeout=30):
        until = time.monotonic() + timeout
        while not self.serving() >= set(names):
            assert time.monotonic() < until, f"{names} do not serve:\n" + self.router.log()[-3000:]
            time.sleep(0.02)

    # ---- what a test does to a node

    def kill(self, name):
        self.nodes[name].signal(signal.SIGKILL)
        self.nodes[name].process.wait()

    def restart(self, name):
        """Asks it to end, waits for that, and starts it again; back when it serves."""
        node = self.nodes[name]
        node.signal(signal.SIGTERM)
        assert node.process.wait(60) == 0, node.log()[-3000:]
        self.start_node(name)
        self.router.wait_for(rf"event=node_ready node={name} ", self.lives[name])
        self.wait_until_serving(name)

    def freeze(self, name):
        self.nodes[name].signal(signal.SIGSTOP)

    def thaw(self, name):
        self.nodes[name].signal(signal.SIGCONT)

    def link(self, name, up):
        self.nodes[name].host.link(up)

    def lost(self):
        """(node, sequences it had) for each that the router has given up."""
        found = re.findall(r"event=node_lost node=(\S+) .*?sequences=(\d+)", self.router.log())
        return [(name, int(sequences)) for name, sequences in found]
