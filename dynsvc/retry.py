"""When to try a step again: a pure decision, ``(error, attempt, elapsed) -> delay or None``."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from dynsvc.errors import DynsvcError

__all__ = ["RetryPolicy", "backoff_s"]


def backoff_s(
    attempt: int, *, first_s: float, cap_s: float, jitter: Callable[[], float] = random.random
) -> float:
    """Return the pause after failed *attempt* (from 1): exponential, capped, spread by ± a half.

    Parameters
    ----------
    attempt
        Number of failures in a row.
    first_s, cap_s
        Middle of the first pause and of the longest, seconds.
    jitter
        Source of numbers in [0, 1).
    """
    # The exponent is bounded: 2.0 ** 2000 would be an error of its own.
    return min(cap_s, first_s * 2.0 ** min(attempt - 1, 30)) * (0.5 + jitter())


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with full jitter, a cap for each delay and a limit for their sum."""

    #: Middle of the first delay, seconds.
    first_s: float = 0.5
    #: Longest delay, seconds.
    cap_s: float = 15.0
    #: No new try begins after this long, seconds.
    limit_s: float = 120.0

    def delay_s(
        self,
        error: DynsvcError,
        attempt: int,
        elapsed_s: float,
        jitter: Callable[[], float] = random.random,
    ) -> float | None:
        """Return how long to wait before the next try, or None to give up.

        Parameters
        ----------
        error
            What the try ended with; a permanent error is never tried again.
        attempt
            Number of tries made, at least 1.
        elapsed_s
            Time since the first try began.
        jitter
            Source of numbers in [0, 1).
        """
        if not error.transient:
            return None
        delay_s = backoff_s(attempt, first_s=self.first_s, cap_s=self.cap_s, jitter=jitter)
        return None if elapsed_s + delay_s > self.limit_s else delay_s
