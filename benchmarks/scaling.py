"""What ends first with 10, 100 and 1 000 hosts: calculated from measured costs, and simulated.

The costs come from ``costs`` and ``memory``, the speeds that the simulation has to meet from ``scale``. They
lie in ``benchmarks/measured``; after a change of the service, measure again and run this again. What a site
has beside dynsvc (loader, network, programs) is assumed (``simulation.Site``).
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import arguments, machine, table, written
from benchmarks.simulation import Costs, Site, limits, simulated, tile_limits, worked_off

__all__ = ["MEASURED", "main"]

NAME = "scaling"
MEASURED = Path(__file__).parent / "measured"
SOURCES = ("costs", "memory", "scale")
DAY_S = 24 * 3600


def validation(costs: Costs, scale: dict[str, Any]) -> list[dict[str, float]]:
    """Return measured and simulated speed for each number of worker processes."""
    cpus, rows = scale["machine"]["cpus"], []
    for number, runs in scale["workers"].items():
        measured = median(run["orders_per_s"] for run in runs)
        others = median(run["others_cores"] for run in runs)
        site = Site(
            hosts=int(number),
            slots=scale["slots_each"],
            program_s=scale["ms"] / 1000,
            window=64,
            cores=cpus,
            others=others,
        )
        speed = worked_off(costs, site, runs[0]["orders"])
        rows.append({"processes": int(number), "measured": measured, "simulated": speed, "others": others})
    return rows


#: What is changed one after the other, for 1 000 hosts.
PATH: tuple[tuple[str, dict[str, Any]], ...] = (
    ("a window of 64, one zip is loaded at a time", {"window": 64, "loaders": 1}),
    ("the loader keeps pace", {"loaders": 10_000}),
    ("a window of twice all slots", {"window": 0}),
    ("the broker is a Redis of its own", {"broker": "redis"}),
    ("two bridges", {"bridges": 2}),
    ("workers for io and for cpu", {"divided": True}),
    ("100 Gbit/s for artifacts (S3)", {"store_bytes_s": 1.25e10}),
    ("the broker is RabbitMQ", {"broker": "rabbitmq"}),
    ("instead, a Redis as broker and workers that gossip", {"broker": "redis", "gossip": True}),
)


def path(costs: Costs, base: Site) -> list[dict[str, Any]]:
    """Change one thing after the other; calculate and simulate each."""
    rows, site = [], base
    for name, change in PATH:
        site = replace(site, **change)
        most = limits(costs, site)
        first = min(most, key=lambda part: most[part])
        began = time.perf_counter()
        found = simulated(costs, site)
        print(f"simulated in {time.perf_counter() - began:.0f} s: {name}", file=sys.stderr)
        rows.append(
            {
                "change": name,
                "calculated": most[first],
                "first": first,
                "simulated": found.orders_per_s,
                "slots_busy": found.orders_per_s * base.program_s / (base.hosts * base.slots),
                "busy": found.busy,
                "redis_wait_s": found.redis_wait_s,
            }
        )
    return rows


def loaded(costs: Costs, site: Site, stored_bytes: float) -> dict[str, Any]:
    """Return what each part has to do, of what it can do, when all slots are busy."""
    most = limits(costs, site)
    wanted = most.pop("slots")
    return {
        "hosts": site.hosts,
        "program_s": site.program_s,
        "orders_per_s": wanted,
        "loads": {part: wanted / each if each else float("inf") for part, each in most.items()},
        "redis_gb_a_day": wanted * DAY_S * stored_bytes / 1e9,
    }


def print_validation(rows: list[dict[str, float]]) -> None:
    table(
        ["worker processes", "measured orders/s", "simulated", "ratio", "cores used by others"],
        [
            [
                row["processes"],
                f"{row['measured']:.1f}",
                f"{row['simulated']:.1f}",
                f"{row['simulated'] / row['measured']:.2f}",
                f"{row['others']:.2f}",
            ]
            for row in rows
        ],
    )


def print_path(rows: list[dict[str, Any]]) -> None:
    names = ("Redis", "broker", "bridge", "workers", "loader", "artifacts")
    table(
        ["change", "calculated", "ends first", "simulated", "slots busy", "wait for Redis", *names],
        [
            [
                row["change"],
                f"{row['calculated']:.1f}",
                row["first"],
                f"{row['simulated']:.1f}",
                f"{row['slots_busy']:.0%}",
                f"{1000 * row['redis_wait_s']:.3g} ms",
                *(f"{row['busy'][name]:.0%}" if name in row["busy"] else "" for name in names),
            ]
            for row in rows
        ],
    )


def main(argv: list[str] | None = None) -> int:
    parser = arguments(NAME, __doc__)
    parser.add_argument("--measured", type=Path, default=MEASURED, help="folder of the measured figures")
    parser.add_argument("--hosts", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--program-s", type=float, nargs="*", default=[1, 10, 60])
    parser.add_argument("--path-s", type=float, nargs="*", default=[10], help="programs for 1 000 hosts")
    given = parser.parse_args(argv)
    told = {name: json.loads((given.measured / f"{name}.json").read_text()) for name in SOURCES}
    costs = Costs(told["costs"]["parameters"])
    stored_bytes = told["memory"]["dataset_bytes_per_order"]["ended"]
    facts: dict[str, Any] = {"machine": machine(), "validation": validation(costs, told["scale"])}
    print_validation(facts["validation"])

    base = Site(hosts=1000, broker="redis")
    facts["limits"] = {s: limits(costs, replace(base, program_s=s)) for s in given.program_s}
    print("\nmost orders/s of 1 000 hosts with 8 slots each, the broker a Redis of its own")
    parts = list(limits(costs, base))
    rows = [[f"{s:g} s", *(f"{most[part]:.4g}" for part in parts)] for s, most in facts["limits"].items()]
    table(["program", *parts], rows)

    facts["tile_limits"] = {s: tile_limits(costs, replace(base, program_s=s)) for s in given.program_s}
    print("\nmost tiles/s of whole slides, on the same hosts")
    names = list(tile_limits(costs, base))
    rows = [
        [f"{s:g} s", *(f"{most[part]:.4g}" for part in names)] for s, most in facts["tile_limits"].items()
    ]
    table(["program", *names], rows)

    facts["loads"] = [
        loaded(costs, replace(base, hosts=hosts, program_s=seconds, loaders=1), stored_bytes)
        for hosts in given.hosts
        for seconds in given.program_s
    ]
    print("\nload of each part when all slots are busy; above 100 %, the largest ends first")
    parts.remove("slots")
    rows = [
        [
            row["hosts"],
            f"{row['program_s']:g} s",
            f"{row['orders_per_s']:.3g}",
            *(f"{row['loads'][part]:.0%}" for part in parts),
            f"{row['redis_gb_a_day']:.1f}",
        ]
        for row in facts["loads"]
    ]
    table(["hosts", "program", "orders/s", *parts, "Redis grows, GB/day"], rows)

    facts["path"] = {}
    for seconds in given.path_s:
        facts["path"][seconds] = path(costs, Site(hosts=1000, program_s=seconds))
        print(f"\n1 000 hosts of 8 slots, programs of {seconds:g} s; each change comes on top of those above")
        print_path(facts["path"][seconds])
    written(NAME, given.json, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
