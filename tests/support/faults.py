"""What a test of a fault needs: doors that hold a step, programs that are seen, and the truth afterwards."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import redis

from dynsvc.kue import parse_event
from dynsvc.standins.server import Reply, Request, Standin
from tests.support.hospital import CASE_ID, SLIDE, Hospital, Program, eventually
from tests.support.orders import v4
from tests.support.redis import RedisProcess

#: Leases that run out within seconds, for tests that do not measure the defaults.
FAST = {"DYNSVC_LEASE_S": "1.5", "DYNSVC_RESEND_S": "1.5", "DYNSVC_POLL_S": "0.2"}
STATES = ("inactive", "active", "complete", "failed", "delayed")
_HELD_S = 90.0
_BRIDGE = [sys.executable, "-m", "bridge"]


class Door:
    """Holds the requests to a stand-in, as a slow server does, until it is opened.

    Parameters
    ----------
    standin
        The server.
    behind
        Whether the request has its effect before it is held: only the answer is late.
    cut
        Whether the connection is cut instead of answered.
    path
        Only requests whose path contains this are held.
    """

    def __init__(self, standin: Standin, *, behind: bool = False, cut: bool = False, path: str = "") -> None:
        self._standin, self._answer = standin, standin.answer
        self._behind, self._cut, self._path = behind, cut, path
        self._open = threading.Event()
        self._lock = threading.Lock()
        #: Requests that have come to the door.
        self.count = 0
        standin.answer = self._held  # type: ignore[method-assign]

    def _held(self, request: Request) -> Reply:
        if self._open.is_set() or self._path not in request.target:
            return self._answer(request)
        reply = self._answer(request) if self._behind else None
        with self._lock:
            self.count += 1
        if not self._cut:
            self._open.wait(_HELD_S)
        if self._cut:
            raise ConnectionResetError("cut by the test")
        return reply or self._answer(request)

    def wait_for(self, count: int = 1) -> None:
        eventually(lambda: self.count >= count, 40, f"{count} requests at the door")

    def open(self) -> None:
        self._open.set()


class Segmenter:
    """``mainSegmentFeatures`` that tells when it runs, and goes on for as long as it is held."""

    def __init__(self, site: Hospital) -> None:
        site.install_copying_segmenter()
        self._folder = site.folder
        self._runs, self._hold = site.folder / "runs", site.folder / "hold"
        self._runs.touch()
        site.install(
            "mainSegmentFeatures",
            f'#!/bin/sh\necho $$ >> {self._runs}\nwhile [ "$1" != -z ]; do shift; done\n'
            f'while [ -e {self._hold} ]; do sleep 0.1; done\nexec cp {site.folder / "ready.zip"} "$2"\n',
        )

    def hold(self) -> None:
        self._hold.touch()

    def let_go(self) -> None:
        self._hold.unlink(missing_ok=True)

    @property
    def pids(self) -> list[int]:
        return [int(line) for line in self._runs.read_text().split()]

    def wait_for(self, count: int = 1) -> None:
        eventually(lambda: len(self.pids) >= count, 40, f"{count} runs of the program")

    def living(self) -> list[int]:
        return [pid for pid in self.pids if alive(pid) and self._is_ours(pid)]

    def _is_ours(self, pid: int) -> bool:
        # Numbers of processes come round again.
        try:
            return os.fsencode(self._folder) in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False


def alive(pid: int) -> bool:
    """Say whether the process runs; one that only waits to be reaped does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


class Ends:
    """Counts how often each order ends, by Kue's events."""

    def __init__(self, server: RedisProcess) -> None:
        self._server = server
        self.complete: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._stopped, self._ready = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Ends:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopped.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopped.is_set():
            # A restart of the server ends a subscription.
            with (
                contextlib.suppress(redis.RedisError),
                self._server.client() as client,
                client.pubsub() as channel,
            ):
                channel.subscribe("q:events")
                while not self._stopped.is_set():
                    message = channel.get_message(timeout=0.2)
                    if message and message["type"] == "subscribe":
                        self._ready.set()
                    elif message:
                        self._note(message["data"])
            time.sleep(0.02)

    def _note(self, data: Any) -> None:
        event = parse_event(data)
        if event is not None and event.is_complete:
            self.complete[event.job_id] += 1
        elif event is not None and event.is_failed:
            self.failed[event.job_id] += 1

    def twice(self) -> list[str]:
        return [order_id for order_id, count in (self.complete + self.failed).items() if count > 1]


