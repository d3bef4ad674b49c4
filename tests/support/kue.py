"""The real Kue 0.11.6 in Node processes: API, listener and producer, native worker."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

NODE = Path(__file__).parent / "node"
START_S = 60.0
ANSWER_S = 30.0


def install_kue() -> str | None:
    """Install Kue from the lock file where it is not there yet. Return what is missing, or None."""
    if not shutil.which("node"):
        return "Node (node)"
    with (Path(tempfile.gettempdir()) / f"dynsvc-npm-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (NODE / "node_modules" / "kue" / "package.json").exists():
            return None
        if not shutil.which("npm"):
            return "npm"
        done = subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund"],
            cwd=NODE,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return None if done.returncode == 0 else f"Kue (npm ci: {done.stderr.strip()[-300:]})"


class KueProcess:
    """A Node process that speaks one JSON document per line."""

    script = ""

    def __init__(self, redis_port: int, **options: Any) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        self._process = subprocess.Popen(
            ["node", self.script, json.dumps({"redis_port": redis_port, "prefix": "q", **options})],
            cwd=NODE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        #: Every document that the process has printed.
        self.printed: list[dict[str, Any]] = []
        self._unread: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # Kue itself prints a few sentences of its own.
            with contextlib.suppress(ValueError):
                document = json.loads(line)
                self.printed.append(document)
                self._unread.put(document)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, name: str, timeout_s: float = ANSWER_S) -> Any:
        """Wait for a document with *name* in it and return its value; others are passed over."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                document = self._unread.get(timeout=max(0.0, min(0.5, deadline - time.monotonic())))
            except queue.Empty:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self._log.seek(0)
                    raise AssertionError(
                        f"{self.script} printed no {name!r}; exit status {self._process.poll()}; "
                        f"{self._log.read().decode(errors='replace')[-2000:]}"
                    ) from None
                continue
            if name in document:
                return document[name]

    def wait_ready(self) -> Any:
        return self.wait_for("ready", START_S)

    def send(self, document: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(document) + "\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def stop(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join(5)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()


class KueApi(KueProcess):
    """Kue's JSON API and pages."""

    script = "api.js"

    def __init__(self, redis_port: int, **options: Any) -> None:
        super().__init__(redis_port, **options)
        self.session = requests.Session()
        self.session.trust_env = False
        self.port = 0

    def wait_ready(self) -> Any:
        self.port = super().wait_ready()
        return self.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> Any:
        return self._call("GET", path)

    def put(self, path: str) -> Any:
        return self._call("PUT", path)

    def delete(self, path: str) -> Any:
        return self._call("DELETE", path)

    def post_job(self, job_type: str, data: Any, **options: Any) -> str:
        answer = self._call("POST", "/job", json={"type": job_type, "data": data, "options": options})
        return str(answer["id"])

    def put_back(self, job_id: str) -> None:
        """Press the restart button of Kue's page."""
        self.get(f"/inactive/{job_id}")
        # Kue answers before it has done it. This goes through the same connection.
        self.get("/stats")

    def _call(self, method: str, path: str, **kwargs: Any) -> Any:
        answer = self.session.request(
            method, self.url + path, timeout=ANSWER_S, headers={"Accept": "application/json"}, **kwargs
        )
        answer.raise_for_status()
        return answer.json()

    def stop(self) -> None:
        self.session.close()
        super().stop()


class KueListener(KueProcess):
    """Creates jobs with ``queue.create(...).save()`` and hears what ``queue.on`` and ``job.on`` hear."""

    script = "listener.js"

    def create(self, job_type: str, data: Any, **options: Any) -> str:
        self.send({"create": {"type": job_type, "data": data, **options}})
        return str(self.wait_for("created"))

    def heard(self) -> list[dict[str, Any]]:
        """Return all events so far."""
        return [document for document in list(self.printed) if "queue" in document or "job" in document]

    def wait_for_marker(self, number: int) -> None:
        """Wait until the marker *number*, and so everything published before it, was heard."""
        deadline = time.monotonic() + ANSWER_S
        while not any(d.get("queue") == "marker" and d["id"] == number for d in self.heard()):
            assert time.monotonic() < deadline, f"marker {number} was not heard"
            time.sleep(0.005)


class NativeWorker(KueProcess):
    """Kue's own worker; it follows the steps in each job's data."""

    script = "worker.js"


@contextlib.contextmanager
def running(*processes: KueProcess) -> Iterator[None]:
    """Wait until all *processes* are ready, and stop them at the end."""
    try:
        for process in processes:
            process.wait_ready()
        yield
    finally:
        for process in processes:
            process.stop()
