"""Admission: a run starts when the CPUs, the memory and the GPUs that it needs are free on this host.

All worker processes of a host share a ledger: a folder with one small file for each run that holds something
or waits. Whoever wrote a file keeps it locked (``flock``); the kernel takes the lock away with the process,
so what a dead worker held is free at once, and no clock decides. The ledger is looked at and changed under
one more lock, which nobody holds for longer than that takes.

First come, first served: what a waiting run needs is kept from all that came after it, so that a large one
gets its turn. While it waits for a GPU, only GPUs are kept for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import structlog

from dynsvc.devices import Gpu, find_gpus
from dynsvc.errors import AlgorithmUnavailable, AttemptEnded, OrderOverdue
from dynsvc.runtime import Limits, Run
from dynsvc.settings import Settings
from workers.capacity import Capacity
from workers.gpus import assign, require_gpus
from workers.hostledger import Entry, HostLedger

__all__ = ["HostAdmission", "Need", "turn"]

log = structlog.get_logger(__name__)

#: Other processes do not tell when they end a run; those of this process do.
_LOOK_S = 0.1
#: A wait that is over sooner is not worth a line in the order's log.
_TELL_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a run holds while it lasts."""

    cpus: float
    memory_mib: int
    gpus: int = 0
    #: On each GPU; 0 for whole ones.
    gpu_memory_mib: int = 0

    @classmethod
    def of(cls, limits: Limits) -> Need:
        """Return what a run with these limits needs."""
        return cls(
            cpus=limits.cpus,
            memory_mib=limits.memory_mib,
            gpus=limits.gpus,
            gpu_memory_mib=limits.gpu_memory_mib,
        )

    def __str__(self) -> str:
        words = [f"{self.cpus:g} CPU", f"{self.memory_mib} MiB"]
        if self.gpus:
            part = f" with {self.gpu_memory_mib} MiB each" if self.gpu_memory_mib else ""
            words.append(f"{self.gpus} GPU{part}")
        return ", ".join(words)


def turn(
    need: Need, before: Sequence[Need], running: Sequence[Entry], capacity: Capacity, gpus: Sequence[Gpu]
) -> dict[str, int] | None:
    """Decide whether a run may start now.

    Parameters
    ----------
    need
        What it needs.
    before
        What those need that have waited longer, the first first.
    running
        Who holds what.

    Returns
    -------
    dict or None
        The GPUs that it gets, by UUID; empty for a CPU run. None: it has to wait.
    """
    cpus = capacity.cpus - sum(entry.cpus for entry in running)
    memory_mib = capacity.memory_mib - sum(entry.memory_mib for entry in running)
    held = [entry.gpus for entry in running]
    for other in before:
        shares = assign(other.gpus, other.gpu_memory_mib, gpus, held) if other.gpus else {}
        if shares is None:
            # It may get any of them, so those that came later get none.
            held.append({gpu.uuid: 0 for gpu in gpus})
            continue
        cpus, memory_mib = cpus - other.cpus, memory_mib - other.memory_mib
        held.append(shares)
    # A run that is alone on the host may use the reserve too.
    alone = not running and not before and need.memory_mib <= capacity.total_mib
    if need.cpus > cpus + 1e-6 or (need.memory_mib > memory_mib and not alone):
        return None
    return assign(need.gpus, need.gpu_memory_mib, gpus, held) if need.gpus else {}


@dataclass(slots=True)
class _Bell:
    """Wakes the threads of this process that wait, when one of its runs has ended."""

    condition: threading.Condition = field(default_factory=threading.Condition)

    def ring(self) -> None:
        with self.condition:
            self.condition.notify_all()

    def wait(self, timeout_s: float) -> None:
        with self.condition:
            self.condition.wait(timeout_s)


