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
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
import requests

from benchmarks.figures import Measured, resting
from benchmarks.redisload import load
from benchmarks.scenery import SIDE_PX, TILE_PX, environment, make_files
from benchmarks.usage import busy_s, cpu_s, own_cpu_s, split
from tests.support import orders
from tests.support.hospital import Program
from tests.support.kue import KueApi, KueProcess, install_kue
from tests.support.rabbitmq import RabbitProcess
from tests.support.redis import RedisProcess

__all__ = ["Broker", "Rig", "Side"]

#: A server of its own for Celery's messages.
Broker = RedisProcess | RabbitProcess

HERE = Path(__file__).resolve().parent
#: Orders of one run are spread over so many slides.
SLIDES = 8
WARM_UP = 16
_LIMIT_S = 300.0


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
    #: Clients of the Redis servers whose work is counted, by name.
    servers: dict[str, redis.Redis] = field(default_factory=dict)
    programs: list[Program] = field(default_factory=list)

    def hold(self) -> None:
        """Nothing new begins from now on."""
        for pid in self.held:
            os.kill(pid, signal.SIGSTOP)

    def let_go(self) -> None:
        for pid in self.held:
            os.kill(pid, signal.SIGCONT)


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
        #: How often :meth:`ended` has asked.
        self._looks = 0

    def __enter__(self) -> Rig:
        self._undo.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.redis.start()
        self._undo.callback(self.redis.close)
        self.program = make_files(self.folder)
        self.kue = KueApi(self.redis.port)
        self._undo.callback(self.kue.stop)
        self.kue.wait_ready()
        options = {"picture": str(self.folder / "picture.jpg")}
        self.peers = Node("peers.js", self.redis.port, **options)
        self._undo.callback(self.peers.stop)
        self.peers_url = f"http://127.0.0.1:{self.peers.wait_ready()}"
        (self.folder / "tmp").mkdir()
        self.env = environment(self.folder, self.redis.port, self.kue.port, self.peers_url)
        self.client = self.redis.client()
        self._undo.callback(self.client.close)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._undo.close()

    # -- orders ---------------------------------------------------------------------------------------------

    def document(self, ms: int) -> dict[str, Any]:
        """Return the viewer's document of another order, for the program that sleeps so long."""
        return self.ordering(f"copy{ms}")

    def ordering(self, algorithm: str) -> dict[str, Any]:
        """Return the viewer's document of an order for another region."""
        number = next(self._regions)
        case_id = f"TCGA-02-{number % SLIDES:04d}-01Z-00-DX1"
        return orders.v4(case_id=case_id, algorithm=algorithm, x=number, y=0, w=SIDE_PX, h=SIDE_PX)

    def in_tiles(self, tiles_on_a_side: int) -> dict[str, Any]:
        """Return the document of an order for a square of so many times so many tiles."""
        side_px = tiles_on_a_side * TILE_PX
        case_id = f"TCGA-02-{next(self._regions) % SLIDES:04d}-01Z-00-DX1"
        return orders.v4(case_id=case_id, algorithm="tiles", x=0, y=0, w=side_px, h=side_px)

    def place(self, job_type: str, count: int, ms: int) -> list[str]:
        """Order by Kue's HTTP API, one request for each, and return the ids."""
        return [self.kue.post_job(job_type, self.document(ms)) for _ in range(count)]

    def fill(self, job_type: str, count: int) -> None:
        """Have *count* orders wait behind all others. Not by Kue, which would take minutes."""
        first, _, last = json.dumps(self.document(0)).partition('"x": "')
        last = last.partition('"')[2]
        begin = int(self.client.incrby("q:ids", count)) - count + 1
        pipeline = self.client.pipeline(transaction=False)
        pipeline.sadd("q:job:types", job_type)
        for number in range(begin, begin + count):
            member = f"{len(str(number)):02d}|{number}"
            text = f'{first}"x": "{number % 99_000}"{last}'
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
        with self.client.pipeline(transaction=False) as pipeline:
            for state in ("failed", "complete"):
                pipeline.zcard(f"q:jobs:{job_type}:{state}")
            failed, complete = pipeline.execute()
        self._looks += 1
        if failed:
            (first,) = self.client.zrange(f"q:jobs:{job_type}:failed", 0, 0)
            raise AssertionError(self.client.hget(f"q:job:{first.partition('|')[2]}", "error"))
        return int(complete)

    # -- sides ----------------------------------------------------------------------------------------------

    @contextmanager
    def dynsvc(
        self,
        processes: int = 1,
        slots: int = 32,
        *,
        broker: Broker | None = None,
        queues: tuple[str, ...] = ("io,cpu",),
        arguments: tuple[str, ...] = (),
        bridges: int = 1,
        **env: str,
    ) -> Iterator[Side]:
        """A bridge, and worker processes that have *slots* together.

        Parameters
        ----------
        broker
            A database of the orders' Redis by default.
        queues
            So many workers for each of the *processes*, each for queues of its own and with all its slots.
        arguments
            For each worker.
        bridges
            Side by side.
        """
        job_type = f"dynsvc{next(self._numbers)}"
        env = {**self.env, "DYNSVC_JOB_TYPES": job_type, **env}
        servers = {"orders": self.client}
        if broker is None:
            with self.redis.client(db=1) as messages:
                messages.flushdb()
        else:
            env["DYNSVC_BROKER_URL"] = broker.url
            if isinstance(broker, RedisProcess):
                servers["broker"] = broker.client()
                servers["broker"].flushall()
        # What an earlier run left in flight would take places in the window.
        self.client.delete("dynsvc:q:leases")
        programs: list[Program] = []
        try:
            for number, queue in itertools.product(range(processes), queues):
                share = slots // processes + (number < slots % processes)
                name = f"w{number}-{queue.replace(',', '-')}@%h"
                argv = [sys.executable, "-m", "celery", "-A", "dynsvc", "worker", "-n", name, "-Q", queue]
                programs.append(Program("worker", [*argv, "-c", str(share), *arguments], env, self.folder))
            workers = list(programs)
            argv = [sys.executable, "-m", "bridge"]
            programs += [Program("bridge", argv, env, self.folder) for _ in range(bridges)]
            for worker in workers:
                worker.wait_for(" ready.")
            for bridge in programs[len(workers) :]:
                bridge.wait_for("bridge started")
            pids = {
                "bridge": [bridge.process.pid for bridge in programs[len(workers) :]],
                "workers": [worker.process.pid for worker in workers],
                "redis": [self.redis.pid],
                "peers": [self.peers.pid],
            }
            if broker is not None:
                pids["broker"] = [broker.pid]
            yield Side(job_type, pids, pids["bridge"], servers, programs)
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
            if "broker" in servers:
                servers["broker"].close()

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
            yield Side(job_type, pids, [node.pid], {"orders": self.client})
        finally:
            node.stop()

    def run(self, side: Side, count: int, ms: int, *, idle_s: float = 0.0, look_s: float = 0.01) -> Measured:
        """Let *side* work off *count* orders that wait, after a few that warm it up and *idle_s* of rest."""
        self.place(side.job_type, WARM_UP, ms)
        self.until(lambda: self.ended(side.job_type) >= WARM_UP)
        idle = resting(side.pids, idle_s) if idle_s else {}
        side.hold()
        self.place(side.job_type, count, ms)
        measured = self.measured(
            side.pids,
            side.held,
            count,
            lambda: self.ended(side.job_type) >= WARM_UP + count,
            servers=side.servers,
            look_s=look_s,
        )
        measured.idle = idle
        return measured

    def steady(self, side: Side, waiting: int, seconds: float) -> Measured:
        """Measure *side* at work for *seconds*, while *waiting* orders wait: each that begins is replaced.

        What began before the clock and ended within is as much as what begins within and ends after it: the
        cost measured is that of the orders that ended. The commands that add orders are left out.
        """
        kind = side.job_type
        self.fill(kind, waiting)

        def refill() -> int:
            missing = waiting - int(self.client.zcard(f"q:jobs:{kind}:inactive"))
            if missing > 0:
                self.fill(kind, missing)
            return max(0, missing)

        def warm() -> bool:
            refill()
            return self.ended(kind) >= 2 * WARM_UP

        self.until(warm)
        filled: list[int] = []
        before = self.ended(kind)
        with self.clock(side.pids, side.servers) as measured:
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                filled.append(refill())
                measured.sample()
                time.sleep(0.05)
            measured.orders = self.ended(kind) - before
        added, calls = sum(filled), sum(map(bool, filled))
        own = {"zcard": len(filled), "incrby": calls, "sadd": calls, "hset": added, "zadd": 3 * added}
        measured.loads["orders"] = measured.loads["orders"].without(own)
        return measured

    def measured(
        self,
        pids: Mapping[str, Iterable[int]],
        held: Iterable[int],
        count: int,
        done: Callable[[], bool],
        servers: Mapping[str, redis.Redis] | None = None,
        *,
        look_s: float = 0.01,
    ) -> Measured:
        """Start the clock, let the held processes go on, and stop it when it is *done*.

        Looking every *look_s* takes some of Redis' processor time, which is counted.
        """
        with self.clock(pids, servers or {}) as measured:
            measured.orders = count
            for pid in held:
                os.kill(pid, signal.SIGCONT)
            began = time.perf_counter()
            while not done():
                if time.perf_counter() - began > _LIMIT_S:
                    raise AssertionError(f"not done within {_LIMIT_S:g} s")
                measured.sample()
                time.sleep(look_s)
        return measured

    @contextmanager
    def clock(
        self, pids: Mapping[str, Iterable[int]], servers: Mapping[str, redis.Redis]
    ) -> Iterator[Measured]:
        """Measure what these processes and servers do until the block ends; it must say how many orders."""
        everything, alone = [os.getpid()], own_cpu_s(pids.get("workers", ()))
        measured = Measured(0, 0.0, {}, dict.fromkeys(pids, 0.0), pids=pids)
        looks, loads = self._looks, {name: load(client) for name, client in servers.items()}
        before, known, busy, began = split(pids), cpu_s(everything), busy_s(), time.perf_counter()
        yield measured
        measured.seconds = time.perf_counter() - began
        after = split(pids)
        measured.cpu_s = {name: after[name] - before[name] for name in pids}
        measured.workers_alone_s = own_cpu_s(pids.get("workers", ())) - alone
        others = (busy_s() - busy) - (cpu_s(everything) - known)
        measured.others_cores = max(0.0, others) / measured.seconds
        for name, client in servers.items():
            measured.loads[name] = load(client) - loads[name]
        if "orders" in measured.loads:
            asked = self._looks - looks
            measured.loads["orders"] = measured.loads["orders"].without({"zcard": 2 * asked}, asked)

    @staticmethod
    def until(check: Callable[[], bool], limit_s: float = 60.0) -> None:
        deadline = time.monotonic() + limit_s
        while not check():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {limit_s:g} s: {check}")
            time.sleep(0.01)
