"""Outlines as polygons: the line at half height between nucleus and background, as the original draws it.

The centre of the picture's first pixel is at (0, 0). A vertex lies half a pixel outside the centre of a
border pixel, wherever that pixel has background beside it; so the polygon holds the centres of exactly the
nucleus' pixels. Vertices in the middle of a straight line are left out. The ring is open.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["doubled_polygons"]

Doubled = NDArray[np.int64]

#: The eight directions on the screen, clockwise from the right, as (column, row).
_STEPS = np.array([(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)])
_DIRECTION = np.zeros((3, 3), dtype=np.intp)
_DIRECTION[_STEPS[:, 1] + 1, _STEPS[:, 0] + 1] = np.arange(8)


def _sides() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return, for the way back and the way on from a pixel, which of its sides lie outside, and how many."""
    sides = np.zeros((8, 8, 4), dtype=np.intp)
    count = np.zeros((8, 8), dtype=np.intp)
    for back in range(8):
        for ahead in range(8):
            # The outline runs counterclockwise: outside is swept from the way back to the way on.
            for turn in range(1, 8):
                direction = (back - turn) % 8
                if direction == ahead:
                    break
                if direction % 2 == 0:
                    sides[back, ahead, count[back, ahead]] = direction
                    count[back, ahead] += 1
    return sides, count


_SIDES, _COUNT = _sides()


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
    points = np.concatenate(outlines).astype(np.int64)
    owner = np.repeat(np.arange(lengths.size), lengths)
    ends = np.cumsum(lengths)
    following = np.arange(1, points.shape[0] + 1)
    following[ends - 1] = ends - lengths
    step = points[following] - points
    ahead = _DIRECTION[step[:, 1] + 1, step[:, 0] + 1]
    back = np.empty_like(ahead)
    back[following] = (ahead + 4) % 8
    count = _COUNT[back, ahead]
    single = lengths[owner] == 1
    count[single] = 4
    pixel = np.repeat(np.arange(points.shape[0]), count)
    nth = np.arange(pixel.size) - np.repeat(np.cumsum(count) - count, count)
    side = _SIDES[back[pixel], ahead[pixel], nth]
    side[single[pixel]] = 6 - 2 * nth[single[pixel]]
    vertices = 2 * points[pixel] + _STEPS[side]
    return _corners(vertices, owner[pixel], lengths.size)


def _corners(vertices: Doubled, owner: NDArray[np.intp], count: int) -> list[Doubled]:
    """Leave out vertices at which a polygon does not turn."""
    lengths = np.bincount(owner, minlength=count)
    ends = np.cumsum(lengths)
    following = np.arange(1, owner.size + 1)
    following[ends - 1] = ends - lengths
    step = vertices[following] - vertices
    before = np.empty_like(step)
    before[following] = step
    turns = (step != before).any(axis=1)
    kept = np.bincount(owner[turns], minlength=count)
    return np.split(vertices[turns], np.cumsum(kept)[:-1])
