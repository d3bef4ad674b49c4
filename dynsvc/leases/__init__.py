"""The ledger of orders in flight, and the leases of those who work on them."""

from __future__ import annotations

from dynsvc.leases.ledger import AWAIT_LOADER, CANCELLED, Begun, Entry, Ledger, Start, Upload

__all__ = ["AWAIT_LOADER", "CANCELLED", "Begun", "Entry", "Ledger", "Start", "Upload"]
