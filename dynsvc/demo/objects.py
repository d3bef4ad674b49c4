"""The objects of a result zip: their areas and outlines, read from its ``-features.csv`` tables."""

from __future__ import annotations

import csv
import io
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dynsvc.errors import OutputRefused

__all__ = ["Found", "Ring", "read_objects", "simplified"]

#: Level-0 vertices of one outline, open: the last is joined to the first.
Ring = tuple[tuple[float, float], ...]

# The csv module refuses fields over 128 KiB by default; the ring of one large object may be longer.
_LONGEST_FIELD: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One object that the algorithm found."""

    #: Pixels of the picture that the algorithm saw; None where the table does not say.
    area_px: float | None
    ring: Ring

    @property
    def anchor(self) -> tuple[float, float]:
        """A point of the object in level-0 pixels: the mean of its vertices."""
        return (
            sum(x for x, _ in self.ring) / len(self.ring),
            sum(y for _, y in self.ring) / len(self.ring),
        )


def read_objects(zip_path: Path) -> Iterator[Found]:
    """Yield the objects of all tables in a result zip, in their order.

    A zip without a table holds no objects: that is how the original says "nothing found".

    Parameters
    ----------
    zip_path
        A result in the original's layout. Columns are found by name: ``AreaInPixels`` and ``Polygon``.

    Raises
    ------
    OutputRefused
        The file is no zip, or a table cannot be read (permanent).
    """
    csv.field_size_limit(_LONGEST_FIELD)
    try:
        with zipfile.ZipFile(zip_path) as archive:
            tables = sorted(name for name in archive.namelist() if name.endswith("-features.csv"))
            for table in tables:
                with archive.open(table) as raw:
                    yield from _rows(table, io.TextIOWrapper(raw, encoding="utf-8", newline=""))
    except (zipfile.BadZipFile, OSError, csv.Error, UnicodeDecodeError) as error:
        raise OutputRefused("the algorithm", zip_path.name, str(error)) from error


def _rows(table: str, text: io.TextIOWrapper) -> Iterator[Found]:
    rows = csv.DictReader(text, skipinitialspace=True)
    if "Polygon" not in (rows.fieldnames or ()):
        raise OutputRefused("the algorithm", table, "it has no column Polygon")
    for row in rows:
        try:
            ring = _ring(row["Polygon"] or "")
            # The original writes nan where a feature has no value.
            area_px = float(row.get("AreaInPixels") or "nan")
            found = Found(area_px=area_px if math.isfinite(area_px) else None, ring=ring)
        except ValueError as error:
            raise OutputRefused("the algorithm", table, f"line {rows.line_num}: {error}") from error
        if ring:
            yield found


def _ring(text: str) -> Ring:
    """Parse ``[x1:y1:x2:y2:…]``."""
    words = text.strip().strip("[]").split(":")
    if words == [""]:
        return ()
    if len(words) % 2:
        raise ValueError(f"the polygon has {len(words)} numbers, expected pairs")
    numbers = [float(word) for word in words]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("the polygon has a coordinate that is no finite number")
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def simplified(ring: Ring, epsilon_px: float) -> Ring:
    """Return *ring* with fewer vertices, none of the dropped ones farther than *epsilon_px* from its side.

    Douglas and Peucker's method on the two halves between the first vertex and the one farthest from it.
    """
    if len(ring) < 5:
        return ring
    x0, y0 = ring[0]
    far = max(range(len(ring)), key=lambda i: (ring[i][0] - x0) ** 2 + (ring[i][1] - y0) ** 2)
    if far == 0:
        return ring[:1]
    closed = (*ring, ring[0])
    kept = {0, far}
    spans = [(0, far), (far, len(ring))]
    while spans:
        start, end = spans.pop()
        index, distance = _farthest(closed, start, end)
        if distance > epsilon_px:
            kept.add(index)
            spans += [(start, index), (index, end)]
    return tuple(closed[i] for i in sorted(kept))


def _farthest(points: Ring, start: int, end: int) -> tuple[int, float]:
    """Return the point between two others that lies farthest from their line, and its distance in pixels."""
    (ax, ay), (bx, by) = points[start], points[end]
    dx, dy = bx - ax, by - ay
    length = (dx * dx + dy * dy) ** 0.5
    best, best_distance = start, -1.0
    for i in range(start + 1, end):
        x, y = points[i][0] - ax, points[i][1] - ay
        distance = abs(dx * y - dy * x) / length if length else (x * x + y * y) ** 0.5
        if distance > best_distance:
            best, best_distance = i, distance
    return best, best_distance
