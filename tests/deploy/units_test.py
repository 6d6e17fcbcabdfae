"""The systemd units: well-formed, locked down, and patient enough for a drain."""

import re
import shutil
import subprocess

import pytest
import yaml
from conftest import ROOT

ROLES = ("router", "node")
UNITS = ROOT / "deploy/systemd"


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


@pytest.fixture
def unit(request, tmp_path):
    """A unit whose binary and configuration are there, so that its other words are looked at."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not on this machine")
    text = (UNITS / f"plimsoll-{request.param}.service").read_text()
    assert "ExecStart=/usr/bin/plimsoll " in text
    copy = tmp_path / f"plimsoll-{request.param}.service"
    copy.write_text(text.replace("/usr/bin/plimsoll", "/bin/true"))
    return copy


@pytest.mark.parametrize("unit", ROLES, indirect=True)
def test_systemd_understands_every_word(unit):
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True
    )
    about_it = [line for line in done.stderr.splitlines() if "plimsoll" in line]
    assert done.returncode == 0 and not about_it, done.stderr


@pytest.mark.parametrize("unit", ROLES, indirect=True)
def test_hardening_does_not_erode(unit):
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout.splitlines()[-1:] + [done.stderr]


@pytest.mark.parametrize("role", ROLES)
def test_state_is_where_the_unit_may_write(role):
    unit = (UNITS / f"plimsoll-{role}.service").read_text()
    config = yaml.safe_load((ROOT / f"deploy/etc/plimsoll/{role}.yaml").read_text())
    folders = re.search(r"^StateDirectory=(.*)$", unit, re.M).group(1).split()
    state = config["cluster"]["state_directory"]
    assert any(state.startswith(f"/var/lib/{folder}/") for folder in folders)


@pytest.mark.parametrize("role", ROLES)
def test_stopping_waits_for_the_drain(role):
    unit = (UNITS / f"plimsoll-{role}.service").read_text()
    config = yaml.safe_load((ROOT / f"deploy/etc/plimsoll/{role}.yaml").read_text())
    stop = int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.M).group(1))
    assert stop > seconds(config["drain_deadline"])
    assert f"--config /etc/plimsoll/{role}.yaml" in unit


@pytest.mark.parametrize("role", ROLES)
def test_the_soft_limit_is_below_the_hard_one(role):
    unit = (UNITS / f"plimsoll-{role}.service").read_text()
    units = {"%": 1, "M": 1, "G": 1000}
    high, most = (
        int(number) * units[letter]
        for number, letter in (
            re.search(rf"^{key}=(\d+)([%MG])$", unit, re.M).groups()
            for key in ("MemoryHigh", "MemoryMax")
        )
    )
    assert high < most
