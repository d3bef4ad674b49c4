"""Inline SVG for the result page: outlines, density, bars. Numbers in, text out."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from dynsvc.demo.objects import Found, Ring, simplified
from dynsvc.regions import Region

__all__ = ["density_cells", "histogram_bars", "outline_path"]

#: Half a pixel and a little: below what a 1-px line shows, and a quarter of the vertices.
_EPSILON_PX: Final = 0.75

#: Cells along the longer side of the density picture.
_CELLS: Final = 64

_BARS: Final = 24


def outline_path(rings: Iterable[Ring], region: Region) -> str:
    """Return the ``d`` attribute of one SVG path for *rings* (level-0 px); origin at the region's corner."""
    parts: list[str] = []
    for ring in rings:
        points = simplified(ring, _EPSILON_PX)
        # Relative integers of tenths would be shorter still, but could not be read by people.
        text = " ".join(f"{_short(x - region.x_px)},{_short(y - region.y_px)}" for x, y in points)
        parts.append(f"M{text}Z")
    return "".join(parts)


def density_cells(objects: Iterable[Found], region: Region) -> str:
    """Return SVG rectangles whose opacity tells how many objects lie in each cell of a grid."""
    side = max(region.width_px, region.height_px) / _CELLS
    counts: Counter[tuple[int, int]] = Counter()
    for found in objects:
        x, y = found.anchor
        counts[int((x - region.x_px) // side), int((y - region.y_px) // side)] += 1
    most = max(counts.values(), default=1)
    return "".join(
        f'<rect x="{_short(column * side)}" y="{_short(row * side)}" width="{_short(side)}" '
        f'height="{_short(side)}" fill-opacity="{0.75 * count / most:.2f}">'
        f"<title>{count} nuclei</title></rect>"
        for (column, row), count in sorted(counts.items())
    )


def histogram_bars(values: Sequence[float], unit: str) -> str:
    """Return a bar chart of *values* as a whole SVG; the last bar holds all that lie beyond its start.

    Parameters
    ----------
    values
        At least one finite number, none negative.
    unit
        What the numbers are, for the axis and the bars' titles: ``µm²``.
    """
    ordered = sorted(values)
    # A few merged or giant objects must not squeeze all others into one bar.
    top = min(ordered[math.ceil(0.99 * len(ordered)) - 1], 4 * statistics.median(ordered))
    step = _round_step(max(top, 1e-9) / _BARS)
    bins = max(1, math.ceil(top / step + 1e-9))
    counts = [0] * bins
    for value in ordered:
        counts[min(bins - 1, int(value / step))] += 1
    most = max(counts)
    width, height, left, bottom = 640, 220, 40, 30
    slot = (width - left - 10) / bins
    scale = (height - bottom - 14) / most
    bars, ticks = [], []
    every = max(1, math.ceil(bins / 8))
    for i, count in enumerate(counts):
        x = left + i * slot
        tall = count * scale
        last = i == bins - 1
        span = (
            f"{_short(i * step)} {unit} and more"
            if last
            else f"{_short(i * step)} to {_short((i + 1) * step)} {unit}"
        )
        bars.append(
            f'<rect x="{x + 0.75:.1f}" y="{height - bottom - tall:.1f}" width="{max(slot - 1.5, 0.5):.1f}" '
            f'height="{tall:.1f}" rx="1.5"><title>{span}: {count}</title></rect>'
        )
        if i % every == 0 and i < bins - 2:
            ticks.append(
                f'<text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{_short(i * step)}</text>'
            )
    y_most = height - bottom - most * scale
    label = f"Histogram of nucleus areas in {unit}, {len(ordered)} nuclei"
    return (
        f'<svg class="bars" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
        f'<line class="grid" x1="{left}" x2="{width - 10}" y1="{y_most:.1f}" y2="{y_most:.1f}"/>'
        f'<text x="{left - 6}" y="{y_most + 4:.1f}" text-anchor="end">{most}</text>'
        f"{''.join(bars)}"
        f'<line class="axis" x1="{left}" x2="{width - 10}" y1="{height - bottom}" y2="{height - bottom}"/>'
        f"{''.join(ticks)}"
        f'<text x="{width - 10}" y="{height - bottom + 18}" text-anchor="end">'
        f"{_short((bins - 1) * step)} {unit} +</text></svg>"
    )


def _round_step(step: float) -> float:
    """Return the next of 1, 2, 2.5, 5, 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9))


def _short(number: float) -> str:
    """Return *number* with at most one decimal place, without a trailing zero."""
    text = f"{number:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