class HostAdmission:
    """Implements :class:`dynsvc.runtime.Admission` for one host. Objects may be used by several threads.

    Parameters
    ----------
    settings
        Where the ledger lies, and what of the host may be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ledger = HostLedger(settings.host_folder)
        self._bell = _Bell()
        self._lock = threading.Lock()
        self._gpus: tuple[Gpu, ...] | None = None

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs of this host, looked for once."""
        with self._lock:
            if self._gpus is None:
                self._gpus = find_gpus(self._settings.gpus)
            return self._gpus

    def usage(self) -> tuple[Capacity, list[Entry], list[Entry]]:
        """Return what this host has, the runs that hold something of it, and those that wait.

        Raises
        ------
        StorageUnavailable
            The ledger cannot be read (transient).
        """
        with self._ledger.locked():
            running, waiting = self._ledger.running(), self._ledger.waiting()
        return self._capacity(self._host(), idle=False), running, waiting

    @contextmanager
    def admit(
        self, run: Run, *, ended: Callable[[], bool], waits: Callable[[str], None] = lambda _: None
    ) -> Iterator[Run]:
        """Wait until *run* fits, as :class:`dynsvc.runtime.Admission` says.

        Raises
        ------
        OrderOverdue
            It waited for longer than an order may take (permanent).
        """
        need = Need.of(run.limits)
        gpus = self.gpus if need.gpus else ()
        if need.gpus:
            require_gpus(need.gpus, need.gpu_memory_mib, gpus)
        host = self._host()
        _require(run, need, host)
        entry = self._take(run, need, host, gpus, ended=ended, waits=waits)
        try:
            yield replace(run, gpu_ids=tuple(entry.gpus)) if entry.gpus else run
        finally:
            entry.close()
            self._bell.ring()

    def _take(
        self,
        run: Run,
        need: Need,
        host: Capacity,
        gpus: Sequence[Gpu],
        *,
        ended: Callable[[], bool],
        waits: Callable[[str], None],
    ) -> Entry:
        began, told = time.monotonic(), False
        waiting: Entry | None = None
        try:
            while True:
                with self._ledger.locked():
                    running, queue = self._ledger.running(), self._ledger.waiting()
                    before = [_need(other) for other in queue if waiting is None or other.name < waiting.name]
                    capacity = self._capacity(host, idle=not running)
                    shares = turn(need, before, running, capacity, gpus)
                    if shares is not None:
                        return self._ledger.hold(_entry(run, need, shares), running)
                    waiting = waiting or self._ledger.queue(_entry(run, need, {}), queue)
                waited_s = time.monotonic() - began
                if ended():
                    raise AttemptEnded(run.order_id, f"ended while {run.algorithm} waited for its turn")
                if waited_s > self._settings.order_limit_s:
                    raise OrderOverdue(run.order_id, "run_algorithm", self._settings.order_limit_s)
                if waited_s > _TELL_S and not told:
                    told = True
                    waits(f"waits for its turn on {self._settings.host}: needs {need}, {len(running)} run")
                    log.info("waits for its turn", need=str(need), running=len(running), before=len(before))
                self._bell.wait(_LOOK_S)
        finally:
            if waiting:
                waiting.close()

    def _host(self) -> Capacity:
        return Capacity.of_host(self._settings.host_cpus, self._settings.host_memory_mib)

    def _capacity(self, host: Capacity, *, idle: bool) -> Capacity:
        """Return what runs may use; free memory is measured while none runs, and remembered."""
        if self._settings.host_memory_mib is not None:
            return host
        free_mib = None if idle else self._ledger.remembered_mib()
        if free_mib is None:
            free_mib = host.free_mib()
            self._ledger.remember_mib(free_mib)
        return replace(host, memory_mib=free_mib)


def _require(run: Run, need: Need, host: Capacity) -> None:
    if need.cpus > host.cpus + 1e-6:
        has = f"{need.cpus:g} CPUs, this host has {host.cpus:g} (DYNSVC_HOST_CPUS)"
        raise AlgorithmUnavailable(run.algorithm, f"it needs {has}")
    if need.memory_mib > host.total_mib:
        has = f"{need.memory_mib} MiB of memory, this host has {host.total_mib} MiB"
        raise AlgorithmUnavailable(run.algorithm, f"it needs {has} (DYNSVC_HOST_MEMORY_MIB)")


def _need(entry: Entry) -> Need:
    return Need(
        cpus=entry.cpus,
        memory_mib=entry.memory_mib,
        gpus=entry.wanted_gpus,
        gpu_memory_mib=entry.wanted_gpu_memory_mib,
    )


def _entry(run: Run, need: Need, shares: dict[str, int]) -> Entry:
    return Entry(
        cpus=need.cpus,
        memory_mib=need.memory_mib,
        gpus=shares,
        wanted_gpus=need.gpus,
        wanted_gpu_memory_mib=need.gpu_memory_mib,
        order_id=run.order_id,
        algorithm=run.algorithm,
    )
