"""`plimsoll serve` with several tenants, in a memory cgroup with a hard limit."""

import hashlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess

from traffic import Client

_spec = importlib.util.spec_from_file_location(
    "system_conftest", pathlib.Path(__file__).resolve().parents[1] / "system/conftest.py"
)
system = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(system)
BINARY, CHAT, EMBED = system.BINARY, system.CHAT, system.EMBED
MIB = 1 << 20
OPERATOR = "ops"


def key_of(tenant):
    return f"pk-{tenant}"


def tenant_entry(name, tier="standard", **limits):
    digest = hashlib.sha256(key_of(name).encode()).hexdigest()
    lines = [f"name: {name}", f"api_key_sha256: {digest}", f"tier: {tier}"]
    lines.append(f"operator: {'true' if name == OPERATOR else 'false'}")
    lines += [f"{key}: {value}" for key, value in limits.items()]
    return "  - " + "\n    ".join(lines) + "\n"


class Refused(Exception):
    """The server did not want to start with these options; says why."""


class Drill(system.Server):
    """`tenants` are entries of tenant_entry; an operator is always there. `settings` are serve's
    flags without the dashes, `switches` the environment's fire-drill hooks."""

    def __init__(self, folder, group, tenants=(), models=(CHAT,), switches=None, **settings):
        self.group = group
        config = pathlib.Path(folder) / "plimsoll.yaml"
        config.write_text("tenants:\n" + tenant_entry(OPERATOR) + "".join(tenants))
        settings.setdefault("cluster_state_directory", "")
        options = ["--config", str(config)]
        for key, value in settings.items():
            options += ["--" + key.replace("_", "-"), str(value)]
        try:
            super().__init__(
                *options,
                models=models,
                wrap=group.enter if group else None,
                environment={**os.environ, **(switches or {})},
            )
        except RuntimeError as e:
            raise Refused(str(e)) from None

    def client(self, tenant=OPERATOR):
        return Client(self.url, key_of(tenant))

    def operator_json(self, verb, *options):
        done = self.cli(verb, "--api-key", key_of(OPERATOR), "-o", "json", *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def events(self):
        return [json.loads(line) for line in self.operator_json("events").splitlines()]

    def memory(self):
        return json.loads(self.operator_json("memory"))

    def alive(self):
        return self.process.poll() is None

    def end(self):
        """However it is."""
        if self.alive():
            try:
                self.stop(30)
            except subprocess.TimeoutExpired:
                pass
        self.process.stdout.close()
        self.log.close()


def own_model_files(folder):
    """A copy of the chat model that no other process has mapped, so that its pages are charged to
    the group of whoever reads it. Returns what to give to --model."""
    copy = pathlib.Path(folder) / "model"
    if not copy.exists():
        shutil.copytree(system.MODELS / CHAT, copy)
    drop_from_page_cache(copy)
    return f"{CHAT}={next(copy.glob('*.gguf'))}"


def drop_from_page_cache(folder):
    for path in pathlib.Path(folder).iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def metric(text, name):
    """The sum over all series of one metric of /metrics."""
    return sum(
        float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    )
