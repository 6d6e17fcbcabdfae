"""`plimsoll ca` as an operator uses it, and its certificates as OpenSSL's own tool sees them."""

import json
import shutil
import subprocess

import pytest


@pytest.fixture
def ca(plimsoll, tmp_path):
    done = plimsoll("ca", "init", "--directory", tmp_path / "ca")
    assert done.returncode == 0, done.stderr
    return tmp_path / "ca"


def issue(plimsoll, ca, name, *options):
    return plimsoll("ca", "issue", name, "--directory", ca, "--out", ca.parent, *options)


def test_openssl_agrees_about_a_certificate(plimsoll, ca, tmp_path):
    if not shutil.which("openssl"):
        pytest.skip("no openssl command")
    done = issue(plimsoll, ca, "node-1", "--dns", "n1.example.org", "--ip", "192.0.2.1")
    assert done.returncode == 0, done.stderr
    for purpose in ("sslserver", "sslclient"):
        words = ["openssl", "verify", "-x509_strict", "-purpose", purpose]
        words += ["-verify_hostname", "n1.example.org", "-verify_ip", "192.0.2.1"]
        words += ["-CAfile", ca / "ca.crt", tmp_path / "node-1.crt"]
        verified = subprocess.run(words, capture_output=True, text=True)
        assert verified.returncode == 0, verified.stderr
    dates = ["openssl", "x509", "-noout", "-checkend", str(364 * 86400), "-in"]
    assert subprocess.run([*dates, tmp_path / "node-1.crt"], capture_output=True).returncode == 0


def test_show_prints_a_table_and_json(plimsoll, ca, tmp_path):
    options = ("--role", "router", "--ip", "192.0.2.1", "--days", "10")
    made = issue(plimsoll, ca, "router-1", *options)
    assert made.returncode == 0 and "warning" in made.stderr and "expires" in made.stderr
    shown = plimsoll("ca", "show", tmp_path / "router-1.crt", "-o", "json")
    info = json.loads(shown.stdout)
    assert info["name"] == "router-1" and info["role"] == "router"
    assert info["dns"] == ["router-1"] and info["ips"] == ["192.0.2.1"]
    assert info["validity"] == "expires soon" and "warning" in shown.stderr
    table = plimsoll("ca", "show", ca / "ca.crt")
    assert "authority" in table.stdout and table.stderr == ""


def test_nothing_is_overwritten_and_mistakes_are_named(plimsoll, ca, tmp_path):
    assert issue(plimsoll, ca, "node-1").returncode == 0
    key = (tmp_path / "node-1.key").read_bytes()
    again = issue(plimsoll, ca, "node-1")
    assert again.returncode == 1 and "--force" in again.stderr
    assert (tmp_path / "node-1.key").read_bytes() == key
    assert issue(plimsoll, ca, "node-1", "--force").returncode == 0
    assert issue(plimsoll, ca, "a b").returncode == 2
    assert issue(plimsoll, ca, "node-2", "--role", "king").returncode == 2
    lost = issue(plimsoll, tmp_path / "nowhere", "node-2")
    assert lost.returncode == 1 and "plimsoll ca init" in lost.stderr
