"""What stands on one side of a comparison over HTTP: our server, or a peer that speaks OpenAI's API."""

import asyncio
import importlib.util
import pathlib
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


system = load("system_conftest", "tests/system/conftest.py")
traffic = load("traffic", "tests/faults/traffic.py")
MIB = 1 << 20
KEY = "any"  # without tenants every key is welcome
PATIENCE = 120
RETRY_SECONDS = 0.002  # while a server starts
SAMPLE_SECONDS = 0.05


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def file_of(model):
    """The model's one file of weights."""
    files = [f for pattern in ("*.gguf", "*.safetensors") for f in (system.MODELS / model).glob(pattern)]
    if len(files) != 1:
        raise SystemExit(f"{system.MODELS / model} holds {len(files)} files of weights, not one")
    return files[0]


def our_command(model, options):
    """Nothing is refused for the time that it would wait, since peers refuse nothing either. A
    configuration file among the options names the models itself."""
    named = [] if "--config" in options else ["--model", model]
    return [system.BINARY, "serve", "--http-listen", "127.0.0.1:{port}", "--rpc-listen", "127.0.0.1:0",
            "--cluster-state-directory", "", "--engine-ttft-objective", "10m",
            "--engine-queue-time", "10m", *named, *options]


class Side:
    """A server on a port of this machine. It is started from a command, in which {port} and {model},
    the path of the weights, are filled in; or it runs already, at a URL, and is nobody's to end."""

    def __init__(self, name, model, command=None, url=""):
        self.name, self.model, self.command, self.url = name, model, command, url
        self.process, self.log = None, None

    def start(self):
        if not self.command or self.process:
            return
        port = free_port()
        fill = {"{port}": str(port), "{model}": str(file_of(self.model))}
        words = list(self.command)
        for key, value in fill.items():
            words = [word.replace(key, value) for word in words]
        self.url = f"http://127.0.0.1:{port}"
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(words, stdout=self.log, stderr=self.log)

    def stop(self):
        if not self.process:
            return
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    async def send(self, path, body):
        out = await traffic.Client(self.url, KEY).send(path, {"model": self.model} | body, 600)
        if out.state != "finished":
            raise SystemExit(f"{self.name}: {out.state}, {out.status} {out.why}")
        return out

    async def send_when_ready(self, path, body):
        """Tries until the server is there and its model is loaded."""
        end = time.monotonic() + PATIENCE
        while True:
            out = await traffic.Client(self.url, KEY).send(path, {"model": self.model} | body, 60)
            if out.state == "finished":
                return out
            dead = self.process and self.process.poll() is not None
            if dead or time.monotonic() > end or out.state == "invalid":
                raise SystemExit(f"{self.name} did not start: {out.status} {out.why}\n{self.log_text()}")
            await asyncio.sleep(RETRY_SECONDS)

    def log_text(self):
        if not self.log:
            return ""
        self.log.seek(0)
        return self.log.read()

    def anonymous_bytes(self):
        """Of the process, what no file can give back. A peer at a URL has no process to look at."""
        rollup = pathlib.Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Anonymous:")) * 1024

    async def peak_anonymous_bytes(self, work):
        """The most that is seen while `work` runs."""
        task, most = asyncio.ensure_future(work), 0
        while not task.done():
            most = max(most, self.anonymous_bytes())
            await asyncio.wait([task], timeout=SAMPLE_SECONDS)
        await task
        return most

