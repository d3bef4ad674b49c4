"""Numbers in image records, which other programs wrote as numbers or text, well or badly. Unknown is None."""

from __future__ import annotations

import math

__all__ = ["mean_mpp_um", "whole_px"]

#: Sides of slides end far below this.
_LARGEST_PX = 10_000_000
#: From electron microscopy to a macro picture. Beyond: a resolution in another unit, or a screen's 72 dpi.
_MPP_UM = (0.05, 20.0)


def whole_px(value: object) -> int | None:
    """Return *value* as a positive whole number of pixels, or None where it is nothing like that."""
    number = _number(value)
    return (
        int(number) if number is not None and number == int(number) and 1 <= number <= _LARGEST_PX else None
    )


def mean_mpp_um(*values: object) -> float | None:
    """Return the mean of those *values* that can be micrometres per pixel, or None where none can."""
    numbers = (_number(value) for value in values)
    plausible = [number for number in numbers if number is not None and _MPP_UM[0] <= number <= _MPP_UM[1]]
    return sum(plausible) / len(plausible) if plausible else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
