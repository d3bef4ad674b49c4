"""The sides that the benchmarks compare, each as a function that works off so many orders once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.figures import Measured, resting
from benchmarks.rig import WARM_UP, Broker, Rig
from benchmarks.usage import cpu_s
from tests.support.hospital import Program
from tests.support.rabbitmq import RabbitProcess

__all__ = ["bare", "calls", "dynsvc", "native"]

Side = Callable[[int], Measured]


def dynsvc(
    rig: Rig, processes: int, slots: int, ms: int, *, broker: Broker | None = None, idle_s: float = 0.0
) -> Side:
    """The bridge and *processes* workers with *slots* threads together."""

    def once(count: int) -> Measured:
        with rig.dynsvc(processes, slots, broker=broker) as side:
            return rig.run(side, count, ms, idle_s=idle_s)

    return once


def native(rig: Rig, concurrency: int, ms: int, *, idle_s: float = 0.0) -> Side:
    """A native Kue worker."""

    def once(count: int) -> Measured:
        with rig.native(concurrency, ms) as side:
            return rig.run(side, count, ms, idle_s=idle_s)

    return once


def bare(rig: Rig, slots: int, *, rabbit: RabbitProcess | None = None, idle_s: float = 0.0) -> Side:
    """A chain of four tasks that do nothing, on the orders' Redis or on RabbitMQ."""
    # Imported here: the app takes its broker from the environment.
    from benchmarks import bare as chains  # noqa: PLC0415

    url = rabbit.url if rabbit else f"redis://127.0.0.1:{rig.redis.port}/2"

    def once(count: int) -> Measured:
        done = rig.folder / f"bare-{time.monotonic_ns()}"
        argv = [sys.executable, "-m", "celery", "-A", "benchmarks.bare", "worker", "-c", str(slots)]
        env = {**rig.env, "BARE_BROKER": url, "BARE_DONE": str(done)}
        worker = Program("bare", [*argv, "-l", "INFO"], env, rig.folder)
        try:
            worker.wait_for(" ready.")
            with chains.app.connection_for_write(url) as connection:
                for number in range(WARM_UP):
                    chains.send(number, connection)
                rig.until(lambda: done.exists() and done.stat().st_size >= WARM_UP)
                pids = {"worker": [worker.process.pid], "broker": [rabbit.pid if rabbit else rig.redis.pid]}
                idle = resting(pids, idle_s) if idle_s else {}
                sender_s = 0.0

                def start_and_look() -> bool:
                    nonlocal sender_s
                    if not sender_s:
                        own = time.thread_time()
                        for number in range(count):
                            chains.send(number, connection)
                        sender_s = time.thread_time() - own
                    return done.stat().st_size >= WARM_UP + count

                measured = rig.measured(pids, [], count, start_and_look)
            measured.cpu_s["sender"] = sender_s
            measured.idle = idle
            return measured
        finally:
            worker.stop()

    return once


def calls(rig: Rig, threads: int, ms: int) -> Side:
    """The four calls of an order, by requests and subprocess, without a queue."""

    def once(count: int) -> Measured:
        given = {
            "peers": rig.peers_url,
            "program": [*rig.program, str(ms)],
            "scratch": str(rig.folder / "tmp"),
            "threads": threads,
            "orders": count,
        }
        argv = [sys.executable, "-m", "benchmarks.bare", json.dumps(given)]
        before = cpu_s([rig.peers.pid])
        done = subprocess.run(argv, env=rig.env, cwd=rig.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"the calls failed: {done.stderr[-2000:]}")
        found = json.loads(done.stdout)
        cpu = {"calls": found["cpu_s"], "peers": cpu_s([rig.peers.pid]) - before}
        return Measured(count, found["seconds"], cpu)

    return once
