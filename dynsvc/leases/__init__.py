"""The ledger of orders in flight, and the leases of those who work on them."""

from __future__ import annotations

from dynsvc.leases.ledger import AWAIT_LOADER, CANCELLED, Begun, Entry, Ledger, Start, Upload
from dynsvc.leases.spread import AWAIT_TILES, Spread, SpreadState

__all__ = [
    "AWAIT_LOADER",
    "AWAIT_TILES",
    "CANCELLED",
    "Begun",
    "Entry",
    "Ledger",
    "Spread",
    "SpreadState",
    "Start",
    "Upload",
]
