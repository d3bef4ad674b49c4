"""Processors for one container alone: with as many as it counts, a program starts as many threads."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from dynsvc.runtime import Limits

__all__ = ["CpuSet"]


class CpuSet:
    """Whole processors of this host, leased until :meth:`close`; none where none are free.

    Lending is by a locked file for each processor, so that all workers of a host take different ones. A run
    without processors of its own is held to its share by the engine only.

    Parameters
    ----------
    folder
        For all workers of this host; None lends nothing.
    limits
        Only a whole number of processors, and fewer than there are, can be lent.
    engine_cpus
        How many the engine has.
    """

    def __init__(self, folder: Path | None, limits: Limits, engine_cpus: int) -> None:
        self.ids: tuple[int, ...] = ()
        self._fds: list[int] = []
        usable = sorted(cpu for cpu in os.sched_getaffinity(0) if cpu < engine_cpus)
        if folder is None or limits.cpus != int(limits.cpus) or not 0 < limits.cpus < len(usable):
            return
        taken: list[int] = []
        with suppress(OSError):  # no folder, no lending
            folder.mkdir(parents=True, exist_ok=True)
            for cpu in usable:
                if len(taken) == limits.cpus:
                    break
                if self._lock(folder / f"cpu-{cpu}"):
                    taken.append(cpu)
        if len(taken) == limits.cpus:
            self.ids = tuple(taken)
        else:
            self.close()

    def close(self) -> None:
        """Give them back. May be called again."""
        while self._fds:
            os.close(self._fds.pop())

    def _lock(self, path: Path) -> bool:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fds.append(fd)
        return True
