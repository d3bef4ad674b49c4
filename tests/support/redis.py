"""Real Redis servers for tests: started on a free port, stopped by their process."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dynsvc.settings import RedisServer

START_S = 20.0


def find_redis() -> str | None:
    """Return the server program of this machine."""
    return shutil.which("redis-server", path="/usr/bin:/usr/local/bin:/opt/homebrew/bin") or shutil.which(
        "redis-server"
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisProcess:
    """One server. It can be stopped and started again on the same port, with or without its data."""

    def __init__(self, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.options = options
        self.folder = Path(tempfile.mkdtemp(prefix="dynsvc-redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> RedisServer:
        return RedisServer(host="127.0.0.1", port=self.port)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> RedisProcess:
        program = find_redis()
        assert program is not None, "redis-server is not installed"
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_S
        while True:
            # An answer that the server refuses is an answer too: it is up.
            with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
                with self.client() as client, contextlib.suppress(redis.AuthenticationError):
                    client.ping()
                return self
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"redis-server did not start: {(self.folder / 'log').read_text()}")
            time.sleep(0.02)

    def _arguments(self) -> list[str]:
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        return [*place, "--save", "", *self.options]

    def client(self, db: int = 0, *, password: str | None = None) -> redis.Redis:
        return redis.Redis(
            host="127.0.0.1",
            port=self.port,
            db=db,
            password=password,
            decode_responses=True,
            socket_timeout=10,
            retry=Retry(NoBackoff(), 0),
        )

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def running_redis(*options: str) -> Iterator[RedisProcess]:
    """Run a server of one's own."""
    server = RedisProcess(*options)
    try:
        yield server.start()
    finally:
        server.close()
