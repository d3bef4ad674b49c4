"""Orders under random kills: how many are lost, end twice, or are uploaded twice.

Workers, bridges, Redis, the broker's database and the hospital's servers are killed, stopped, restarted or
emptied at random (seeded) while orders run; then the books are compared. ``--plain`` does the same to a plain
Celery chain.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

import redis
import structlog

from benchmarks import plain
from dynsvc.kue import parse_event
from dynsvc.standins.server import Standin
from tests.support.faults import Ends, Segmenter, add_cases, place, uploads_of, without_end
from tests.support.hospital import API_KEY, ROOT, SLIDE, Hospital, Program
from tests.support.redis import RedisProcess, running_redis
from tests.support.slides import write_slide

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
WORKERS, THREADS = 2, 4
#: How long the rest may take when the killing has ended.
REST_S = 150.0
ORPHANS_S = 30.0


@dataclass
class Books:
    """What is counted."""

    placed: int = 0
    ended: int = 0
    failed: int = 0
    lost: int = 0
    ended_twice: int = 0
    uploaded_twice: int = 0
    never_uploaded: int = 0
    programs_left: int = 0
    files_left: int = 0
    records_left: int = 0
    seconds: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    put_back_s: list[float] = field(default_factory=list)
    begun_s: list[float] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.ended_twice or self.uploaded_twice or self.programs_left)

    def rows(self) -> list[tuple[str, str]]:
        return [
            ("orders placed", str(self.placed)),
            ("ended complete", str(self.ended)),
            ("ended failed", str(self.failed)),
            ("lost (no end)", str(self.lost)),
            ("ended twice", str(self.ended_twice)),
            ("uploaded twice", str(self.uploaded_twice)),
            ("complete, never uploaded", str(self.never_uploaded)),
            ("programs left after 30 s", str(self.programs_left)),
            ("folders of steps left (removed by age)", str(self.files_left)),
            ("ledger records left", str(self.records_left)),
            ("worker SIGKILL until put back, p50 / p95", _spread(self.put_back_s)),
            ("worker SIGKILL until begun again, p50 / p95", _spread(self.begun_s)),
            ("seconds until all had ended", f"{self.seconds:.0f}"),
            ("faults", ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))),
        ]


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "-"
    cut = quantiles(seconds, n=20) if len(seconds) > 1 else seconds * 19
    return f"{cut[9]:.1f} s / {cut[18]:.1f} s (of {len(seconds)})"


class Moments:
    """When each order was put into the queue and begun, by Kue's events."""

    def __init__(self, server: RedisProcess) -> None:
        self._server, self._stopped = server, threading.Event()
        self.queued: dict[str, list[float]] = {}
        self.begun: dict[str, list[float]] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopped.is_set():
            with (
                contextlib.suppress(redis.RedisError),
                self._server.client() as client,
                client.pubsub() as channel,
            ):
                channel.subscribe("q:events")
                while not self._stopped.is_set():
                    message = channel.get_message(ignore_subscribe_messages=True, timeout=0.2)
                    event = parse_event(message["data"]) if message else None
                    times = {"enqueue": self.queued, "start": self.begun}.get(event.name) if event else None
                    if event is not None and times is not None:
                        times.setdefault(event.job_id, []).append(time.monotonic())
            time.sleep(0.02)


