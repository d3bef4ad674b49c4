"""Writes that must reach Redis, also one that is away for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from dynsvc.errors import PeerUnavailable

__all__ = ["insist"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: A write that ends a step is tried for this long against a Redis that is away. It outlasts a restart.
_INSIST_S = 600.0


def insist(write: Callable[[], T]) -> T:
    """Do *write* until the server answers, for at most ten minutes.

    Every write given here is guarded: done twice because its reply was lost, it counts once.

    Raises
    ------
    PeerUnavailable
        The server stayed away.
    """
    deadline, pause_s = time.monotonic() + _INSIST_S, 0.1
    while True:
        try:
            return write()
        except PeerUnavailable as error:
            if time.monotonic() + pause_s > deadline:
                raise
            log.warning("waits for Redis", error=str(error), pause_s=pause_s)
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 5.0)
