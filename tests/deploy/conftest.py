"""Where the tests of this folder find the binary and the files that are deployed."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("PLIMSOLL_BINARY", str(ROOT / "build/release/cli/plimsoll"))


@pytest.fixture
def plimsoll():
    """Runs the binary: plimsoll("ca", "init")."""
    if not os.access(BINARY, os.X_OK):
        pytest.skip(f"no binary {BINARY}; build it first")

    def run(*words, **options):
        return subprocess.run(
            [BINARY, *map(str, words)], capture_output=True, text=True, timeout=60, **options
        )

    return run