class Chaos:
    """The hospital, what runs in it, and what befalls it."""

    def __init__(self, site: Hospital, seed: int, *, is_plain: bool, env: dict[str, str]) -> None:
        self.site, self.is_plain, self.env = site, is_plain, env
        self.random = random.Random(seed)
        self.books = Books()
        #: A fault that is left out.
        self.spared = ""
        self.workers: list[tuple[str, Program]] = []
        self.bridges: list[Program] = []
        self.kills: list[tuple[float, list[str]]] = []
        self._names = 0
        self._later: list[tuple[float, Callable[[], object]]] = []

    def start_worker(self) -> None:
        self._names += 1
        name = f"host{self._names}"
        if self.is_plain:
            argv = [sys.executable, "-m", "celery", "-A", "benchmarks.plain", "worker", "-P", "threads"]
            argv += ["-c", str(THREADS), "-n", f"{name}@%h", "-l", "WARNING"]
            worker = self.site.start("plain", argv, **self.env)
        else:
            worker = self.site.start_worker("-c", str(THREADS), wait=False, DYNSVC_HOST=name, **self.env)
        self.workers.append((name, worker))

    def start_bridge(self) -> None:
        if not self.is_plain:
            self.bridges.append(self.site.start("bridge", [sys.executable, "-m", "bridge"], **self.env))

    def running_on(self, name: str) -> list[str]:
        """Return the orders that the worker runs by the ledger."""
        with self.site.redis.client() as client:
            ids = client.zrange("dynsvc:q:leases", 0, -1)
            runners = {order: client.hget(f"dynsvc:q:attempt:{order}", "runner") or "" for order in ids}
        return [order_id for order_id, runner in runners.items() if runner.startswith(f"{name}:")]

    def kill_worker(self) -> None:
        name, worker = self.workers.pop(self.random.randrange(len(self.workers)))
        held = [] if self.is_plain else self.running_on(name)
        self.kills.append((time.monotonic(), held))
        worker.kill_group()
        self.start_worker()

    def pause_worker(self) -> None:
        _, worker = self.random.choice(self.workers)
        worker.send(signal.SIGSTOP)
        self.after(14.0, lambda: worker.process.poll() is None and worker.send(signal.SIGCONT))

    def kill_bridge(self) -> None:
        if self.bridges:
            self.bridges.pop(self.random.randrange(len(self.bridges))).kill_group()
            self.start_bridge()

    def restart(self, server: RedisProcess) -> None:
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
        time.sleep(self.random.uniform(0.2, 2.0))
        server.start()

    def empty_broker(self) -> None:
        with self.site.redis.client(db=1) as client:
            client.flushdb()

    def away(self, standin: Standin) -> None:
        if standin._server is None:  # noqa: SLF001
            return
        address = ("127.0.0.1", standin.port)
        Standin.stop(standin)

        def back() -> None:
            standin._address = address  # noqa: SLF001
            standin.start()

        self.after(self.random.uniform(1.0, 6.0), back)

    def after(self, seconds: float, what: Callable[[], object]) -> None:
        self._later.append((time.monotonic() + seconds, what))

    def due(self, *, everything: bool = False) -> None:
        now = time.monotonic()
        ready = [entry for entry in self._later if everything or entry[0] <= now]
        self._later = [entry for entry in self._later if entry not in ready]
        for _, what in ready:
            what()

    def strike(self) -> None:
        faults: dict[str, tuple[int, Callable[[], object]]] = {
            "worker killed": (8, self.kill_worker),
            "worker paused": (2, self.pause_worker),
            "bridge killed": (3, self.kill_bridge),
            "Redis killed": (2, lambda: self.restart(self.site.redis)),
            "broker emptied": (1, self.empty_broker),
            "loader's Redis killed": (1, lambda: self.restart(self.site.loader_redis)),
            "loader away": (1, lambda: self.away(self.site.loader)),
            "image server away": (1, lambda: self.away(self.site.images)),
            "location service away": (1, lambda: self.away(self.site.bindaas)),
        }
        name = self.random.choices(list(faults), [weight for weight, _ in faults.values()])[0]
        if name == self.spared:
            return
        faults[name][1]()
        self.books.faults[name] = self.books.faults.get(name, 0) + 1


@contextlib.contextmanager
def world(seed: int, *, is_plain: bool, short: bool) -> Iterator[Chaos]:
    with TemporaryDirectory() as folder, running_redis(*DURABLE) as server:
        write_slide(Path(folder) / SLIDE.lstrip("/"))
        with Hospital(server, None, Path(folder)) as site:
            site.loader_redis.stop()
            site.loader_redis.options = DURABLE
            site.loader_redis.start()
            ended = site.loader._on_end  # noqa: SLF001

            def insist(job: object) -> None:
                # The loader's own Kue outlives a restart of its Redis.
                for _ in range(100):
                    with contextlib.suppress(Exception):
                        ended(job)  # type: ignore[misc, arg-type]
                        return
                    time.sleep(0.1)

            site.loader._on_end = insist  # type: ignore[assignment]  # noqa: SLF001
            # The program only sleeps; the real one's needs would let two run at a time on a small machine.
            given = (ROOT / "algorithms" / "pathomics" / "algorithm.toml").read_text()
            given = given.replace("memory_mib = 4096", "memory_mib = 64").replace("cpus = 1", "cpus = 0.1")
            descriptor = site.folder / "algorithms" / "pathomics" / "algorithm.toml"
            descriptor.parent.mkdir(parents=True)
            descriptor.write_text(given)
            env = {"DYNSVC_ALGORITHMS": str(site.folder / "algorithms")}
            if short:
                env |= {"DYNSVC_LEASE_S": "2", "DYNSVC_RESEND_S": "2"}
            if is_plain:
                scratch = site.folder / "plain"
                scratch.mkdir()
                places = {
                    "broker": site.env["DYNSVC_BROKER_URL"],
                    "redis_port": site.redis.port,
                    "location": site.bindaas.location_url,
                    "api_key": API_KEY,
                    "images": site.images.url,
                    "loader": f"{site.loader.url}/submitZipOrder",
                    "scratch": str(scratch),
                }
                env = {"PLAIN_SITE": json.dumps(places), "PYTHONPATH": str(ROOT)}
            chaos = Chaos(site, seed, is_plain=is_plain, env=env)
            try:
                yield chaos
            finally:
                chaos.due(everything=True)
                for program in site.programs:
                    program.kill_group()


