"""What a Redis server has done since a moment: commands, round trips, bytes, processor time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import redis

__all__ = ["Load", "load"]


@dataclass(frozen=True)
class Load:
    """Counters of one server, since its start or, as a difference, since a moment."""

    #: Calls of each command; those that scripts make are among them.
    calls: Mapping[str, float]
    #: Reads from clients' connections: a pipeline is one.
    round_trips: float
    received_bytes: float
    sent_bytes: float
    #: Of the thread that runs the commands; one core is all that a server has.
    cpu_s: float

    def __sub__(self, earlier: Load) -> Load:
        names = self.calls.keys() | earlier.calls.keys()
        calls = {name: self.calls.get(name, 0) - earlier.calls.get(name, 0) for name in names}
        return Load(
            {name: number for name, number in calls.items() if number},
            self.round_trips - earlier.round_trips,
            self.received_bytes - earlier.received_bytes,
            self.sent_bytes - earlier.sent_bytes,
            self.cpu_s - earlier.cpu_s,
        )

    def without(self, asked: Mapping[str, float], round_trips: float = 0) -> Load:
        """Leave out the commands that the observer sent himself."""
        calls = {name: number - asked.get(name, 0) for name, number in self.calls.items()}
        return replace(self, calls=calls, round_trips=self.round_trips - round_trips)

    @property
    def commands(self) -> float:
        return sum(self.calls.values())

    def document(self, orders: float) -> dict[str, Any]:
        """Return the figures for one of *orders*, or for one second."""
        calls = {name: number / orders for name, number in self.calls.items() if number}
        return {
            "commands": round(self.commands / orders, 3),
            "round_trips": round(self.round_trips / orders, 3),
            "received_bytes": round(self.received_bytes / orders),
            "sent_bytes": round(self.sent_bytes / orders),
            "cpu_us": round(1e6 * self.cpu_s / orders, 2),
            "calls": {name: round(calls[name], 3) for name in sorted(calls, key=lambda name: -calls[name])},
        }


def load(client: redis.Redis) -> Load:
    """Read the counters."""
    told: dict[str, Any] = client.info("everything")
    return Load(
        {
            name.removeprefix("cmdstat_").partition("|")[0]: float(facts["calls"])
            for name, facts in told.items()
            if name.startswith("cmdstat_") and name != "cmdstat_info"
        },
        float(told["total_reads_processed"]),
        float(told["total_net_input_bytes"]),
        float(told["total_net_output_bytes"]),
        float(told["used_cpu_user_main_thread"]) + float(told["used_cpu_sys_main_thread"]),
    )
