"""More worker processes, and more orders that wait: what each costs.

1, 2, 4 and 8 worker processes of a few slots each work off orders whose program sleeps 200 ms; efficiency is
the speed against one process times their number. Then one worker works off the same number of orders while
10, 1 000 or 100 000 others wait behind them.
"""

from __future__ import annotations

import random
import sys
from statistics import median
from typing import Any

from benchmarks import sides
from benchmarks.orders import own_cpu_ms
from benchmarks.report import arguments, machine, spread, table, written
from benchmarks.rig import Measured, Rig

__all__ = ["main"]

NAME = "scale"
MS = 200


def behind(rig: Rig, waiting: int, count: int) -> Measured:
    """Work off *count* orders while *waiting* others of a lower priority wait."""
    with rig.dynsvc(1, 16) as side:
        try:
            # The first orders come before those that wait, by their priority.
            return rig.run(side, count, 0, behind=waiting)
        finally:
            rig.empty(side.job_type)


def main(argv: list[str] | None = None) -> int:
    parser = arguments(NAME, __doc__)
    parser.add_argument("--slots", type=int, default=2, help="of each worker process")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--waiting", type=int, nargs="*", default=[10, 1000, 100_000])
    parser.add_argument("--orders", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(argv)
    facts: dict[str, Any] = {"machine": machine(), "slots_each": given.slots}
    workers: dict[int, list[Measured]] = {number: [] for number in given.processes}
    backlog: dict[int, list[Measured]] = {number: [] for number in given.waiting}
    with Rig() as rig:
        for each in range(given.rounds):
            for number in random.Random(each).sample(given.processes, len(given.processes)):
                once = sides.dynsvc(rig, number, number * given.slots, MS)
                # As many for each slot, so that a run lasts as long with any number.
                workers[number].append(once(given.orders * number // 4 or 1))
            for number in random.Random(each).sample(given.waiting, len(given.waiting)):
                backlog[number].append(behind(rig, number, given.orders))
    if given.processes:
        least = min(workers)
        base = median(run.per_s for run in workers[least]) / least
        rows = [
            [n, spread([run.per_s for run in runs]), f"{median(run.per_s for run in runs) / n / base:.3f}"]
            for n, runs in workers.items()
        ]
        table(["worker processes", "orders/s", "efficiency"], rows)
    if given.waiting:
        least = min(backlog)
        base = median(own_cpu_ms(run) for run in backlog[least])
        rows = [
            [
                n,
                f"{median(own_cpu_ms(r) for r in runs):.2f}",
                f"{median(own_cpu_ms(r) for r in runs) / base:.3f}",
            ]
            for n, runs in backlog.items()
        ]
        table(["orders waiting", "CPU ms per order", f"against {least}"], rows)
    facts["workers"] = {n: [run.document() for run in runs] for n, runs in workers.items()}
    facts["waiting"] = {n: [run.document() for run in runs] for n, runs in backlog.items()}
    written(NAME, given.json, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
