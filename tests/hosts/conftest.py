import contextlib
import os
import shutil

import pytest

from cluster import BINARY, PRETEND, Cluster
from net import Loopback, Net, NotAllowed


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="more streams, longer, and again")


@pytest.fixture(scope="session")
def scale(request):
    """(streams, tokens of each)"""
    return (64, 400) if request.config.getoption("--long") else (64, 120)


def need_binaries():
    for binary in (BINARY, PRETEND):
        if not shutil.which(binary):
            pytest.skip(f"no binary {binary}; build it first")


@contextlib.contextmanager
def clusters(net, folder):
    made = []

    def make(**options):
        made.append(Cluster(net, folder / str(len(made)), **options))
        return made[-1]

    try:
        yield make
    finally:
        for one in made:
            one.close()


@pytest.fixture
def net():
    """Machines on a network of their own."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    try:
        net = Net()
    except NotAllowed as e:
        pytest.skip(f"no network namespaces here: {e}")
    with net:
        yield net


@pytest.fixture
def loopback():
    """Stands in for `net` where nothing happens to the network."""
    return Loopback()


@pytest.fixture
def cluster(tmp_path, net):
    """cluster(nodes=3, ...): a cluster on a network of its own; both end with the test."""
    need_binaries()
    with clusters(net, tmp_path) as make:
        yield make


@pytest.fixture
def local_cluster(tmp_path, loopback):
    """The same on loopback."""
    need_binaries()
    with clusters(loopback, tmp_path) as make:
        yield make
