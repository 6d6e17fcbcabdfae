"""The Debian package: what is in it, and that what is in it works."""

import gzip
import os
import pathlib
import re
import shutil
import subprocess

import pytest
from conftest import BINARY, ROOT


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    build = pathlib.Path(os.environ.get("PLIMSOLL_BUILD", ROOT / "build/release"))
    for tool in ("cpack", "dpkg-deb", "dpkg-shlibdeps"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not on this machine")
    if not (build / "deploy/plimsoll.bash").exists():
        pytest.skip(f"{build} is not built; `./dev build` first")
    out = tmp_path_factory.mktemp("package")
    done = subprocess.run(
        ["cpack", "--config", build / "CPackConfig.cmake", "-B", out],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (deb,) = out.glob("plimsoll_*.deb")
    return deb


@pytest.fixture(scope="module")
def tree(package, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    subprocess.run(["dpkg-deb", "-R", package, folder], check=True)
    return folder


def field(package, name):
    done = subprocess.run(["dpkg-deb", "-f", package, name], capture_output=True, text=True)
    return done.stdout.strip()


def test_control_names_what_the_binary_links(package):
    assert field(package, "Package") == "plimsoll"
    version = subprocess.run([BINARY, "--version"], capture_output=True, text=True).stdout
    assert version.split()[-1] == field(package, "Version")
    depends = field(package, "Depends")
    for library in ("libc6", "libcaf-core", "libssl3", "libjemalloc2", "adduser"):
        assert library in depends


def test_everything_has_its_place(package):
    listing = subprocess.run(["dpkg-deb", "-c", package], capture_output=True, text=True).stdout
    entries = {}
    for line in listing.splitlines():
        words = line.split()
        entries[words[5].lstrip(".")] = words[0]
        assert words[1] == "root/root", line
    for path in (
        "/usr/lib/systemd/system/plimsoll-router.service",
        "/usr/lib/systemd/system/plimsoll-node.service",
        "/etc/plimsoll/router.yaml",
        "/etc/plimsoll/node.yaml",
        "/usr/share/man/man1/plimsoll.1.gz",
        "/usr/share/bash-completion/completions/plimsoll",
        "/usr/share/plimsoll/prometheus/plimsoll.rules.yaml",
        "/usr/share/plimsoll/grafana/plimsoll.json",
        "/usr/share/doc/plimsoll/OPERATING.md",
        "/usr/share/doc/plimsoll/examples/kubernetes/node.yaml",
    ):
        assert entries[path] == "-rw-r--r--", path
    assert entries["/usr/bin/plimsoll"] == "-rwxr-xr-x"
    outside = [p for p in entries if not p.startswith(("/usr/", "/etc/"))]
    assert not outside


def test_configuration_survives_an_upgrade(tree):
    conffiles = (tree / "DEBIAN/conffiles").read_text().split()
    present = ["/" + str(f.relative_to(tree)) for f in (tree / "etc").rglob("*") if f.is_file()]
    assert sorted(conffiles) == sorted(present)


def test_maintainer_scripts_are_sound(tree):
    for name in ("postinst", "prerm", "postrm"):
        script = tree / "DEBIAN" / name
        assert os.access(script, os.X_OK) and script.read_text().startswith("#!/bin/sh\nset -e\n")
        subprocess.run(["sh", "-n", script], check=True)
    units = (tree / "usr/lib/systemd/system/plimsoll-node.service").read_text()
    user = re.search(r"^User=(.*)$", units, re.M).group(1)
    assert f" {user}\n" in (tree / "DEBIAN/postinst").read_text()


def test_what_is_packaged_runs(tree):
    binary = tree / "usr/bin/plimsoll"
    assert subprocess.run([binary, "--version"], capture_output=True).returncode == 0
    completion = tree / "usr/share/bash-completion/completions/plimsoll"
    subprocess.run(["bash", "-n", completion], check=True)
    assert "serve" in completion.read_text()


def test_the_man_page_knows_every_verb(tree):
    page = gzip.decompress((tree / "usr/share/man/man1/plimsoll.1.gz").read_bytes()).decode()
    usage = subprocess.run([BINARY, "--help"], capture_output=True, text=True).stdout
    verbs = re.findall(r"^  ([a-z-]+) ", usage.split("Subcommands:")[1], re.M)
    assert len(verbs) > 5
    missing = [verb for verb in verbs if f"\n.B {verb}\n" not in page]
    assert not missing, f"the man page says nothing of {missing}"
    assert page.index(".SH VERBS") < page.index(".B serve") < page.index(".SH ENVIRONMENT")
