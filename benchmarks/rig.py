"""A hospital to measure in: real Redis and Kue, servers that answer from memory, and dynsvc's own processes.

A program with a state of its own is started for each run and ended after it; orders wait in Kue until the
clock starts.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import requests
from PIL import Image

from benchmarks.usage import resident_mib, split
from tests.support import orders
from tests.support.hospital import API_KEY, Program
from tests.support.kue import KueApi, KueProcess, install_kue
from tests.support.redis import RedisProcess

__all__ = ["SIDE_PX", "Measured", "Rig", "Side"]

HERE = Path(__file__).resolve().parent
SIDE_PX = 512
ZIP_BYTES = 100_000
#: Orders of one run are spread over so many slides.
SLIDES = 8
_LIMIT_S = 300.0
_SAMPLE_S = 0.5

_DESCRIPTOR = """
schema = 1
name = "copy{ms}"
title = "Copies a ready zip after {ms} ms"
version = "1"
command = ["{program}", "{ready}", "{ms}", "{{output_dir}}/output.zip"]
default_mpp = 0.25
[limits]
timeout_s = 60
memory_mib = 16
cpus = 0.05
pids = 8
[outputs]
required = ["output.zip"]
archive = "output.zip"
include_input = false
"""


@dataclass
class Measured:
    """One run of one side."""

    orders: int
    seconds: float
    #: CPU seconds by kind of process.
    cpu_s: dict[str, float]
    #: Largest memory seen, by kind of process.
    peak_mib: dict[str, float] = field(default_factory=dict)

    @property
    def per_s(self) -> float:
        return self.orders / self.seconds

    def cpu_ms(self, *names: str) -> float:
        """Return CPU milliseconds per order of these kinds of process; of all by default."""
        return 1000 * sum(self.cpu_s[name] for name in names or self.cpu_s) / self.orders

    def document(self) -> dict[str, Any]:
        return {
            "orders": self.orders,
            "seconds": round(self.seconds, 4),
            "orders_per_s": round(self.per_s, 2),
            "cpu_ms_per_order": {name: round(self.cpu_ms(name), 3) for name in self.cpu_s},
            "peak_mib": {name: round(mib, 1) for name, mib in self.peak_mib.items()},
        }


class Node(KueProcess):
    """One of our own Node programs; modules come from the tests' folder."""

    def __init__(self, name: str, redis_port: int, **options: Any) -> None:
        self.script = str(HERE / "node" / name)
        super().__init__(redis_port, **options)


@dataclass
class Side:
    """Who works off the orders: its processes by kind, and the type of job it takes."""

    job_type: str
    pids: dict[str, list[int]]
    #: Those that are held until the clock starts.
    held: list[int]
    programs: list[Program] = field(default_factory=list)


