"""Kue's jobs as the commands reach them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from dynsvc.kue import JobStore, connect
from dynsvc.settings import Settings

__all__ = ["open_jobs"]


@contextmanager
def open_jobs(settings: Settings) -> Iterator[JobStore]:
    """Open the orders' Redis for the block."""
    server = settings.orders.redis
    with closing(connect(server, name="dynsvc-cli")) as client:
        yield JobStore(client, settings.kue_head, peer=f"the orders' Redis {server}")
