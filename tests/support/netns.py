"""Hosts of a test: network namespaces that reach this one at a single address, and nothing else."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator

from tests.support.services import missing

__all__ = ["Net", "forwarded", "running_net"]

_SUBNET = "10.213.77"


class Net:
    """A bridge of this machine with namespaces on it."""

    def __init__(self, hosts: tuple[str, ...]) -> None:
        mark = f"{os.getpid() % 100_000:x}"
        #: Where the namespaces find what this machine serves.
        self.address = f"{_SUBNET}.1"
        self.hosts = {name: f"dynsvc-{mark}-{name}" for name in hosts}
        self._bridge = f"dyn{mark}"

    def open(self) -> None:
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self.address}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for number, namespace in enumerate(self.hosts.values(), start=2):
            outside = f"{self._bridge}v{number}"
            _ip("netns", "add", namespace)
            _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            _ip("link", "set", outside, "master", self._bridge, "up")
            _ip("-n", namespace, "addr", "add", f"{_SUBNET}.{number}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", namespace, "link", "set", device, "up")

    def inside(self, host: str, *argv: str) -> list[str]:
        """Return the command that runs *argv* on a host."""
        return ["ip", "netns", "exec", self.hosts[host], *argv]

    def close(self) -> None:
        for namespace in self.hosts.values():
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True, check=False)


@contextlib.contextmanager
def running_net(*hosts: str) -> Iterator[Net]:
    """Have hosts with these names, as root."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        missing("iproute2 and the rights of root, for network namespaces")
    net = Net(hosts)
    try:
        net.open()
        yield net
    finally:
        net.close()


@contextlib.contextmanager
def forwarded(address: str, *ports: int) -> Iterator[None]:
    """Let the ports of 127.0.0.1 be reached at *address* too."""
    listeners = [socket.create_server((address, port)) for port in ports]
    for listener in listeners:
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()
    try:
        yield
    finally:
        for listener in listeners:
            # Wakes the thread that accepts.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()


def _accept(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    while True:
        try:
            near, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(near, port), daemon=True).start()


def _serve(near: socket.socket, port: int) -> None:
    with near, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 10) as far:
        far.settimeout(None)
        back = threading.Thread(target=_copy, args=(far, near), daemon=True)
        back.start()
        _copy(near, far)
        back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
