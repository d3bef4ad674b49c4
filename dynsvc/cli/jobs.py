"""Kue's jobs as the commands reach them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from dynsvc.kue import JobStore, connect
from dynsvc.leases import Ledger
from dynsvc.settings import Settings

__all__ = ["open_jobs", "open_ledger"]


@contextmanager
def open_jobs(settings: Settings) -> Iterator[JobStore]:
    """Open the orders' Redis for the block."""
    server = settings.orders.redis
    with closing(connect(server, name="dynsvc-cli")) as client:
        yield JobStore(client, settings.kue_head, peer=f"the orders' Redis {server}")


@contextmanager
def open_ledger(settings: Settings) -> Iterator[Ledger]:
    """Open the ledger beside Kue for the block."""
    server = settings.orders.redis
    with closing(connect(server, name="dynsvc-cli")) as client:
        yield Ledger(client, settings.kue_head, f"the orders' Redis {server}")