class Rig:
    """Everything that a run needs. Use it as a context manager.

    Parameters
    ----------
    redis_options
        For the orders' Redis.
    """

    def __init__(self, *redis_options: str) -> None:
        if missing := install_kue():
            sys.exit(f"not installed: {missing}")
        if not shutil.which("gcc"):
            sys.exit("not installed: gcc")
        self._undo = ExitStack()
        self.redis = RedisProcess(*redis_options)
        self.folder = Path(tempfile.mkdtemp(prefix="dynsvc-benchmark-"))
        self._numbers = itertools.count(1)
        self._regions = itertools.count(1)
        self.env: dict[str, str] = {}

    def __enter__(self) -> Rig:
        self._undo.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.redis.start()
        self._undo.callback(self.redis.close)
        self._make_files()
        self.kue = KueApi(self.redis.port)
        self._undo.callback(self.kue.stop)
        self.kue.wait_ready()
        options = {"picture": str(self.folder / "picture.jpg")}
        self.peers = Node("peers.js", self.redis.port, **options)
        self._undo.callback(self.peers.stop)
        self.peers_url = f"http://127.0.0.1:{self.peers.wait_ready()}"
        self._write_config()
        self.client = self.redis.client()
        self._undo.callback(self.client.close)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._undo.close()

    def _make_files(self) -> None:
        noise = numpy.random.default_rng(7).integers(150, 230, (64, 64, 3), dtype=numpy.uint8)
        picture = Image.fromarray(noise).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
        picture.save(self.folder / "picture.jpg", quality=90)
        ready = self.folder / "ready.zip"
        with zipfile.ZipFile(ready, "w") as archive:
            archive.writestr("mask.png", numpy.random.default_rng(8).bytes(ZIP_BYTES))
        program = self.folder / "copy"
        subprocess.run(["gcc", "-O2", "-o", str(program), str(HERE / "program.c")], check=True)
        self.program = [str(program), str(ready)]
        algorithms = self.folder / "algorithms"
        for ms in (0, 200):
            folder = algorithms / f"copy{ms}"
            folder.mkdir(parents=True)
            text = _DESCRIPTOR.format(program=program, ready=ready, ms=ms)
            (folder / "algorithm.toml").write_text(text)

    def _write_config(self) -> None:
        port = self.peers_url.rpartition(":")[2]
        server = {"host": "127.0.0.1", "port": port}
        document = {
            "orders": {
                "redis": {"host": "127.0.0.1", "port": str(self.redis.port)},
                "kue": {"host": "127.0.0.1", "port": str(self.kue.port), "path": "/job/"},
            },
            "images": {
                "location": {**server, "path": "/query/getFileLocationByIID"},
                "imageServer": {"url": self.peers_url, "format": "JPEG"},
                "api_key": API_KEY,
            },
            # Its Redis is left out: an order ends with its upload, as in the native worker.
            "annotations": {"server": {**server, "path": "/submitZipOrder"}},
        }
        (self.folder / "config.json").write_text(json.dumps(document))
        (self.folder / "tmp").mkdir()
        self.env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(HERE.parent),
            "TMPDIR": str(self.folder / "tmp"),
            "DYNSVC_CONFIG": str(self.folder / "config.json"),
            "DYNSVC_RUNTIME": "process",
            "DYNSVC_ALGORITHMS": str(self.folder / "algorithms"),
            "DYNSVC_BROKER_URL": f"redis://127.0.0.1:{self.redis.port}/1",
            # What is measured is the way of an order; the programs need hardly anything.
            "DYNSVC_HOST_CPUS": "64",
            "DYNSVC_HOST_MEMORY_MIB": "65536",
            "DYNSVC_WINDOW": "64",
        }

    # -- orders ---------------------------------------------------------------------------------------------

    def document(self, ms: int) -> dict[str, Any]:
        """Return the viewer's document of another order."""
        number = next(self._regions)
        case_id = f"TCGA-02-{number % SLIDES:04d}-01Z-00-DX1"
        return orders.v4(case_id=case_id, algorithm=f"copy{ms}", x=number, y=0, w=SIDE_PX, h=SIDE_PX)

    def place(self, job_type: str, count: int, ms: int) -> list[str]:
        """Order by Kue's HTTP API, one request for each, and return the ids."""
        return [self.kue.post_job(job_type, self.document(ms)) for _ in range(count)]

    def fill(self, job_type: str, count: int) -> None:
        """Have *count* orders wait behind all others. Not by Kue, which would take minutes."""
        text = json.dumps(self.document(0))
        first = int(self.client.incrby("q:ids", count)) - count + 1
        pipeline = self.client.pipeline(transaction=False)
        for number in range(first, first + count):
            member = f"{len(str(number)):02d}|{number}"
            fields = {"type": job_type, "data": text, "state": "inactive", "priority": "10"}
            pipeline.hset(f"q:job:{number}", mapping=fields | {"max_attempts": "1", "created_at": "1"})
            for index in ("q:jobs", "q:jobs:inactive", f"q:jobs:{job_type}:inactive"):
                pipeline.zadd(index, {member: 10})
            if number % 1000 == 0:
                pipeline.execute()
        pipeline.execute()

    def empty(self, job_type: str) -> None:
        """Take the orders that still wait out of Kue."""
        for index in ("q:jobs:inactive", "q:jobs"):
            self.client.zdiffstore(index, [index, f"q:jobs:{job_type}:inactive"])
        self.client.delete(f"q:jobs:{job_type}:inactive")

    def asked(self, left_px: str) -> list[float]:
        """Return when the image server was asked for the region at *left_px*, ms since the epoch."""
        seen: dict[str, list[float]] = requests.get(f"{self.peers_url}/seen", timeout=30).json()["seen"]
        return seen[left_px]

    def ended(self, job_type: str) -> int:
        failed = self.client.zcard(f"q:jobs:{job_type}:failed")
        if failed:
            (first,) = self.client.zrange(f"q:jobs:{job_type}:failed", 0, 0)
            raise AssertionError(self.client.hget(f"q:job:{first.partition('|')[2]}", "error"))
        return int(self.client.zcard(f"q:jobs:{job_type}:complete"))

    # -- sides ----------------------------------------------------------------------------------------------

    @contextmanager
    def dynsvc(self, processes: int = 1, slots: int = 32, **env: str) -> Iterator[Side]:
        """A bridge, and worker processes that have *slots* together."""
        job_type = f"dynsvc{next(self._numbers)}"
        env = {**self.env, "DYNSVC_JOB_TYPES": job_type, **env}
        with self.redis.client(db=1) as broker:
            broker.flushdb()
        # What an earlier run left in flight would take places in the window.
        self.client.delete("dynsvc:q:leases")
        programs = []
        try:
            for number in range(processes):
                share = slots // processes + (number < slots % processes)
                argv = [sys.executable, "-m", "celery", "-A", "dynsvc", "worker", "-n", f"w{number}@%h"]
                programs.append(Program("worker", [*argv, "-c", str(share)], env, self.folder))
            bridge = Program("bridge", [sys.executable, "-m", "bridge"], env, self.folder)
            programs.append(bridge)
            for worker in programs[:-1]:
                worker.wait_for(" ready.")
            bridge.wait_for("bridge started")
            pids = {
                "bridge": [bridge.process.pid],
                "workers": [worker.process.pid for worker in programs[:-1]],
                "redis": [self.redis.pid],
                "peers": [self.peers.pid],
            }
            yield Side(job_type, pids, [bridge.process.pid], programs)
        except BaseException:
            for program in programs:
                print(f"==> {program.log_path.name}\n{program.log[-3000:]}", file=sys.stderr)
            raise
        finally:
            for program in programs:
                with contextlib.suppress(ProcessLookupError):
                    program.send(signal.SIGTERM)
            for program in programs:
                program.stop()
                program.log_path.unlink(missing_ok=True)

    @contextmanager
    def native(self, concurrency: int, ms: int) -> Iterator[Side]:
        """A native Kue worker in one Node process."""
        job_type = f"native{next(self._numbers)}"
        node = Node(
            "native.js",
            self.redis.port,
            type=job_type,
            concurrency=concurrency,
            peers=self.peers_url,
            scratch=str(self.folder / "tmp"),
            program=[*self.program, str(ms)],
        )
        try:
            node.wait_ready()
            node.send({"go": True})
            pids = {"worker": [node.pid], "redis": [self.redis.pid], "peers": [self.peers.pid]}
            yield Side(job_type, pids, [node.pid])
        finally:
            node.stop()

    def run(self, side: Side, count: int, ms: int, *, warm_up: int = 16, behind: int = 0) -> Measured:
        """Let *side* work off *count* orders that wait, after a few that warm it up.

        With *behind*, so many others wait behind them, and some of those are worked off too at the end.
        """
        self.place(side.job_type, warm_up, ms)
        self.until(lambda: self.ended(side.job_type) >= warm_up)
        for pid in side.held:
            os.kill(pid, signal.SIGSTOP)
        self.place(side.job_type, count, ms)
        self.fill(side.job_type, behind)
        return self.measured(
            side.pids, side.held, count, lambda: self.ended(side.job_type) >= warm_up + count
        )

    def measured(
        self,
        pids: Mapping[str, Iterable[int]],
        held: Iterable[int],
        count: int,
        done: Callable[[], bool],
    ) -> Measured:
        """Start the clock, let the held processes go on, and stop it when it is *done*."""
        before, peak_mib = split(pids), dict.fromkeys(pids, 0.0)
        began, next_sample = time.perf_counter(), 0.0
        for pid in held:
            os.kill(pid, signal.SIGCONT)
        while not done():
            if (now := time.perf_counter()) - began > _LIMIT_S:
                raise AssertionError(f"not done within {_LIMIT_S:g} s")
            if now > next_sample:
                next_sample = now + _SAMPLE_S
                peak_mib = {name: max(peak_mib[name], resident_mib(pids[name])) for name in pids}
            time.sleep(0.01)
        seconds = time.perf_counter() - began
        after = split(pids)
        return Measured(count, seconds, {name: after[name] - before[name] for name in pids}, peak_mib)

    @staticmethod
    def until(check: Callable[[], bool], limit_s: float = 60.0) -> None:
        deadline = time.monotonic() + limit_s
        while not check():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {limit_s:g} s: {check}")
            time.sleep(0.01)
