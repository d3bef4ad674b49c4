"""Orders through the real Kue: dynsvc, a native Kue worker, a bare Celery chain and the bare calls.

dynsvc and the chain have a Redis as broker, and RabbitMQ. All orders wait in Kue when the clock starts; it
stops when the last one is complete. Every round runs every side once, in another order; what is printed are
medians of the rounds, and ratios of medians.
"""

from __future__ import annotations

import argparse
import random
import sys
from contextlib import nullcontext
from statistics import median
from typing import Any

from benchmarks import sides
from benchmarks.figures import Measured
from benchmarks.report import arguments, machine, spread, table, written
from benchmarks.rig import Rig
from tests.support.rabbitmq import RabbitProcess, running_rabbitmq

__all__ = ["main"]

NAME = "orders"
SLOTS = 32


def chosen(
    rig: Rig,
    rabbit: RabbitProcess | None,
    *,
    ms: int,
    processes: list[int],
    concurrencies: list[int],
    idle_s: float,
) -> dict[str, sides.Side]:
    found = {
        f"dynsvc, {n} process{'es' * (n > 1)}": sides.dynsvc(rig, n, SLOTS, ms, idle_s=idle_s)
        for n in processes
    }
    found |= {f"native, {n} at once": sides.native(rig, n, ms, idle_s=idle_s) for n in concurrencies}
    found["bare chain"] = sides.bare(rig, SLOTS, idle_s=idle_s)
    if rabbit:
        found["dynsvc, RabbitMQ"] = sides.dynsvc(rig, 1, SLOTS, ms, broker=rabbit, idle_s=idle_s)
        found["bare chain, RabbitMQ"] = sides.bare(rig, SLOTS, rabbit=rabbit, idle_s=idle_s)
    found["bare calls"] = sides.calls(rig, 4, ms)
    return found


def rounds(found: dict[str, sides.Side], count: int, number: int) -> dict[str, list[Measured]]:
    """Run all sides *number* times, interleaved."""
    runs: dict[str, list[Measured]] = {name: [] for name in found}
    shuffled = list(found)
    for each in range(number):
        random.Random(each).shuffle(shuffled)
        for name in shuffled:
            # One order after the other would take minutes, and tells the same with fewer.
            few = min(count, 40) if name == "native, 1 at once" else count
            runs[name].append(found[name](few))
            print(f"round {each + 1}: {name:<22} {runs[name][-1].per_s:8.1f} orders/s", file=sys.stderr)
    return runs


def own_cpu_ms(run: Measured) -> float:
    """Return CPU per order without the servers' own."""
    return run.cpu_ms(*(name for name in run.cpu_s if name != "peers"))


def ratios(runs: dict[str, list[Measured]]) -> dict[str, float]:
    speed = {name: median(run.per_s for run in each) for name, each in runs.items()}
    cpu = {name: median(own_cpu_ms(run) for run in each) for name, each in runs.items()}
    ours = [name for name in runs if name.startswith("dynsvc") and "RabbitMQ" not in name]
    best = max(ours, key=lambda name: speed[name])
    cheapest = min(ours, key=lambda name: cpu[name])
    found = {}
    for name in runs:
        if name.startswith("native"):
            found[f"orders/s: {best} / {name}"] = speed[best] / speed[name]
    floor = cpu["bare chain"] + cpu["bare calls"]
    found[f"CPU per order: {cheapest} / (bare chain + bare calls)"] = cpu[cheapest] / floor
    if "bare chain, RabbitMQ" in runs:
        floor = cpu["bare chain, RabbitMQ"] + cpu["bare calls"]
        found["CPU per order, RabbitMQ: dynsvc / (bare chain + bare calls)"] = cpu["dynsvc, RabbitMQ"] / floor
        found["chains/s: RabbitMQ / Redis"] = speed["bare chain, RabbitMQ"] / speed["bare chain"]
        if "dynsvc, 1 process" in runs:
            one = speed["dynsvc, 1 process"]
            found["orders/s: dynsvc, 1 process, RabbitMQ / Redis"] = speed["dynsvc, RabbitMQ"] / one
    return found


def print_rest(runs: dict[str, list[Measured]]) -> None:
    """Print what each side uses at rest, and what each kind of process holds at most."""
    rows = []
    for name, each in runs.items():
        idle = {kind: median(run.idle[kind] for run in each) for kind in each[0].idle}
        peaks = {kind: max(run.peak_mib[kind] for run in each) for kind in each[0].peak_mib}
        rows.append(
            [
                name,
                ", ".join(f"{kind} {share:.2%}" for kind, share in idle.items()),
                ", ".join(f"{kind} {mib:.0f}" for kind, mib in peaks.items()),
            ]
        )
    table(["side", "at rest, of a core", "peak MiB"], rows)


def main(argv: list[str] | None = None) -> int:
    parser = arguments(NAME, __doc__)
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ms", type=int, choices=(0, 200), default=0, help="how long the program sleeps")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--native", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--rabbitmq", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--idle-s", type=float, default=3.0, help="how long each side rests; 0: not at all")
    given = parser.parse_args(argv)
    facts: dict[str, Any] = {"machine": machine(), "ms": given.ms, "slots": SLOTS}
    with Rig() as rig, running_rabbitmq() if given.rabbitmq else nullcontext() as rabbit:
        found = chosen(
            rig,
            rabbit,
            ms=given.ms,
            processes=given.processes,
            concurrencies=given.native,
            idle_s=given.idle_s,
        )
        runs = rounds(found, given.orders, given.rounds)
    print(f"\n{given.orders} orders, program of {given.ms} ms, {SLOTS} slots, {given.rounds} rounds")
    table(
        ["side", "orders/s (range)", "CPU ms per order", "of which"],
        [
            [
                name,
                spread([run.per_s for run in each]),
                f"{median(own_cpu_ms(run) for run in each):.2f}",
                ", ".join(f"{kind} {median(run.cpu_ms(kind) for run in each):.2f}" for kind in each[0].cpu_s),
            ]
            for name, each in runs.items()
        ],
    )
    print_rest(runs)
    facts["ratios"] = ratios(runs)
    for name, value in facts["ratios"].items():
        print(f"{name}: {value:.2f}")
    facts["runs"] = {name: [run.document() for run in each] for name, each in runs.items()}
    written(f"{NAME}-{given.ms}ms-{given.orders}", given.json, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
