"""Keeps what is costly to start for the next run that can use it, within bounds.

The pool knows nothing of containers: it keeps anything that tells whether it is alive and how much memory it
uses. One pool serves all threads of a worker process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import structlog

from dynsvc.runtime import Keep

__all__ = ["Held", "Kept", "Pool", "Recycled", "Unusable"]

log = structlog.get_logger(__name__)

#: What could not be started is not tried again at once: each try costs as much as a run without a pool.
_BARRED_S = 30.0
#: Memory is looked at when uses have ended, and not more often than this.
_SAMPLE_S = 0.05
_LOOK_S = 60.0


class Unusable(Exception):
    """What was kept serves no further run. The run at hand may be done by something fresh."""


class Kept(Protocol):
    """Something that serves one run after the other."""

    #: The most memory that it can use.
    memory_mib: int
    #: GPUs that it has open, by UUID.
    gpu_ids: Collection[str]

    def alive(self) -> bool:
        """Return at once whether it can serve another run."""
        ...

    def memory_used_mib(self) -> int | None:
        """Return its memory, or None where nobody tells."""
        ...

    def close(self) -> None:
        """End it, whatever it does."""
        ...


K = TypeVar("K", bound=Kept)


@dataclass(slots=True)
class Recycled:
    """Why kept things were ended, counted."""

    uses: int = 0
    memory: int = 0
    idle: int = 0
    evicted: int = 0
    broken: int = 0


@dataclass(slots=True, eq=False)
class Held(Generic[K]):
    """One kept thing while a run has it."""

    key: Hashable
    keep: Keep
    memory_mib: int
    kept: K | None = None
    uses: int = 0
    busy: bool = True
    last_used_s: float = field(default_factory=time.monotonic)
    sampled_s: float = 0.0
    sampled_uses: int = 0
    first_mib: int | None = None
    grown: bool = False

    @property
    def thing(self) -> K:
        """What is kept."""
        assert self.kept is not None  # noqa: S101  (set before anybody gets it)
        return self.kept


class Pool(Generic[K]):
    """At most so many kept things, with at most so much memory together.

    Parameters
    ----------
    most
        How many are kept, busy ones included.
    memory_mib
        What their limits may sum up to.
    elsewhere_mib
        Asked before something is started: what other processes of this host keep.
    """

    def __init__(self, *, most: int, memory_mib: int, elsewhere_mib: Callable[[], int] = lambda: 0) -> None:
        self._most, self._memory_mib, self._elsewhere_mib = most, memory_mib, elsewhere_mib
        self._condition = threading.Condition()
        self._held: list[Held[K]] = []
        self._barred: dict[Hashable, float] = {}
        self._keeper: threading.Thread | None = None
        self._closed = False
        #: Whether the keeper waits for the next use, and not for the next look at memory.
        self._resting = False
        self.recycled = Recycled()

    def borrow(
        self,
        key: Hashable,
        keep: Keep,
        memory_mib: int,
        start: Callable[[], K],
        gpu_ids: Collection[str] = (),
    ) -> Held[K] | None:
        """Return something of *key* that nobody uses, or start it; None where there is no room for it.

        Parameters
        ----------
        key
            Only what was started for an equal key serves.
        start
            Starts one; what it raises passes through. After :class:`Unusable` the key gets None for a while.
        gpu_ids
            Whatever else is kept and has one of these GPUs open is ended first.
        """
        ended: list[Held[K]] = []
        try:
            with self._condition:
                found = self._find(key, ended)
                if found is not None:
                    return found
            self.free(gpu_ids)
            # Asked without the lock: it may take a moment.
            elsewhere_mib = self._elsewhere_mib()
            with self._condition:
                if self._barred.get(key, 0.0) > time.monotonic() or self._closed:
                    return None
                if not self._make_room(memory_mib, elsewhere_mib, ended):
                    return None
                held = Held[K](key, keep, memory_mib)
                self._held.append(held)
        finally:
            for old in ended:
                old.thing.close()
        return self._start(held, start)

    def give_back(self, held: Held[K], *, usable: bool) -> None:
        """Take back what :meth:`borrow` gave."""
        with self._condition:
            held.uses += 1
            held.last_used_s = time.monotonic()
            worn = held.uses >= held.keep.max_uses
            if usable and not worn and not held.grown and not self._closed:
                held.busy = False
                if self._resting:
                    self._condition.notify_all()
                return
            self._held.remove(held)
            if not usable:
                self.recycled.broken += 1
            elif worn:
                self.recycled.uses += 1
            else:
                self.recycled.memory += 1
        log.info("kept container ended", usable=usable, uses=held.uses, grown=held.grown)
        held.thing.close()

    def free(self, gpu_ids: Collection[str]) -> None:
        """End what nobody uses and has one of these GPUs open."""
        if not gpu_ids:
            return
        with self._condition:
            freed = [held for held in self._held if not held.busy and set(held.thing.gpu_ids) & set(gpu_ids)]
            ended = self._taken_away(freed)
            self.recycled.evicted += len(ended)
        for held in ended:
            held.thing.close()

    def close(self) -> None:
        """End all that nobody uses; what is in use ends when it is given back."""
        with self._condition:
            self._closed = True
            ended = self._taken_away([held for held in self._held if not held.busy])
            keeper = self._keeper
            self._condition.notify_all()
        for held in ended:
            held.thing.close()
        if keeper is not None:
            keeper.join(_LOOK_S)

    def count(self) -> int:
        """Return how many are kept."""
        with self._condition:
            return len(self._held)

    def busy(self) -> int:
        """Return how many are in use."""
        with self._condition:
            return sum(held.busy for held in self._held)

    def _find(self, key: Hashable, ended: list[Held[K]]) -> Held[K] | None:
        # The one used last is taken, so that those beyond the need become idle.
        mine = [held for held in self._held if held.key == key and not held.busy]
        for held in sorted(mine, key=lambda held: -held.last_used_s):
            if held.thing.alive() and not held.grown:
                held.busy = True
                return held
            ended += self._taken_away([held])
            if held.grown:
                self.recycled.memory += 1
            else:
                self.recycled.broken += 1
        return None

    def _make_room(self, memory_mib: int, elsewhere_mib: int, ended: list[Held[K]]) -> bool:
        idle = sorted((held for held in self._held if not held.busy), key=lambda held: held.last_used_s)
        room_mib = self._memory_mib - elsewhere_mib - memory_mib
        while len(self._held) >= self._most or sum(held.memory_mib for held in self._held) > room_mib:
            if not idle:
                return False
            ended += self._taken_away([idle.pop(0)])
            self.recycled.evicted += 1
        return True

    def _taken_away(self, gone: list[Held[K]]) -> list[Held[K]]:
        for held in gone:
            self._held.remove(held)
        return gone

    def _start(self, held: Held[K], start: Callable[[], K]) -> Held[K]:
        try:
            held.kept = start()
        except BaseException as error:
            with self._condition:
                self._held.remove(held)
                if isinstance(error, Unusable):
                    self._barred[held.key] = time.monotonic() + _BARRED_S
            raise
        with self._condition:
            self._barred.pop(held.key, None)
            if self._keeper is None and not self._closed:
                self._keeper = threading.Thread(target=self._look_after, name="pool-keeper", daemon=True)
                self._keeper.start()
        return held

    def _look_after(self) -> None:
        """End what is idle for too long, and mark what has grown too much."""
        while True:
            with self._condition:
                if self._closed or not self._held:
                    self._keeper = None
                    return
                now = time.monotonic()
                ended = self._taken_away(
                    [h for h in self._held if not h.busy and now - h.last_used_s >= h.keep.idle_s]
                )
                self.recycled.idle += len(ended)
                due = [h for h in self._held if h.kept is not None and h.uses > h.sampled_uses]
                sampled = [held for held in due if now - held.sampled_s >= _SAMPLE_S]
            for held in ended:
                log.info("kept container ended", idle_s=held.keep.idle_s, uses=held.uses)
                held.thing.close()
            for held in sampled:
                self._sample(held)
            with self._condition:
                if self._closed:
                    continue
                now = time.monotonic()
                due = [held for held in self._held if held.uses > held.sampled_uses]
                waits = [h.last_used_s + h.keep.idle_s - now for h in self._held if not h.busy]
                self._resting = not due
                self._condition.wait(max(0.01, min([*waits, _SAMPLE_S if due else _LOOK_S])))
                self._resting = False

    def _sample(self, held: Held[K]) -> None:
        uses = held.uses
        used_mib = held.thing.memory_used_mib()
        with self._condition:
            held.sampled_s, held.sampled_uses = time.monotonic(), uses
            if used_mib is None:
                return
            if held.first_mib is None:
                held.first_mib = used_mib
            held.grown = held.grown or used_mib - held.first_mib > held.keep.max_growth_mib
