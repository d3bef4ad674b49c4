"""How long and how often an HTTP request is tried."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["Patience"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """The limits of one request, in seconds and attempts."""

    connect_s: float = 5.0
    #: Longest silence of the peer, and longest time to the end of an answer's headers.
    read_s: float = 30.0
    #: One answer from the request to its last byte; overrun by at most one silence.
    answer_s: float = 120.0
    attempts: int = 3
    #: No further attempt begins later than this.
    total_s: float = 180.0
    #: Pause before the second attempt; doubles up to *pause_cap_s*, then shortened at random by up to a half.
    pause_s: float = 0.25
    pause_cap_s: float = 5.0

    def pause(self, attempt: int, asked_s: float | None = None) -> float:
        """Return the pause in seconds after failed *attempt* (from 1); *asked_s* is the peer's own wish."""
        if asked_s is not None:
            return min(self.pause_cap_s, asked_s)
        longest_s: float = min(self.pause_cap_s, self.pause_s * 2.0 ** (attempt - 1))
        return longest_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
