"""A network without interfaces that containers join instead of getting one each.

Engines before 28 take 100 ms to set up even no network at all. A container that does nothing holds one; runs
of its trust domain and image join it. They share its loopback and nothing else, and nobody else gets in.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import structlog

from dynsvc.errors import DynsvcError
from dynsvc.runtime import Run
from workers.runtimes.container import holder_config
from workers.runtimes.engine import Engine
from workers.runtimes.slot import Place
from workers.runtimes.stream import Stream

__all__ = ["NetworkHolders"]

log = structlog.get_logger(__name__)

#: The first engine that needs no holder.
_FAST_ENGINE = 28
#: A holder costs a container's start itself, so it is made for the second run within this time.
_IDLE_S = 300.0
_MOST = 4
_BARRED_S = 300.0


@dataclass(slots=True)
class _Holder:
    container: str
    stream: Stream


@dataclass(slots=True)
class _Domain:
    seen_s: float
    holder: _Holder | None = None
    barred_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class NetworkHolders:
    """The holders of one process; one for each trust domain and image, at most four.

    Parameters
    ----------
    engine
        Where they run.
    worker_id
        By which left-overs are found.
    """

    def __init__(self, engine: Engine, worker_id: str) -> None:
        self._engine, self._worker_id = engine, worker_id
        self._lock = threading.Lock()
        self._domains: dict[tuple[str, str | None], _Domain] = {}

    def join(self, run: Run, place: Place, user: str) -> str | None:
        """Return the container whose network *run* may join, or None: it gets one of its own."""
        if not run.trust_domain or run.limits.network or self._engine.major >= _FAST_ENGINE:
            return None
        now, key = time.monotonic(), (run.trust_domain, run.image)
        with self._lock:
            gone = self._outdated(now, key)
            domain = self._domains.get(key)
            first = domain is None
            if domain is None:
                domain = self._domains[key] = _Domain(now)
            domain.seen_s = now
        for old in gone:
            self._end(old)
        if first:
            return None
        with domain.lock:
            if domain.holder is None and now >= domain.barred_s:
                domain.holder = self._start(run, place, user)
                domain.barred_s = 0.0 if domain.holder else now + _BARRED_S
            return domain.holder.container if domain.holder else None

    def forget(self, run: Run, container: str) -> None:
        """Have a new holder made: this one is gone."""
        with self._lock:
            domain = self._domains.get((run.trust_domain, run.image))
        if domain:
            with domain.lock:
                if domain.holder and domain.holder.container == container:
                    self._end(domain.holder)
                    domain.holder = None

    def close(self) -> None:
        """End all holders."""
        with self._lock:
            domains, self._domains = list(self._domains.values()), {}
        for domain in domains:
            with domain.lock:
                if domain.holder:
                    self._end(domain.holder)
                    domain.holder = None

    def _outdated(self, now: float, kept: tuple[str, str | None]) -> list[_Holder]:
        old = sorted(
            ((domain.seen_s, name) for name, domain in self._domains.items() if name != kept),
            key=lambda each: each[0],
        )
        gone: list[_Holder] = []
        for position, (seen_s, name) in enumerate(old):
            domain = self._domains[name]
            if now - seen_s < _IDLE_S and len(old) - position < _MOST:
                continue
            if domain.lock.acquire(blocking=False):  # else it is being started: the next time, then
                del self._domains[name]
                gone += [domain.holder] if domain.holder else []
                domain.holder = None
                domain.lock.release()
        return gone

    def _start(self, run: Run, place: Place, user: str) -> _Holder | None:
        config = holder_config(run, lock=str(place.lock), user=user, worker_id=self._worker_id)
        container = ""
        try:
            container = self._engine.create(run, config, None)
            stream = Stream(self._engine.attach(run, container, stdin=True))
            self._engine.start(run, container)
        except DynsvcError as error:
            # An image without "cat", for example. Its runs get networks of their own.
            log.info("no network holder", image=run.image, error=str(error))
            if container:
                self._engine.remove(container)
            return None
        return _Holder(container, stream)

    def _end(self, holder: _Holder) -> None:
        self._engine.remove(holder.container)
        holder.stream.close()
