"""Leases that have run out: whose message waits too long, and whose worker is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from dynsvc.leases import Entry, Ledger

__all__ = ["OverdueLeases"]

#: A lease that has run out must stay so for this long, seen by one bridge without interruption. After an
#: outage of Redis, or a jump of its clock, every lease has run out, and living workers renew within a second.
_CONFIRM_S: Final = 2.5


class OverdueLeases:
    """The leases of one ledger that have run out, and how long this bridge has seen each of them so.

    Parameters
    ----------
    runs
        Says whether somebody is at work under a lease, or was; else its message waits.
    """

    def __init__(self, leases: Ledger, runs: Callable[[Entry], bool]) -> None:
        self._leases, self._runs = leases, runs
        #: (id, token, due) -> when first seen.
        self._seen: dict[tuple[str, str, str], float] = {}

    def look(self, limit: int) -> tuple[list[Entry], list[Entry]]:
        """Return those that are lost, and those whose message waits; of *limit* that ran out first."""
        try:
            entries = self._leases.expired(limit)
        except Exception:
            self._seen.clear()
            raise
        now = time.monotonic()
        running = {(e.order_id, e.token, e.due_ms): e for e in entries if self._runs(e)}
        self._seen = {key: self._seen.get(key, now) for key in running}
        lost = [entry for key, entry in running.items() if now - self._seen[key] >= _CONFIRM_S]
        return lost, [entry for entry in entries if not self._runs(entry)]