def chaos_run(
    orders: int, minutes: float, seed: int, *, is_plain: bool = False, short: bool = False, spared: str = ""
) -> Books:
    """Place the orders, strike for *minutes* or until all have ended, and return the books."""
    with world(seed, is_plain=is_plain, short=short) as chaos:
        site, books, chaos.spared = chaos.site, chaos.books, spared
        segmenter = Segmenter(site)
        # As long as makes the work fill about two thirds of the time.
        longest_s = 2 * max(0.3, minutes * 40 * WORKERS * THREADS / orders)
        script = site.folder / "bin" / "mainSegmentFeatures"
        text = script.read_text().replace(
            "exec cp", f'sleep $(awk "BEGIN {{ srand($$); print rand() * {longest_s:.2f} }}")\nexec cp'
        )
        script.write_text(text)
        cases = add_cases(site, max(4, orders // 5))
        order_ids = place(site, orders, cases)
        books.placed = len(order_ids)
        moments = Moments(site.redis)
        with Ends(site.redis) as ends:
            for _ in range(WORKERS):
                chaos.start_worker()
            for _ in range(2):
                chaos.start_bridge()
            for _, worker in chaos.workers:
                worker.wait_for("" if is_plain else " ready.")
            if is_plain:
                plain.SITE = json.loads(chaos.env["PLAIN_SITE"])
                plain.app.conf.broker_url = plain.SITE["broker"]
                for position, order_id in enumerate(order_ids):
                    plain.send(order_id, cases[position % len(cases)])
            began = time.monotonic()
            _strike_until_ended(chaos, order_ids, began + minutes * 60, short=short)
            _wait_until_ended(site, order_ids, 30.0 if short else REST_S)
            books.seconds = time.monotonic() - began
            states = [job.state if (job := site.jobs.read(order_id)) else "gone" for order_id in order_ids]
            uploads = uploads_of(site)
            books.ended, books.failed = states.count("complete"), states.count("failed")
            books.lost = books.placed - books.ended - books.failed
            books.ended_twice = len(ends.twice())
            books.uploaded_twice = sum(count > 1 for count in uploads.values())
            books.never_uploaded = sum(
                state == "complete" and not uploads[order_id]
                for order_id, state in zip(order_ids, states, strict=True)
            )
        deadline = time.monotonic() + (10.0 if short else ORPHANS_S)
        while segmenter.living() and time.monotonic() < deadline:
            time.sleep(0.2)
        books.programs_left = len(segmenter.living())
        scratch = site.folder / ("plain" if is_plain else f"tmp/dynsvc-{os.getuid()}/work")
        books.files_left = len(list(scratch.glob("*"))) if scratch.exists() else 0
        books.records_left = len(without_end(site))
        moments.stop()
        for killed_at, held in chaos.kills:
            for order_id in held:
                for times, spent in ((moments.queued, books.put_back_s), (moments.begun, books.begun_s)):
                    spent.extend([at - killed_at for at in times.get(order_id, []) if at > killed_at][:1])
        for order_id, state in zip(order_ids, states, strict=True):
            if state != "complete" and (job := site.jobs.read(order_id)) and not is_plain:
                print(
                    f"order {order_id} is {state}: {(job.error or '').partition(chr(10))[0]}", file=sys.stderr
                )
        return books


def _ended(site: Hospital, order_ids: list[str]) -> bool:
    with contextlib.suppress(redis.RedisError), site.redis.client() as client:
        done = client.zcard("q:jobs:complete") + client.zcard("q:jobs:failed")
        return int(done) >= len(order_ids)
    return False


def _strike_until_ended(chaos: Chaos, order_ids: list[str], until: float, *, short: bool) -> None:
    next_at = time.monotonic() + 2.0
    while time.monotonic() < until and not _ended(chaos.site, order_ids):
        time.sleep(0.1)
        chaos.due()
        if time.monotonic() >= next_at:
            chaos.strike()
            next_at = time.monotonic() + chaos.random.uniform(1.0, 3.0) * (1.0 if short else 2.5)
    chaos.due(everything=True)


def _wait_until_ended(site: Hospital, order_ids: list[str], limit_s: float) -> None:
    deadline, before, since = time.monotonic() + limit_s, -1, time.monotonic()
    while time.monotonic() < deadline and not _ended(site, order_ids):
        with contextlib.suppress(redis.RedisError), site.redis.client() as client:
            now = client.zcard("q:jobs:active") + client.zcard("q:jobs:inactive")
        if now != before:
            before, since = now, time.monotonic()
        # Nothing has ended for a minute: nothing will.
        if time.monotonic() - since > 60:
            return
        time.sleep(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--orders", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to kill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="a plain Celery chain instead of dynsvc")
    parser.add_argument("--spare", default="", help='a fault that is left out, for example "broker emptied"')
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    books = chaos_run(
        options.orders, options.minutes, options.seed, is_plain=options.plain, spared=options.spare
    )
    width = max(len(name) for name, _ in books.rows())
    print(f"| {'plain Celery chain' if options.plain else 'dynsvc':<{width}} | seed {options.seed} |")
    print(f"|{'-' * (width + 2)}|---|")
    for name, value in books.rows():
        print(f"| {name:<{width}} | {value} |")
    return 0 if options.plain or books.clean else 1


if __name__ == "__main__":
    sys.exit(main())
