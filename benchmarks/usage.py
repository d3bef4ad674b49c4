"""CPU time and memory of processes with all their children, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["busy_s", "cpu_s", "family", "own_cpu_s", "resident_mib"]

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def _fields(pid: int) -> list[str]:
    # The name may hold anything; what follows its closing bracket does not.
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return found


def family(pid: int) -> list[int]:
    """Return *pid* and all processes below it."""
    found, pending = [], [pid]
    while pending:
        found.append(pending.pop())
        try:
            pending += _children(found[-1])
        except OSError:
            continue
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds of these processes and of those below them, ended ones included."""
    total = 0.0
    for pid in pids:
        for each in family(pid):
            try:
                fields = _fields(each)
            except OSError:
                continue
            total += sum(int(field) for field in fields[11:15]) * _TICK_S
    return total


def own_cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds of these processes alone, without those below them."""
    return sum(sum(map(int, _fields(pid)[11:13])) for pid in pids) * _TICK_S


def resident_mib(pids: Iterable[int]) -> float:
    """Return the memory of these processes and those below them, shared pages counted once for each."""
    total = 0
    for pid in pids:
        for each in family(pid):
            try:
                lines = Path(f"/proc/{each}/status").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return total / 1024


def split(groups: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """Return the CPU seconds of each named group of processes."""
    return {name: cpu_s(pids) for name, pids in groups.items()}


def busy_s() -> float:
    """Return the CPU seconds of everything on this machine, since it was started."""
    user, nice, system, _idle, _wait, *rest = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + sum(rest)) * _TICK_S