def place(site: Hospital, count: int = 1, case_ids: Iterable[str] = (CASE_ID,), **options: Any) -> list[str]:
    cases = list(case_ids)
    return [
        site.jobs.create(
            "analysisJob", v4(case_id=cases[i % len(cases)], x=10, y=20 + i % 100, w=64, h=48), **options
        )
        for i in range(count)
    ]


def add_cases(site: Hospital, count: int) -> list[str]:
    """Make the location service know *count* more cases, all on the one slide."""
    cases = [f"CASE-{number:04d}" for number in range(count)]
    site.bindaas.records += [{"case_id": c, "subject_id": c, "file-location": SLIDE} for c in cases]
    return cases


def uploads_of(site: Hospital) -> Counter[str]:
    """Count the uploads of each order: a zip holds its order's picture under the order's id."""
    found: Counter[str] = Counter()
    for job in site.uploads():
        with zipfile.ZipFile(job.zip_path) as archive:
            pictures = [name for name in archive.namelist() if name.lower().endswith((".jpeg", ".jpg"))]
        assert len(pictures) == 1, archive.namelist()
        found[pictures[0].rpartition(".")[0]] += 1
    return found


def indexed(site: Hospital, order_id: str) -> dict[str, list[str]]:
    """Return the indices that list the order, by state."""
    found: dict[str, list[str]] = {}
    member = f"{len(order_id):02d}|{order_id}"
    with site.redis.client() as client:
        for state in STATES:
            names = [f"q:jobs:{state}", f"q:jobs:analysisJob:{state}"]
            held = [name for name in names if client.zscore(name, member) is not None]
            if held:
                found[state] = held
    return found


def without_end(site: Hospital) -> list[str]:
    """Return what of the ledger would stay for ever."""
    with site.redis.client() as client:
        return sorted(name for name in client.scan_iter("dynsvc:*") if client.ttl(name) == -1)


def assert_ended(site: Hospital, *order_ids: str, state: str = "complete", limit_s: float = 60.0) -> None:
    """Wait for the orders' end; then Kue's hash and indices agree and the ledger knows nothing of them."""
    site.wait_ended(*order_ids, limit_s=limit_s)
    for order_id in order_ids:
        job = site.jobs.read(order_id)
        assert job is not None
        assert job.state == state, (order_id, job.state, job.error, site.jobs.log_lines(order_id))
        assert indexed(site, order_id) == {state: [f"q:jobs:{state}", f"q:jobs:analysisJob:{state}"]}
    eventually(lambda: not without_end(site), 10, "the ledger is empty")


def assert_uploaded_once(site: Hospital, *order_ids: str) -> None:
    assert uploads_of(site) == Counter(order_ids)
    assert {upload.outcome for upload in site.uploads()} <= {"loaded", "loading"}


def start(
    site: Hospital, *options: str, workers: int = 1, bridges: int = 1, **env: str
) -> tuple[list[Program], list[Program]]:
    """Start workers and bridges at the same time, and wait for all."""
    env = {**FAST, **env}
    started = [site.start_worker(*options, wait=False, **env) for _ in range(workers)]
    bridging = [site.start("bridge", _BRIDGE, **env) for _ in range(bridges)]
    for worker in started:
        worker.wait_for(" ready.")
    for bridge in bridging:
        bridge.wait_for("bridge started")
    return started, bridging


def start_worker(site: Hospital, *options: str, **env: str) -> Program:
    return site.start_worker(*options, **{**FAST, **env})


def children(pid: int) -> list[int]:
    found = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(text) for texts in found for text in texts]


@contextlib.contextmanager
def full_disk(folder: Path, size: str = "2m") -> Iterator[Callable[[bool], None]]:
    """Mount a tiny disk on *folder*, and return what fills it (True) and frees it (False)."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "tmpfs", str(folder)], check=True)
    ballast = folder / "ballast"

    def fill(full: bool) -> None:
        if not full:
            ballast.unlink(missing_ok=True)
            return
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
            while True:
                stream.write(b"x" * 4096)

    try:
        yield fill
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def can_mount() -> bool:
    return os.geteuid() == 0
