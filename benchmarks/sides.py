"""The sides that the benchmarks compare, each as a function that works off so many orders once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.rig import Measured, Rig
from benchmarks.usage import cpu_s
from tests.support.hospital import Program

__all__ = ["bare", "calls", "dynsvc", "native"]

Side = Callable[[int], Measured]


def dynsvc(rig: Rig, processes: int, slots: int, ms: int, **env: str) -> Side:
    """The bridge and *processes* workers with *slots* threads together."""

    def once(count: int) -> Measured:
        with rig.dynsvc(processes, slots, **env) as side:
            return rig.run(side, count, ms)

    return once


def native(rig: Rig, concurrency: int, ms: int) -> Side:
    """A native Kue worker."""

    def once(count: int) -> Measured:
        with rig.native(concurrency, ms) as side:
            return rig.run(side, count, ms)

    return once


def bare(rig: Rig, slots: int) -> Side:
    """A chain of four tasks that do nothing, on the same broker."""
    # Imported here: the app takes its broker from the environment.
    from benchmarks import bare as chains  # noqa: PLC0415

    url = f"redis://127.0.0.1:{rig.redis.port}/2"

    def once(count: int) -> Measured:
        chains.app.conf.broker_url = url
        argv = [sys.executable, "-m", "celery", "-A", "benchmarks.bare", "worker", "-c", str(slots)]
        worker = Program("bare", [*argv, "-l", "INFO"], {**rig.env, "BARE_BROKER": url}, rig.folder)
        try:
            worker.wait_for(" ready.")
            waits = _waiting(rig)
            for number in range(16):
                chains.send(number)
            rig.until(lambda: not waits())
            pids = {"worker": [worker.process.pid], "broker": [rig.redis.pid]}
            sender_s = 0.0

            def start_and_look() -> bool:
                nonlocal sender_s
                if not sender_s:
                    own = time.thread_time()
                    for number in range(count):
                        chains.send(number)
                    sender_s = time.thread_time() - own
                return not waits()

            measured = rig.measured(pids, [], count, start_and_look)
            measured.cpu_s["sender"] = sender_s
            return measured
        finally:
            worker.stop()

    return once


def _waiting(rig: Rig) -> Callable[[], bool]:
    """Return what tells whether messages wait or run. Several looks: between two steps neither may show."""
    client = rig.redis.client(db=2)

    def waits() -> bool:
        return any(client.llen("celery") or client.hlen("unacked") for _ in range(3))

    return waits


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
