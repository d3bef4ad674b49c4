"""What an order takes of Redis' memory: waiting, ended, and after the time for which our keys are kept.

A number of orders is placed by Kue and worked off, with a short DYNSVC_KEEP_S. Each time the keys are looked
at, Kue's and ours: their bytes for one order, and how long they stay. In a Redis of its own.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import Any

from benchmarks.report import arguments, machine, table, written
from benchmarks.rig import WARM_UP, Rig

__all__ = ["main"]

NAME = "memory"
#: When the keys are looked at; "kept": when nothing more vanishes.
WHEN = ("waiting", "ended", "kept")
Keys = dict[str, dict[str, float]]


def kind_of(key: str, job_type: str) -> str:
    """Return what a key is, whichever order it belongs to."""
    words = ["<id>" if word.isdecimal() else word for word in key.split(":")]
    return ":".join("<type>" if word == job_type else word for word in words)


def keys(rig: Rig, job_type: str) -> Keys:
    """Return number, bytes and longest time to live in seconds (-1: for ever) of the keys, by their kind."""
    found: Keys = defaultdict(lambda: {"keys": 0, "bytes": 0, "ttl_s": -1})
    names = list(rig.client.scan_iter(count=1000))
    with rig.client.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.memory_usage(name, samples=0)
            pipeline.pttl(name)
        told = pipeline.execute()
    for name, taken, ttl_ms in zip(names, told[::2], told[1::2], strict=True):
        kind = found[kind_of(name, job_type)]
        kind["keys"] += 1
        kind["bytes"] += taken or 0
        kind["ttl_s"] = max(kind["ttl_s"], ttl_ms / 1000)
    return dict(found)


def grown(after: Keys, before: Keys, count: int) -> dict[str, Any]:
    """Return the bytes of one order by the kind of key."""
    rows = {}
    for name, facts in after.items():
        taken = (facts["bytes"] - before.get(name, {"bytes": 0})["bytes"]) / count
        if taken >= 1:
            rows[name] = {"bytes_per_order": round(taken), "ttl_s": facts["ttl_s"]}
    return rows


def ours(found: Keys) -> int:
    """Return the number of our keys that belong to a single order."""
    return int(
        sum(each["keys"] for name, each in found.items() if name.startswith("dynsvc:") and "<id>" in name)
    )


def dataset_bytes(rig: Rig) -> int:
    """Return what Redis' data takes, without its buffers."""
    return int(rig.client.info("memory")["used_memory_dataset"])


def memory(rig: Rig, count: int, keep_s: float) -> dict[str, Any]:
    """Let *count* orders wait, then end, then *keep_s* pass; look at the keys each time."""
    facts: dict[str, Any] = {"orders": count, "dataset_bytes_per_order": {}, "our_keys": {}}
    with rig.dynsvc(1, 16, DYNSVC_KEEP_S=str(keep_s)) as side:
        rig.place(side.job_type, WARM_UP, 0)
        rig.until(lambda: rig.ended(side.job_type) >= WARM_UP)
        # Those that warm up must not vanish in between: nothing of them is there when it begins.
        rig.until(lambda: not ours(keys(rig, side.job_type)), keep_s + 30)
        empty, used = keys(rig, side.job_type), dataset_bytes(rig)

        def look(when: str) -> None:
            facts["dataset_bytes_per_order"][when] = (dataset_bytes(rig) - used) / count
            found = keys(rig, side.job_type)
            facts["our_keys"][when] = ours(found)
            facts[when] = grown(found, empty, count)

        side.hold()
        rig.place(side.job_type, count, 0)
        look("waiting")
        side.let_go()
        rig.until(lambda: rig.ended(side.job_type) >= WARM_UP + count)
        look("ended")
        rig.until(lambda: not ours(keys(rig, side.job_type)), keep_s + 30)
        look("kept")
    return facts


def main(argv: list[str] | None = None) -> int:
    parser = arguments(NAME, __doc__)
    parser.add_argument("--orders", type=int, default=300)
    parser.add_argument("--keep-s", type=float, default=20.0, help="DYNSVC_KEEP_S")
    given = parser.parse_args(argv)
    facts: dict[str, Any] = {"machine": machine(), "keep_s": given.keep_s}
    with Rig() as rig:
        facts |= memory(rig, given.orders, given.keep_s)
    rows = [
        [when, name, each["bytes_per_order"], "for ever" if each["ttl_s"] < 0 else f"{each['ttl_s']:.0f} s"]
        for when in WHEN
        for name, each in sorted(facts[when].items(), key=lambda row: -row[1]["bytes_per_order"])
    ]
    table(["orders", "keys", "bytes per order", "stay for"], rows)
    rows = []
    for when in WHEN:
        sums = {"Kue": 0.0, "dynsvc": 0.0}
        for name, each in facts[when].items():
            sums["dynsvc" if name.startswith("dynsvc:") else "Kue"] += each["bytes_per_order"]
        rows.append([when, *sums.values(), f"{facts['dataset_bytes_per_order'][when]:.0f}"])
    table(["bytes per order", "Kue's keys", "ours", "growth of all data"], rows)
    print(f"keys of ours: {facts['our_keys']['ended']} when ended, {facts['our_keys']['kept']} at the end")
    written(NAME, given.json, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
