"""What is counted in a chaos run."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from statistics import quantiles

import redis

from dynsvc.kue import parse_event
from tests.support.redis import RedisProcess

__all__ = ["Books", "Moments"]


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
            ("programs or containers left after 30 s", str(self.programs_left)),
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
