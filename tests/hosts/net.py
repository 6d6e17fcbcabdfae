"""Machines of a test: network namespaces whose links meet in a bridge, in a namespace of its own.

Nothing outside the namespaces is touched: the bridge and every link live in namespaces that this
module made, under names with a random part, and go with them.
"""

import contextlib
import ctypes
import os
import secrets
import shutil
import subprocess

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class NotAllowed(Exception):
    """This machine lets nobody make namespaces, and why."""


def _ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise NotAllowed(f"`ip {' '.join(words)}` failed: {done.stderr.strip()}")


class Net:
    """`with Net() as net: host = net.host("node-1")`."""

    def __init__(self):
        if not shutil.which("ip"):
            raise NotAllowed("there is no `ip` command (package iproute2)")
        self._prefix = "plimsoll-" + secrets.token_hex(3)
        self._made = []
        self._switch = self._namespace("switch")
        with self._cleaning_up():
            _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "bridge", "up")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Processes in the namespaces are to be ended before."""
        while self._made:
            subprocess.run(["ip", "netns", "del", self._made.pop()], capture_output=True)

    @contextlib.contextmanager
    def _cleaning_up(self):
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _namespace(self, name):
        full = f"{self._prefix}-{name}"
        _ip("netns", "add", full)
        self._made.append(full)
        with self._cleaning_up():
            _ip("-n", full, "link", "set", "lo", "up")
        return full

    def host(self, name):
        number = len(self._made)
        host = Host(self._namespace(name), f"10.99.0.{number}")
        with self._cleaning_up():
            port = f"port{number}"
            _ip("-n", self._switch, "link", "add", port, "type", "veth",
                "peer", "name", "eth0", "netns", host.namespace)
            _ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
            _ip("-n", host.namespace, "addr", "add", host.address + "/24", "dev", "eth0")
            _ip("-n", host.namespace, "link", "set", "eth0", "up")
        return host


class Host:
    def __init__(self, namespace, address):
        self.namespace = namespace
        self.address = address

    def command(self, words):
        """The words that run a command on this host."""
        return ["ip", "netns", "exec", self.namespace, *map(str, words)]

    def link(self, up):
        _ip("-n", self.namespace, "link", "set", "eth0", "up" if up else "down")

    def enter(self):
        """Moves the calling thread, for good: its new sockets are on this host."""
        descriptor = os.open(f"/run/netns/{self.namespace}", os.O_RDONLY)
        try:
            if _libc.setns(descriptor, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)


class Loopback:
    """Stands in for a Net where one machine will do: every host is this one."""

    def host(self, _name):
        return LoopbackHost()


class LoopbackHost:
    address = "127.0.0.1"

    def command(self, words):
        return list(map(str, words))

    def enter(self):
        pass
