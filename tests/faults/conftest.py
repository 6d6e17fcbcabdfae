import shutil

import pytest

import groups
from drill import BINARY, system


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="more configurations, loads and time")
    parser.addoption("--first-seed", type=int, default=1, help="of the random configurations")


@pytest.fixture(scope="session")
def long(request):
    return request.config.getoption("--long")


@pytest.fixture(scope="session")
def first_seed(request):
    return request.config.getoption("--first-seed")


@pytest.fixture(scope="session", autouse=True)
def needs():
    system.need_models(system.CHAT, system.EMBED)
    if not shutil.which(BINARY):
        pytest.skip(f"no binary {BINARY}; build it first")


@pytest.fixture(scope="session")
def limited():
    """Asked for by tests that need a memory cgroup."""
    why = groups.why_not()
    if why:
        pytest.skip(f"nothing can be killed here: {why}")
