"""A real RabbitMQ server for tests: a node of its own, on free ports, its files in its own folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from kombu import Connection

from tests.support.redis import free_port
from tests.support.services import missing

START_S = 60.0


class RabbitProcess:
    """One server.

    Parameters
    ----------
    consumer_timeout_ms
        A message that is not acknowledged for this long is sent to somebody else.
    """

    def __init__(self, *, consumer_timeout_ms: int = 1_800_000) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="dynsvc-rabbitmq-"))
        #: Erlang's name service outlives its nodes, so it gets a port of its own and is ended with them.
        self._names_port = free_port()
        self._timeout_ms = consumer_timeout_ms
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> RabbitProcess:
        program = shutil.which("rabbitmq-server", path=f"/usr/lib/rabbitmq/bin:{os.environ['PATH']}")
        if program is None:
            missing("rabbitmq-server")
        config = self.folder / "rabbitmq.conf"
        config.write_text(
            f"listeners.tcp.local = 127.0.0.1:{self.port}\nconsumer_timeout = {self._timeout_ms}\n"
        )
        # The server looks at its channels this often; the simple file has no word for it.
        advanced = self.folder / "advanced.config"
        advanced.write_text("[{rabbit, [{channel_tick_interval, 1000}]}].\n")
        # The cookie must be its user's alone.
        cookie = self.folder / ".erlang.cookie"
        cookie.unlink(missing_ok=True)
        cookie.write_text("TESTSOFDYNSVC")
        cookie.chmod(0o400)
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": f"dynsvc{self.port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(advanced),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1",
            "ERL_EPMD_PORT": str(self._names_port),
        }
        with (self.folder / "output").open("ab") as log:
            self._process = subprocess.Popen(
                [program],
                env=env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError), Connection(self.url, connect_timeout=2) as connection:
                connection.connect()
                return self
            if self._process.poll() is not None or time.monotonic() > deadline:
                output = (self.folder / "output").read_text(errors="replace")
                self.close()
                raise AssertionError(f"rabbitmq-server did not start: {output[-2000:]}")
            time.sleep(0.2)

    def kill(self) -> None:
        """SIGKILL the server; its files stay."""
        assert self._process is not None, "the server is not running"
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(20)

    def close(self) -> None:
        if self._process is not None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(20)
            self._process = None
            names = {**os.environ, "ERL_EPMD_PORT": str(self._names_port)}
            subprocess.run(["epmd", "-kill"], env=names, capture_output=True, timeout=20, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def running_rabbitmq(*, consumer_timeout_ms: int = 1_800_000) -> Iterator[RabbitProcess]:
    """Run a server of one's own."""
    server = RabbitProcess(consumer_timeout_ms=consumer_timeout_ms)
    try:
        yield server.start()
    finally:
        server.close()
