import os
import shutil

import pytest

from cluster import BINARY, PRETEND, Cluster
from net import Net, NotAllowed


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="more streams, longer, and again")


@pytest.fixture(scope="session")
def scale(request):
    """(streams, tokens of each)"""
    return (64, 400) if request.config.getoption("--long") else (64, 120)


@pytest.fixture
def cluster(tmp_path):
    """cluster(nodes=3, ...): a cluster on a network of its own; both end with the test."""
    for binary in (BINARY, PRETEND):
        if not shutil.which(binary):
            pytest.skip(f"no binary {binary}; build it first")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    try:
        net = Net()
    except NotAllowed as e:
        pytest.skip(f"no network namespaces here: {e}")
    made = []

    def make(**options):
        made.append(Cluster(net, tmp_path, **options))
        return made[-1]

    try:
        yield make
    finally:
        for one in made:
            one.close()
        net.close()
