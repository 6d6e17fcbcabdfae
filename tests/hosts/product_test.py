"""The product itself on several machines: `plimsoll router` and `plimsoll node` with a real model.

Certificates come from `plimsoll ca`; clients have an API key and TLS.
"""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import time

import pytest
from cluster import BINARY, Process

MODEL = "smollm2-135m-instruct"
MODELS = pathlib.Path(
    os.environ.get("PLIMSOLL_MODELS", pathlib.Path.home() / ".cache/plimsoll/models")
)
KEY = "pk-of-the-test"
ASKED = ("generate", "The lighthouse keeper and the sea: a long story. Once", "-n", "160")
SEED = ("--seed", "11", "-t", "0.9")


class Product:
    """A router, two nodes and a client, each on a host of its own."""

    def __init__(self, net, folder):
        self.folder = folder
        self.processes, self.nodes = [], {}
        try:
            self._start_all(net)
        except BaseException:
            self.close()
            raise

    def _start_all(self, net):
        folder = self.folder
        self.hosts = {n: net.host(n) for n in ("router", "node-1", "node-2", "client")}
        self._ca("init")
        address = self.hosts["router"].address
        # Clients look for an address among the certificate's host names, nodes among its addresses.
        names = ("--ip", address, "--dns", address)
        self._ca("issue", "router", "--role", "router", "--out", folder, *names)
        # JSON is YAML too.
        (folder / "router.yaml").write_text(json.dumps({
            "http": self._listen(address),
            "rpc": self._listen(address),
            "cluster": self._member("router") | {"listen": f"{address}:0"},
            "models": [{"name": MODEL}],
            "tenants": [{
                "name": "platform", "operator": True,
                "api_key_sha256": hashlib.sha256(KEY.encode()).hexdigest(),
            }],
        }))
        words = [BINARY, "router", "--config", folder / "router.yaml"]
        router = self._start("router", words)
        self.door = router.wait_for(r"nodes +(\S+:\d+)")[0]
        self.rpc = router.wait_for(r"RPC +(\S+:\d+)")[0]
        for name in ("node-1", "node-2"):
            self._ca("issue", name, "--out", folder)
            self.start_node(name, self.join_token())
        self.wait_until(lambda: self.nodes_in("ready") == {"node-1", "node-2"})

    def _ca(self, *words):
        command = [BINARY, "ca", *words, "--directory", self.folder / "ca"]
        subprocess.run(command, check=True, capture_output=True)

    def _listen(self, address):
        return {
            "listen": f"{address}:0",
            "tls_certificate": str(self.folder / "router.crt"),
            "tls_key": str(self.folder / "router.key"),
        }

    def _member(self, name):
        return {
            "name": name,
            "ca_file": str(self.folder / "ca/ca.crt"),
            "certificate": str(self.folder / f"{name}.crt"),
            "key": str(self.folder / f"{name}.key"),
            "state_directory": str(self.folder / f"{name}-state"),
        }

    def _start(self, name, words):
        process = Process(self.hosts[name], name, words, self.folder)
        self.processes.append(process)
        return process

    def join_token(self):
        done = self.cli("cluster", "join-token", "create", "--output", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["token"]

    # With a token the first time; with the secret that it was given from then on.
    def start_node(self, name, token=""):
        member = self._member(name) | {"join": self.door}
        if token:
            member["join_token"] = token
        words = [BINARY, "node", "--model", MODEL, "--engine-threads", "1"]
        for key, value in member.items():
            words += ["--cluster-" + key.replace("_", "-"), value]
        self.nodes[name] = self._start(name, words)

    def close(self):
        for process in self.processes:
            process.end()

    def command(self, *words):
        ca = self.folder / "ca/ca.crt"
        return self.hosts["client"].command(
            [BINARY, *words, "--address", self.rpc, "--ca-file", ca]
        )

    def cli(self, *words):
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=120,
            env={**os.environ, "PLIMSOLL_API_KEY": KEY},
        )

    def view(self):
        done = self.cli("cluster", "nodes", "--output", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def nodes_in(self, state):
        return {n["name"] for n in self.view() if n["state"] == state and n["models"]}

    def busy(self):
        return next((n["name"] for n in self.view() if n["sequences"]), None)

    def wait_until(self, condition, timeout=60):
        until = time.monotonic() + timeout
        while not (found := condition()):
            logs = "\n".join(p.log()[-1500:] for p in self.processes)
            assert time.monotonic() < until, "it does not come to that:\n" + logs
            time.sleep(0.05)
        return found

    def begin(self):
        """A stream of which the client has had the beginning: the process, and that."""
        client = subprocess.Popen(
            self.command(*ASKED, *SEED), bufsize=0,  # communicate() knows of no buffer
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PLIMSOLL_API_KEY": KEY},
        )
        return client, client.stdout.read(20)

    @staticmethod
    def end(client, begun):
        rest, complaints = client.communicate(timeout=120)
        assert client.returncode == 0, complaints
        return (begun + rest).decode()


def product(net, folder):
    if not any((MODELS / MODEL).glob("*")):
        pytest.skip(f"model {MODEL} is not in {MODELS}; run `plimsoll pull {MODEL}`")
    folder = folder / "product"
    folder.mkdir()
    return Product(net, folder)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_an_answer_outlives_its_node(net, tmp_path, how):
    machines = product(net, tmp_path)
    try:
        refused = subprocess.run(
            machines.command("models"), capture_output=True, text=True, timeout=60
        )
        assert refused.returncode != 0, "without a key"
        whole = machines.cli(*ASKED, *SEED)
        assert whole.returncode == 0 and len(whole.stdout) > 200, whole.stderr

        client, begun = machines.begin()
        name = machines.wait_until(machines.busy)
        machines.nodes[name].signal(how)
        assert machines.end(client, begun) == whole.stdout
        machines.nodes[name].process.wait(60)
        machines.start_node(name)
        machines.wait_until(lambda: machines.nodes_in("ready") == {"node-1", "node-2"})
    finally:
        machines.close()


def test_a_rolling_restart_of_the_product(loopback, tmp_path):
    machines = product(loopback, tmp_path)
    try:
        whole = machines.cli(*ASKED, *SEED)
        assert whole.returncode == 0 and len(whole.stdout) > 200, whole.stderr
        for name in ("node-1", "node-2"):
            streams = [machines.begin() for _ in range(2)]
            node = machines.nodes[name]
            node.signal(signal.SIGTERM)
            assert [machines.end(*stream) for stream in streams] == [whole.stdout] * 2
            assert node.process.wait(60) == 0, node.log()[-3000:]
            machines.start_node(name)
            machines.wait_until(lambda: machines.nodes_in("ready") == {"node-1", "node-2"})
    finally:
        machines.close()
