"""What algorithms of this host may use together."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Capacity"]

#: Kept for the system, the workers and the page cache.
_RESERVE_MIB, _RESERVE_PART = 512, 0.1
#: Where a container's own memory limit is told; the value is a huge number or ``max`` without one.
_CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_MIB = 1 << 20
_FILE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """CPUs and memory of a host."""

    cpus: float
    #: What runs may use together.
    memory_mib: int
    #: The most that one run may use that is alone.
    total_mib: int

    @classmethod
    def of_host(cls, cpus: float | None, memory_mib: int | None) -> Capacity:
        """Return what the host has, or what is configured in its place."""
        # A worker that is pinned to some processors gives its algorithms no more than these.
        cpus = cpus or float(len(os.sched_getaffinity(0)))
        total_mib = memory_mib or _total_mib()
        return cls(cpus=cpus, memory_mib=total_mib, total_mib=total_mib)

    def free_mib(self) -> int:
        """Return the memory that is available now, less the reserve; never less than 0."""
        available = min(_meminfo("MemAvailable"), self.total_mib)
        return max(0, available - max(_RESERVE_MIB, int(self.total_mib * _RESERVE_PART)))


def _total_mib() -> int:
    return min(_meminfo("MemTotal"), *(_limit_mib(path) for path in _CGROUP))


def _meminfo(key: str) -> int:
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) // 1024
    raise LookupError(f"/proc/meminfo has no {key}")


def _text(path: str) -> str:
    with Path(path).open("rb", buffering=0) as stream:
        return stream.read(_FILE_BYTES).decode("ascii")  # the kernel gives it in one piece


def _limit_mib(path: str) -> int:
    try:
        text = _text(path).strip()
    except OSError:
        text = ""
    return int(text) // _MIB if text.isdigit() else 1 << 40
