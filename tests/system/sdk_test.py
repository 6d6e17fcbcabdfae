"""The installed SDK, found by CMake, with the example program."""

import os
import subprocess

import pytest
from conftest import ROOT


@pytest.fixture(scope="session")
def example(tmp_path_factory):
    build = os.environ.get("PLIMSOLL_BUILD", str(ROOT / "build/release"))
    prefix, out = tmp_path_factory.mktemp("sdk"), tmp_path_factory.mktemp("example")
    for command in (
        ["cmake", "--install", build, "--component", "client", "--prefix", prefix],
        ["cmake", "-S", ROOT / "client/example", "-B", out, f"-DCMAKE_PREFIX_PATH={prefix}"],
        ["cmake", "--build", out],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return out / "generate"


def test_the_example_streams_an_answer(server, example):
    done = subprocess.run(
        [example, server.rpc, "Name one ocean."], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("tokens") and len(done.stdout) > 20


def test_the_example_says_that_nobody_is_there(example):
    done = subprocess.run([example, "127.0.0.1:1"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and done.stderr.startswith("unavailable: ")


def test_the_example_is_short():
    assert len((ROOT / "client/example/generate.cc").read_text().splitlines()) < 40
