"""Outlines as polygons: the line at half height between nucleus and background, as the original draws it.

The centre of the picture's first pixel is at (0, 0). A vertex lies half a pixel outside the centre of a
border pixel, wherever that pixel has background beside it; so the polygon holds the centres of exactly the
nucleus' pixels. Vertices in the middle of a straight line are left out. The ring is open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["doubled_polygons"]

Number = TypeVar("Number", bound=np.integer)
Doubled = NDArray[np.int32]
Index = NDArray[np.intp]

#: The eight directions on the screen, clockwise from the right: columns, and rows.
_ACROSS = np.array([1, 1, 0, -1, -1, -1, 0, 1], dtype=np.int32)
_DOWN = np.array([0, 1, 1, 1, 0, -1, -1, -1], dtype=np.int32)
#: The direction of a step, by 3 * rows + columns + 4.
_DIRECTION = np.zeros(9, dtype=np.intp)
_DIRECTION[3 * _DOWN + _ACROSS + 4] = np.arange(8)


def _sides() -> tuple[Index, Index]:
    """Return which sides of a pixel lie outside, and how many, by 8 * the way back from it + the way on."""
    sides = np.zeros((64, 4), dtype=np.intp)
    count = np.zeros(64, dtype=np.intp)
    for back in range(8):
        for ahead in range(8):
            # The outline runs counterclockwise: outside is swept from the way back to the way on.
            for turn in range(1, 8):
                direction = (back - turn) % 8
                if direction == ahead:
                    break
                if direction % 2 == 0:
                    sides[8 * back + ahead, count[8 * back + ahead]] = direction
                    count[8 * back + ahead] += 1
    return sides, count


_SIDES, _COUNT = _sides()


@dataclass(frozen=True, slots=True)
class _Rings:
    """Where each of many rings begins and ends in arrays that hold one after the other."""

    first: Index
    last: Index

    @classmethod
    def of(cls, lengths: Index) -> _Rings:
        ends = np.cumsum(lengths)
        return cls(ends - lengths, ends - 1)

    def following(self, values: NDArray[Number]) -> NDArray[Number]:
        """Return the next value on the same ring."""
        result = np.empty_like(values)
        result[:-1] = values[1:]
        result[self.last] = values[self.first]
        return result

    def preceding(self, values: NDArray[Number]) -> NDArray[Number]:
        """Return the value before on the same ring."""
        result = np.empty_like(values)
        result[1:] = values[:-1]
        result[self.first] = values[self.last]
        return result


def doubled_polygons(outlines: Sequence[NDArray[np.int32]]) -> list[Doubled]:
    """Return the polygon of each outline, in half pixels: shape (vertices, 2), column and row.

    Parameters
    ----------
    outlines
        Border pixels in order, counterclockwise on the screen.
    """
    if not outlines:
        return []
    lengths = np.array([len(outline) for outline in outlines])
    rings = _Rings.of(lengths)
    x, y = np.concatenate(outlines).T.copy()
    ahead = _DIRECTION[3 * (rings.following(y) - y) + rings.following(x) - x + 4]
    way = 8 * rings.preceding(ahead ^ 4) + ahead
    count = _COUNT[way]
    single = rings.first[lengths == 1]
    count[single] = 4
    pixel = np.repeat(np.arange(x.size), count)
    begin = np.cumsum(count) - count
    nth = np.arange(pixel.size) - begin[pixel]
    side = _SIDES[way[pixel], nth]
    # A pixel without a neighbour has all four sides.
    side[begin[single][:, None] + np.arange(4)] = (6, 4, 2, 0)
    return _corners(
        2 * x[pixel] + _ACROSS[side], 2 * y[pixel] + _DOWN[side], np.add.reduceat(count, rings.first)
    )


def _corners(x: Doubled, y: Doubled, lengths: Index) -> list[Doubled]:
    """Leave out vertices at which a polygon does not turn."""
    rings = _Rings.of(lengths)
    across, down = rings.following(x) - x, rings.following(y) - y
    turns = (across != rings.preceding(across)) | (down != rings.preceding(down))
    kept = np.add.reduceat(turns, rings.first, dtype=np.intp)
    return np.split(np.stack([x[turns], y[turns]], axis=1), np.cumsum(kept)[:-1])
