"""A whole installation on 127.0.0.1: Redis, stand-ins for the hospital's servers, one bridge, one worker."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from dynsvc.demo.processes import Processes, wait_for_line
from dynsvc.demo.redis_server import free_port, start_redis
from dynsvc.demo.subject import Subject
from dynsvc.settings import PREFIX, Settings
from dynsvc.standins.bindaas import BindaasStandin
from dynsvc.standins.imageserver import ImageServerStandin
from dynsvc.standins.loader import PATH as UPLOAD_PATH
from dynsvc.standins.loader import LoaderStandin

__all__ = ["Installation"]

_READY_S = 60.0


class Installation:
    """Everything between an order in Kue and a zip at the loader.

    Parameters
    ----------
    work
        An empty folder that only we may read; the caller deletes it.
    logs
        An existing folder for the programs' logs.
    subject
        The slide that the image server serves and the location service knows.
    algorithm
        Runs whatever an order asks for that names none.
    say
        Told what is being started.
    """

    def __init__(
        self, work: Path, logs: Path, subject: Subject, algorithm: str, say: Callable[[str], None]
    ) -> None:
        self._work, self._subject, self._algorithm, self._say = work, subject, algorithm, say
        self._stack = ExitStack()
        self.processes = Processes(logs)
        api_key = secrets.token_hex(16)
        self._key_file = work / "api_key.json"
        self._key_file.touch(0o600)
        self._key_file.write_text(json.dumps({"api_key": api_key}), encoding="utf-8")
        self.images = ImageServerStandin(subject.path.resolve().parent)
        self.bindaas = BindaasStandin([subject.record], api_key=api_key)
        self.loader = LoaderStandin(work / "loader")
        self.loader.behaviour.delay_s = 0.2
        self.flower_url: str | None = None
        self.settings: Settings
        self._env: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        self._stack.enter_context(self.processes)
        self._say("image server, location service and loader (stand-ins)")
        for standin in (self.images, self.bindaas, self.loader):
            self._stack.enter_context(standin)
        self._say("Redis")
        server = start_redis(self.processes, self._work)
        assert server.password  # noqa: S101 - start_redis sets one
        config = self._work / "config.json"
        config.touch(0o600)
        document = self._peers(server.port, server.password.get_secret_value()) | self._own_settings()
        config.write_text(json.dumps(document, indent=2))
        kept = {name: value for name, value in os.environ.items() if not name.startswith((PREFIX, "CELERY_"))}
        ours = {"DYNSVC_CONFIG": str(config)}
        self.settings = Settings.load(ours)
        self._env = kept | ours | {"PYTHONUNBUFFERED": "1"}
        self._say("bridge and worker")
        bridge = self._run("bridge", "-m", "bridge")
        worker = self._run(
            "worker",
            *("-m", "celery", "-A", "dynsvc", "worker", "--concurrency", "2", "-n", "demo@%h", "-l", "INFO"),
            *("--without-gossip", "--without-mingle"),  # there is no other worker
        )
        wait_for_line(self.processes, bridge, "bridge started", _READY_S)
        wait_for_line(self.processes, worker, " ready.", _READY_S)

    def start_flower(self) -> str:
        """Start Flower and return its URL."""
        port = free_port()
        log = self._run(
            "flower", "-m", "celery", "-A", "dynsvc", "flower", "--address=127.0.0.1", f"--port={port}"
        )
        wait_for_line(self.processes, log, "Visit me at", _READY_S)
        self.flower_url = f"http://127.0.0.1:{port}"
        return self.flower_url

    def _run(self, name: str, *argv: str) -> Path:
        return self.processes.start(name, [sys.executable, *argv], env=self._env, cwd=self._work)

    def _own_settings(self) -> dict[str, object]:
        """Return what the original's config.json does not know; in the file, so that commands find it too."""
        settings: dict[str, object] = {
            "runtime": "process",
            "scratch": str(self._work / "scratch"),
            "default_algorithm": self._algorithm,
            "poll_s": 0.2,
            # The page shows one picture.
            "one_piece_px": 150_000_000,
        }
        if folder := os.environ.get("DYNSVC_ALGORITHMS"):
            settings["algorithms"] = str(Path(folder).resolve())
        return settings

    def _peers(self, redis_port: int, password: str) -> dict[str, object]:
        """Return config.json in the original's format; its ports are texts there too."""
        location = self.bindaas.location_url.removeprefix(self.bindaas.url)
        return {
            "orders": {
                "redis": {
                    "host": "127.0.0.1",
                    "port": str(redis_port),
                    "channel": "q:events",
                    "password": password,
                }
            },
            "images": {
                "location": {"host": "127.0.0.1", "port": str(self.bindaas.port), "path": location},
                "imageServer": {"url": f"127.0.0.1:{self.images.port}", "format": "JPEG"},
                "api_key_file": self._key_file.name,
            },
            "annotations": {
                "server": {"host": "127.0.0.1", "port": str(self.loader.port), "path": UPLOAD_PATH},
                # The loader's own Kue over HTTP: it tells when the zip was loaded.
                "kue": {"host": "127.0.0.1", "port": str(self.loader.port), "path": "/job/"},
            },
        }
