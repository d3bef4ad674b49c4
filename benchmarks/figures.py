"""What one run of one side of a benchmark took."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.redisload import Load
from benchmarks.usage import resident_mib, split

__all__ = ["Measured", "resting"]

_SAMPLE_S = 0.5


@dataclass
class Measured:
    """One run of one side."""

    orders: int
    seconds: float
    #: CPU seconds by kind of process.
    cpu_s: dict[str, float]
    #: Largest memory seen, by kind of process.
    peak_mib: dict[str, float] = field(default_factory=dict)
    #: What each Redis did meanwhile, without what was asked to see how far the side is.
    loads: dict[str, Load] = field(default_factory=dict)
    #: CPU seconds of the workers without the processes below them.
    workers_alone_s: float = 0.0
    #: Cores that processes of others used meanwhile.
    others_cores: float = 0.0
    pids: Mapping[str, Iterable[int]] = field(default_factory=dict)
    #: Shares of a core by kind of process while nothing was to do; where it was measured.
    idle: dict[str, float] = field(default_factory=dict)

    _next_sample: float = 0.0

    def sample(self) -> None:
        """Look at the memory, if the last look is a while ago."""
        if time.perf_counter() > self._next_sample:
            self._next_sample = time.perf_counter() + _SAMPLE_S
            now = {name: resident_mib(pids) for name, pids in self.pids.items()}
            self.peak_mib = {name: max(self.peak_mib[name], mib) for name, mib in now.items()}

    @property
    def per_s(self) -> float:
        return self.orders / self.seconds

    def cpu_ms(self, *names: str) -> float:
        """Return CPU milliseconds per order of these kinds of process; of all by default."""
        return 1000 * sum(self.cpu_s[name] for name in names or self.cpu_s) / self.orders

    def document(self) -> dict[str, Any]:
        return {
            "orders": self.orders,
            "seconds": round(self.seconds, 4),
            "orders_per_s": round(self.per_s, 2),
            "cpu_ms_per_order": {name: round(self.cpu_ms(name), 3) for name in self.cpu_s},
            "peak_mib": {name: round(mib, 1) for name, mib in self.peak_mib.items()},
            "idle_share_of_a_core": {name: round(share, 5) for name, share in self.idle.items()},
            "others_cores": round(self.others_cores, 2),
            "redis_per_order": {name: done.document(self.orders) for name, done in self.loads.items()},
        }


def resting(pids: Mapping[str, Iterable[int]], seconds: float) -> dict[str, float]:
    """Return the shares of a core that these processes use while nothing is to do."""
    # What follows the last order, its acknowledgement for example, is over.
    time.sleep(1)
    before, began = split(pids), time.perf_counter()
    time.sleep(seconds)
    after, passed = split(pids), time.perf_counter() - began
    return {name: (after[name] - before[name]) / passed for name in pids}
