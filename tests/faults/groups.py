"""Memory cgroups with a hard limit, under which the kernel really kills: v2 where its memory
controller can be had, else v1, with a v2 group beside it for the stalls (PSI) of what is inside."""

import os
import pathlib
import signal
import subprocess
import sys
import time

V1, V2_HYBRID, V2 = (
    pathlib.Path("/sys/fs/cgroup") / name for name in ("memory", "unified", ".")
)
CHECK_BYTES = 64 << 20


class NotAllowed(Exception):
    """No group with a limit can be made here; says why."""


def _keyed(path, key):
    for line in path.read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


class Group:
    """One group, or one inside `parent`. With `limit_bytes` None it has only its parent's limit."""

    def __init__(self, name, limit_bytes=None, parent=None):
        self.name = f"{parent.name}/{name}" if parent else f"plimsoll-{name}-{os.getpid()}"
        self.folders = []
        try:
            if (V2 / "cgroup.controllers").exists():
                self._make_v2(limit_bytes, parent)
            else:
                self._make_v1(limit_bytes)
        except OSError as e:
            self.remove()
            raise NotAllowed(f"no memory cgroup can be made here: {e}") from e

    def _make(self, root):
        folder = root / self.name
        folder.mkdir()
        self.folders.append(folder)
        return folder

    def _make_v2(self, limit_bytes, parent):
        above = parent.folders[0] if parent else V2
        if "memory" not in (above / "cgroup.subtree_control").read_text().split():
            (above / "cgroup.subtree_control").write_text("+memory")
        self.memory = self._make(V2)
        self.version = 2
        if limit_bytes:
            (self.memory / "memory.max").write_text(str(limit_bytes))
        if (self.memory / "memory.swap.max").exists():
            (self.memory / "memory.swap.max").write_text("0")

    def _make_v1(self, limit_bytes):
        if not V1.is_dir():
            raise OSError("no memory controller is mounted")
        self.memory = self._make(V1)
        self.version = 1
        if limit_bytes:
            (self.memory / "memory.limit_in_bytes").write_text(str(limit_bytes))
            swap = self.memory / "memory.memsw.limit_in_bytes"
            if swap.exists():
                swap.write_text(str(limit_bytes))
        if (V2_HYBRID / "cgroup.procs").exists():
            self._make(V2_HYBRID)

    def enter(self, command):
        """A command line that runs `command` in the group."""
        joins = "".join(f"echo 0 > {folder}/cgroup.procs && " for folder in self.folders)
        return ["sh", "-c", joins + 'exec "$@"', "sh", *command]

    def oom_kills(self):
        if self.version == 2:
            return _keyed(self.memory / "memory.events", "oom_kill")
        return _keyed(self.memory / "memory.oom_control", "oom_kill")

    def limit_hits(self):
        if self.version == 2:
            return _keyed(self.memory / "memory.events", "max")
        return int((self.memory / "memory.failcnt").read_text())

    def unreclaimable_bytes(self):
        """What counts against the limit and is not clean file cache."""
        stat = self.memory / "memory.stat"
        if self.version == 2:
            used = int((self.memory / "memory.current").read_text())
            return used - _keyed(stat, "active_file") - _keyed(stat, "inactive_file")
        used = int((self.memory / "memory.usage_in_bytes").read_text())
        return used - _keyed(stat, "total_active_file") - _keyed(stat, "total_inactive_file")

    def remove(self):
        """Ends what is still inside, by its ids, and the group."""
        for folder in reversed(self.folders):
            for _ in range(100):
                inside = (folder / "cgroup.procs").read_text().split()
                for pid in inside:
                    try:
                        os.kill(int(pid), signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                try:
                    folder.rmdir()
                    break
                except OSError:
                    time.sleep(0.05)
        self.folders = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()


# Takes, and keeps, as many bytes as the number on each line says; gives all back at "0".
EATER = """
import mmap, sys
eaten = []
for line in sys.stdin:
    size = int(line)
    if size:
        eaten.append(mmap.mmap(-1, size))
        for page in range(0, size, mmap.PAGESIZE):
            eaten[-1][page] = 1
    else:
        while eaten:
            eaten.pop().close()
    print("done", flush=True)
"""


class Eater:
    """A neighbour: a process in the group."""

    def __init__(self, group):
        self.process = subprocess.Popen(
            group.enter([sys.executable, "-c", EATER]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def eat(self, size):
        self.process.stdin.write(f"{size}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline() == "done\n"

    def give_back(self):
        return self.eat(0)

    def end(self):
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


def why_not():
    """Why this machine has no groups for these tests; None if it has."""
    if os.geteuid() != 0:
        return "memory cgroups need root"
    try:
        with Group("check", CHECK_BYTES):
            return None
    except NotAllowed as e:
        return str(e)
