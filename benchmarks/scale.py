"""More worker processes, and more orders that wait: what each costs.

1, 2, 4 and 8 worker processes of a few slots each work off orders whose program sleeps 200 ms; efficiency is
the speed against one process times their number. Then one worker is at work for a while with 10, 1 000 and
100 000 orders in the queue: what each order that ends has cost, in processor time and in commands of Redis.
"""

from __future__ import annotations

import random
import sys
from statistics import median
from typing import Any

from benchmarks import sides
from benchmarks.figures import Measured
from benchmarks.report import arguments, machine, spread, table, written
from benchmarks.rig import Rig

__all__ = ["main"]

NAME = "scale"
MS = 200
#: What grows with the queue must show here, if anything does.
_TELLING = ("evalsha", "hmget", "zscore", "zrange", "hgetall", "hset", "publish")


def at_work(rig: Rig, waiting: int, seconds: float) -> Measured:
    with rig.dynsvc(1, 16) as side:
        try:
            return rig.steady(side, waiting, seconds)
        finally:
            rig.empty(side.job_type)


def print_workers(workers: dict[int, list[Measured]]) -> None:
    least = min(workers)
    base = median(run.per_s for run in workers[least]) / least
    rows = [
        [
            number,
            spread([run.per_s for run in runs]),
            f"{median(run.per_s for run in runs) / number / base:.3f}",
            f"{median(run.cpu_ms() for run in runs):.1f}",
            f"{median(run.others_cores for run in runs):.2f}",
        ]
        for number, runs in workers.items()
    ]
    table(["worker processes", "orders/s", "efficiency", "CPU ms per order", "cores used by others"], rows)


def backlog_ratios(backlog: dict[int, list[Measured]]) -> dict[str, dict[int, float]]:
    """Return each figure with so many waiting against that with the fewest."""

    def figure(read: Any) -> dict[int, float]:
        values = {number: median(read(run) for run in runs) for number, runs in backlog.items()}
        return {number: value / values[min(values)] for number, value in values.items()}

    return {
        "CPU of bridge, workers and Redis": figure(lambda run: run.cpu_ms("bridge", "workers", "redis")),
        "CPU of bridge and workers": figure(lambda run: run.cpu_ms("bridge", "workers")),
        "CPU of the bridge": figure(lambda run: run.cpu_ms("bridge")),
        "CPU of the workers": figure(lambda run: run.cpu_ms("workers")),
        "CPU of Redis": figure(lambda run: run.loads["orders"].cpu_s / run.orders),
        "commands of Redis": figure(lambda run: run.loads["orders"].commands / run.orders),
    }


def print_backlog(backlog: dict[int, list[Measured]]) -> dict[str, dict[int, float]]:
    rows = []
    for number, runs in backlog.items():
        told = [run.loads["orders"].document(run.orders) for run in runs]
        rows.append(
            [
                number,
                f"{median(run.per_s for run in runs):.1f}",
                f"{median(run.cpu_ms('bridge') for run in runs):.2f}",
                f"{median(run.cpu_ms('workers') for run in runs):.2f}",
                f"{median(each['cpu_us'] for each in told):.0f}",
                f"{median(each['commands'] for each in told):.0f}",
                *(f"{median(each['calls'].get(name, 0) for each in told):.1f}" for name in _TELLING),
            ]
        )
    head = ["orders waiting", "orders/s", "bridge ms", "workers ms", "Redis us", "commands", *_TELLING]
    print("\nfor each order that ended:")
    table(head, rows)
    found = backlog_ratios(backlog)
    least = min(backlog)
    rows = [[name, *(f"{value:.3f}" for value in each.values())] for name, each in found.items()]
    table([f"against {least} waiting", *map(str, backlog)], rows)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = arguments(NAME, __doc__)
    parser.add_argument("--slots", type=int, default=2, help="of each worker process")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--orders", type=int, default=60, help="for four processes; others get their share")
    parser.add_argument("--waiting", type=int, nargs="*", default=[10, 1000, 100_000])
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each queue is worked on")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(argv)
    facts: dict[str, Any] = {"machine": machine(), "slots_each": given.slots, "ms": MS}
    workers: dict[int, list[Measured]] = {number: [] for number in given.processes}
    backlog: dict[int, list[Measured]] = {number: [] for number in given.waiting}
    with Rig() as rig:
        for each in range(given.rounds):
            for number in random.Random(each).sample(given.processes, len(given.processes)):
                once = sides.dynsvc(rig, number, number * given.slots, MS)
                # As many for each slot, so that a run lasts as long with any number.
                workers[number].append(once(given.orders * number // 4 or 1))
                print(f"{number} processes: {workers[number][-1].per_s:.1f} orders/s", file=sys.stderr)
            for number in random.Random(each).sample(given.waiting, len(given.waiting)):
                backlog[number].append(at_work(rig, number, given.seconds))
                print(f"{number} waiting: {backlog[number][-1].per_s:.1f} orders/s", file=sys.stderr)
    if workers:
        print_workers(workers)
    if backlog:
        facts["waiting_ratios"] = print_backlog(backlog)
    facts["workers"] = {n: [run.document() for run in runs] for n, runs in workers.items()}
    facts["waiting"] = {n: [run.document() for run in runs] for n, runs in backlog.items()}
    written(NAME, given.json, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
