"""A router and nodes on machines of their own, as processes that a test can hurt."""

import http.client
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
DOOR = 8090  # where nodes join
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
    """One router and some nodes; `slow` names nodes whose link delays by 200 ms each way."""

    def __init__(self, net, folder, nodes=3, step_ms=40, slow=()):
        self.folder, self.step_ms = folder, step_ms
        self.processes = []
        self.nodes = {}
        self.lives = {}  # how often each was started
        self._ca("init")
        self.router_host = net.host("router")
        self._hosts = {f"node-{i}": net.host(f"node-{i}") for i in range(1, nodes + 1)}
        self.slow = slow
        try:
            self.router = self._start_router()
            for name in self._hosts:
                self.start_node(name)
            for name in self._hosts:
                self.router.wait_for(rf"event=node_ready node={name} ")
            self._wait_until_ready()
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
        options = ("--listen", "0.0.0.0", "--port", DOOR)
        return self._member(self.router_host, "router", "router-1", *options)

    def start_node(self, name):
        host = self._hosts[name]
        door = f"{self.router_host.address}:{DOOR}"
        if name in self.slow:
            words = [sys.executable, HERE / "slow_link.py", f"127.0.0.1:{DOOR}", door, "200"]
            self._start(host, f"{name}-link", words).wait_for("listening")
            door = f"127.0.0.1:{DOOR}"
        self.lives[name] = self.lives.get(name, 0) + 1
        self.nodes[name] = self._member(host, "node", name, "--join", door)
        return self.nodes[name]

    def _wait_until_ready(self, timeout=30):
        done = []

        def ask():
            self.router_host.enter()
            until = time.monotonic() + timeout
            while not done and time.monotonic() < until:
                try:
                    connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=5)
                    connection.request("GET", "/ready")
                    if connection.getresponse().status == 200:
                        done.append(True)
                except OSError:
                    pass
                time.sleep(0.02)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        assert done, "the router does not get ready:\n" + self.router.log()[-3000:]

    # ---- what a test does to a node

    def kill(self, name):
        self.nodes[name].signal(signal.SIGKILL)
        self.nodes[name].process.wait()

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
