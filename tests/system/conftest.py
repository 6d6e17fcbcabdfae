"""Starts the real server for the tests of this folder."""

import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("PLIMSOLL_BINARY", str(ROOT / "build/release/cli/plimsoll"))
MODELS = pathlib.Path(
    os.environ.get("PLIMSOLL_MODELS", pathlib.Path.home() / ".cache/plimsoll/models")
)
CHAT = "smollm2-135m-instruct"
EMBED = "all-minilm-l6-v2"


class Server:
    """`plimsoll serve` on free loopback ports. `wrap` makes another command line of its own."""

    def __init__(self, *options, models=(CHAT, EMBED), wrap=None, environment=None):
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")
        command = [BINARY, "serve", "--http-listen", "127.0.0.1:0", "--rpc-listen", "127.0.0.1:0"]
        for model in models:
            command += ["--model", model]
        start = time.monotonic()
        command += options
        self.process = subprocess.Popen(
            wrap(command) if wrap else command,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
        )
        welcome = ""
        for line in self.process.stdout:
            welcome += line
            if "Ctrl-C ends it" in line:
                break
        self.ready_seconds = time.monotonic() - start
        http = re.search(r"OpenAI\s+(\S+)/v1", welcome)
        rpc = re.search(r"RPC\s+(\S+:\d+)", welcome)
        if not http or not rpc:
            self.process.wait(10)
            raise RuntimeError("the server did not start:\n" + welcome + self.log_text())
        self.welcome, self.url, self.rpc = welcome, http.group(1), rpc.group(1)

    def log_text(self):
        return pathlib.Path(self.log.name).read_text()

    def stop(self, timeout=20):
        """Ends it the polite way; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def cli(self, *words, split=False, **options):
        """A verb; `split`: a verb of a family, whose options follow it."""
        verb = words[: 2 if split else 1]
        return subprocess.run(
            [BINARY, *verb, "--address", self.rpc, *words[len(verb):]],
            capture_output=True,
            text=True,
            timeout=120,
            **options,
        )


def need_models(*names):
    for name in names:
        if not any((MODELS / name).glob("*")):
            pytest.skip(f"model {name} is not in {MODELS}; run `plimsoll pull {name}`")


@pytest.fixture(scope="session")
def server():
    need_models(CHAT, EMBED)
    if not os.access(BINARY, os.X_OK):
        pytest.skip(f"no binary {BINARY}; build it first")
    running = Server()
    os.environ["PLIMSOLL_URL"] = running.url
    yield running
    assert running.stop() == 0, running.log_text()
