"""When a failed job is tried again: Kue's arithmetic on the texts in its hash, without its ``eval``."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from dynsvc.kue.encoding import is_truthy, number_text

__all__ = ["Backoff", "next_backoff"]

_NUMBER = re.compile(r"[+-]?(?:Infinity|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)")
_INTEGER = re.compile(r"\s*([+-]?[0-9]+)")
# Beyond it JavaScript's own numbers lose whole milliseconds; 285 millennia are enough.
_LONGEST_MS = 2.0**53


@dataclass(frozen=True, slots=True)
class Backoff:
    """A delayed retry: what is written to the job."""

    #: New text of the delay field, or None to leave the field alone.
    delay_text: str | None
    #: Milliseconds between failure and retry, or None to keep the old time, which means at the next tick.
    delay_ms: int | None


def next_backoff(backoff: str | None, delay: str | None, attempts: int) -> Backoff | None:
    """Return the delay before the next attempt, or None for a retry at once.

    Parameters
    ----------
    backoff
        The job's backoff field: JSON, or JavaScript source, which is never evaluated. A function and anything
        else that is not JSON means the job's own delay, or no delay where it has none.
    delay
        The job's delay field, milliseconds as text.
    attempts
        Attempts made, the one that has just failed included.
    """
    if not backoff:
        return None
    try:
        policy: Any = json.loads(backoff)
    except (ValueError, RecursionError):
        return _kept(delay) if delay else None
    if not is_truthy(policy):
        return None
    if not isinstance(policy, dict):
        return _kept(delay)
    own = policy.get("delay")
    chosen: Any = own if is_truthy(own) else delay
    if policy.get("type") == "exponential":
        chosen = _exponential(_number(chosen), policy.get("maxDelay"), attempts)
    # Kue's worker crashes on other kinds; the plain delay is what their authors can have meant.
    return _written(chosen) or _kept(delay)


def _exponential(delay: float, longest: object, attempts: int) -> float:
    cap = (_number(longest) if is_truthy(longest) else math.inf) - delay * 0.5
    try:
        grown = delay * 0.5 * (2.0**attempts - 1)
    except OverflowError:
        grown = delay * math.inf
    if math.isnan(cap) or math.isnan(grown):
        return math.nan
    smaller = min(cap, grown)
    # Math.round: halves go up, also below zero.
    return math.floor(smaller + 0.5) if math.isfinite(smaller) else smaller


def _number(value: object) -> float:
    """Convert as JavaScript's ``Number()`` does, for the kinds of values that occur in JSON."""
    if isinstance(value, bool | int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return 0.0
        return float(text) if _NUMBER.fullmatch(text) else math.nan
    return math.nan


def _written(delay: object) -> Backoff | None:
    """Return the retry after a new *delay*, or None where Kue would not take it."""
    if isinstance(delay, bool) or not isinstance(delay, int | float | str):
        return None
    number = _number(delay)
    if not 0 < number <= _LONGEST_MS:
        return None
    text = delay if isinstance(delay, str) else number_text(delay)
    return Backoff(text, _milliseconds(text))


def _kept(delay: str | None) -> Backoff:
    """Return the retry after the delay that the job already has."""
    return Backoff(None, _milliseconds(delay) if delay else None)


def _milliseconds(text: str) -> int | None:
    """Convert as ``parseInt`` does: leading digits count, the rest does not."""
    found = _INTEGER.match(text)
    if found is None or len(found.group(1)) > 17:
        return None
    return int(found.group(1))
