"""Latency of one order in an idle system, and what the idle system costs: dynsvc against a native Kue worker.

Enqueued in Kue by its HTTP API -> first byte asked for at the image server -> complete in Kue. One order at a
time, the sides in turn. Then nothing is ordered for a while, and the CPU of bridge and worker is measured.
"""

from __future__ import annotations

import random
import sys
import time
from typing import Any

from benchmarks.report import arguments, machine, table, written
from benchmarks.rig import Rig, Side
from benchmarks.usage import cpu_s

__all__ = ["main"]

NAME = "latency"


def percentile(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def one(rig: Rig, side: Side) -> tuple[float, float]:
    """Order once; return ms until the image server was asked and until the order was complete."""
    document = rig.document(0)
    before = rig.ended(side.job_type)
    began_ms = time.time() * 1000
    order_id = rig.kue.post_job(side.job_type, document)
    rig.until(lambda: rig.ended(side.job_type) > before)
    # Kue's own clock is the Redis server's, on this machine.
    done_ms = float(rig.client.hget(f"q:job:{order_id}", "updated_at") or 0)
    (asked_ms, *_) = rig.asked(document["order"]["roi"]["x"])
    return asked_ms - began_ms, done_ms - began_ms


def main(argv: list[str] | None = None) -> int:
    parser = arguments(NAME, __doc__)
    parser.add_argument("--orders", type=int, default=100)
    parser.add_argument("--idle-s", type=float, default=20.0)
    given = parser.parse_args(argv)
    facts: dict[str, Any] = {"machine": machine(), "orders": given.orders}
    with Rig() as rig, rig.dynsvc(1, 8) as ours, rig.native(8, 0) as native:
        sides = {"dynsvc": ours, "native": native}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for number in range(given.orders + 3):
            for name in random.Random(number).sample(list(sides), 2):
                found = one(rig, sides[name])
                if number >= 3:  # the first ones look up what is kept
                    times[name].append(found)
                time.sleep(0.05)
        pids = [*ours.pids["bridge"], *ours.pids["workers"]]
        before, began = cpu_s(pids), time.monotonic()
        time.sleep(given.idle_s)
        idle = (cpu_s(pids) - before) / (time.monotonic() - began)
    rows = []
    for name, found in times.items():
        for what, which in (("image asked for", 0), ("complete", 1)):
            values = [each[which] for each in found]
            rows.append([f"{name}, {what}", *(f"{percentile(values, p):.1f}" for p in (50, 95, 99))])
    table(["enqueued until, ms", "p50", "p95", "p99"], rows)
    print(f"idle, bridge and worker together: {idle:.2%} of a core")
    facts |= {"ms": times, "idle_share_of_a_core": idle}
    written(NAME, given.json, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
