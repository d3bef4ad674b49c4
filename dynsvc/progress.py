"""What a line of an algorithm's output says of how much is done."""

from __future__ import annotations

import json
import re

__all__ = ["done_fraction"]

_PROGRESS_LINE = re.compile(
    r"<filter-progress>\s*(?P<fraction>[01](?:\.\d*)?|\.\d+)\s*</filter-progress>|(?<![\d.])(?P<percent>\d{1,3})\s?%"
)

#: One JSON object that may say ``{"type": "progress", "fraction": 0.4}``.
_PROGRESS_DOCUMENT = re.compile(r'\{.{0,1000}"progress".{0,1000}\}')


def done_fraction(line: str) -> float | None:
    """Return how much is done according to one line of output, from 0; None where it does not tell."""
    if match := _PROGRESS_LINE.search(line):
        return float(match["fraction"]) if match["fraction"] else int(match["percent"]) / 100
    if match := _PROGRESS_DOCUMENT.fullmatch(line.strip()):
        try:
            document = json.loads(match[0])
        except (ValueError, RecursionError):
            return None
        fraction = document.get("fraction") if document.get("type") == "progress" else None
        return float(fraction) if isinstance(fraction, int | float) and 0 <= fraction <= 1 else None
    return None
