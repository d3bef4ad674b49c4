"""Orders under random kills: how many are lost, end twice, or are uploaded twice.

Workers, bridges, Redis, the broker's database and the hospital's servers are killed, stopped, restarted or
emptied at random (seeded) while orders run; then the books are compared. ``--runtime docker`` runs the
algorithm in containers of an engine of the benchmark's own, which is killed too. ``--plain`` does the same to
a plain Celery chain.
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
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import redis
import structlog

from benchmarks import plain
from benchmarks.books import Books, Moments
from dynsvc.standins.server import Standin
from tests.support.containers import IMAGE, ContainerSegmenter, light_descriptor
from tests.support.faults import Ends, Segmenter, add_cases, place, uploads_of, without_end
from tests.support.hospital import API_KEY, ROOT, SLIDE, Hospital, Program
from tests.support.private_engine import PrivateEngine, running_engine
from tests.support.redis import RedisProcess, running_redis
from tests.support.slides import write_slide

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
WORKERS, THREADS = 2, 4
#: How long the rest may take when the killing has ended.
REST_S = 150.0
ORPHANS_S = 30.0


class Chaos:
    """The hospital, what runs in it, and what befalls it."""

    def __init__(
        self, site: Hospital, seed: int, *, is_plain: bool, env: dict[str, str], engine: PrivateEngine | None
    ) -> None:
        self.site, self.is_plain, self.env, self.engine = site, is_plain, env, engine
        self.random = random.Random(seed)
        self.books = Books()
        #: A fault that is left out.
        self.spared = ""
        self.workers: list[tuple[str, Program]] = []
        self.bridges: list[Program] = []
        self.kills: list[tuple[float, list[str]]] = []
        self._killed_runners: set[str] = set()
        self._later: list[tuple[float, Callable[[], object]]] = []

    def start_worker(self, name: str) -> None:
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
        """Return the orders that the worker runs by the ledger, not those of an earlier one of its name."""
        with self.site.redis.client() as client:
            ids = client.zrange("dynsvc:q:leases", 0, -1)
            runners = {order: client.hget(f"dynsvc:q:attempt:{order}", "runner") or "" for order in ids}
        held = {order: runner for order, runner in runners.items() if runner.startswith(f"{name}:")}
        orders = [order for order, runner in held.items() if runner not in self._killed_runners]
        self._killed_runners |= set(held.values())
        return orders

    def kill_worker(self) -> None:
        name, worker = self.workers.pop(self.random.randrange(len(self.workers)))
        held = [] if self.is_plain else self.running_on(name)
        self.kills.append((time.monotonic(), held))
        worker.kill_group()
        # As a service manager does it: what the dead one left on this host is the new one's to remove.
        self.start_worker(name)

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

    def kill_engine(self) -> None:
        assert self.engine is not None
        # Half of the time its containers die with it, as in a crash of the host.
        self.engine.kill(everything=self.random.random() < 0.5)
        time.sleep(self.random.uniform(0.2, 2.0))
        self.engine.start()

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
            **({"engine killed": (4, self.kill_engine)} if self.engine else {}),
        }
        name = self.random.choices(list(faults), [weight for weight, _ in faults.values()])[0]
        if name == self.spared:
            return
        faults[name][1]()
        self.books.faults[name] = self.books.faults.get(name, 0) + 1


@contextlib.contextmanager
def world(seed: int, *, is_plain: bool, short: bool, runtime: str) -> Iterator[Chaos]:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        server = stack.enter_context(running_redis(*DURABLE))
        engine = stack.enter_context(running_engine()) if runtime == "docker" else None
        write_slide(Path(folder) / SLIDE.lstrip("/"))
        site = stack.enter_context(Hospital(server, None, Path(folder)))
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
        env = ContainerSegmenter(site, engine).env if engine else light_descriptor(site)
        if short:
            env |= {"DYNSVC_LEASE_S": "2", "DYNSVC_RESEND_S": "2"}
        if is_plain:
            env = _plain_env(site, engine)
        chaos = Chaos(site, seed, is_plain=is_plain, env=env, engine=engine)
        try:
            yield chaos
        finally:
            chaos.due(everything=True)
            for program in site.programs:
                program.kill_group()


def _plain_env(site: Hospital, engine: PrivateEngine | None) -> dict[str, str]:
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
        "image": IMAGE if engine else "",
    }
    own_engine = {"DOCKER_HOST": engine.url} if engine else {}
    return {"PLAIN_SITE": json.dumps(places), "PYTHONPATH": str(ROOT), **own_engine}


def _sleeping(longest_s: float) -> str:
    """Return a shell's line that sleeps for up to *longest_s*; a container has no awk."""
    return (
        "read -r id < /proc/sys/kernel/random/uuid\n"
        f"n=$((0x${{id%%-*}} % {max(1, round(longest_s * 100))}))\n"
        "sleep $(printf %d.%02d $((n / 100)) $((n % 100)))\n"
    )


def chaos_run(
    orders: int,
    minutes: float,
    seed: int,
    *,
    is_plain: bool = False,
    short: bool = False,
    spared: str = "",
    runtime: str = "process",
) -> Books:
    """Place the orders, strike for *minutes* or until all have ended, and return the books."""
    with world(seed, is_plain=is_plain, short=short, runtime=runtime) as chaos:
        site, books, chaos.spared = chaos.site, chaos.books, spared
        # As long as makes the work fill about two thirds of the time.
        longest_s = 2 * max(0.3, minutes * 40 * WORKERS * THREADS / orders)
        segmenter: Segmenter | ContainerSegmenter
        if chaos.engine:
            segmenter = ContainerSegmenter(site, chaos.engine)
            segmenter.install(_sleeping(longest_s))
        else:
            segmenter = Segmenter(site)
            script = site.folder / "bin" / "mainSegmentFeatures"
            script.write_text(script.read_text().replace("exec cp", f"{_sleeping(longest_s)}exec cp"))
        cases = add_cases(site, max(4, orders // 5))
        order_ids = place(site, orders, cases)
        books.placed = len(order_ids)
        moments = Moments(site.redis)
        with Ends(site.redis) as ends:
            for number in range(WORKERS):
                chaos.start_worker(f"host{number}")
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
    parser.add_argument("--runtime", choices=["process", "docker"], default="process")
    parser.add_argument("--plain", action="store_true", help="a plain Celery chain instead of dynsvc")
    parser.add_argument("--spare", default="", help='a fault that is left out, for example "broker emptied"')
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    books = chaos_run(
        options.orders,
        options.minutes,
        options.seed,
        is_plain=options.plain,
        spared=options.spare,
        runtime=options.runtime,
    )
    width = max(len(name) for name, _ in books.rows())
    print(f"| {'plain Celery chain' if options.plain else 'dynsvc':<{width}} | seed {options.seed} |")
    print(f"|{'-' * (width + 2)}|---|")
    for name, value in books.rows():
        print(f"| {name:<{width}} | {value} |")
    return 0 if options.plain or books.clean else 1


if __name__ == "__main__":
    sys.exit(main())
