"""Objects as sets of pixels: filling outlines, overlap, connected pieces, and tracing the outline again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynsvc.merge.outlines import Doubles, corners, cuts
from dynsvc.regions import Region

__all__ = ["Pixels", "rings_of", "same", "touch"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pixels:
    """A set of pixels of the working plane, inside its box."""

    left: int
    top: int
    #: Shape (height, width).
    mask: Mask

    @classmethod
    def inside(cls, outline: Doubles, area_px: float | None = None) -> Pixels:
        """Return the pixels whose centres lie inside *outline* or on it; they may be known to be so many."""
        return _filled(rings_of(outline, area_px)).trimmed()

    @classmethod
    def union(cls, parts: Iterable[Pixels]) -> Pixels:
        """Return all pixels of *parts*, of which there is at least one."""
        parts = list(parts)
        left, top = min(part.left for part in parts), min(part.top for part in parts)
        right, bottom = max(part.right for part in parts), max(part.bottom for part in parts)
        mask = np.zeros((bottom - top, right - left), bool)
        for part in parts:
            y, x = part.top - top, part.left - left
            mask[y : y + part.mask.shape[0], x : x + part.mask.shape[1]] |= part.mask
        return Pixels(left, top, mask)

    @property
    def right(self) -> int:
        """First column behind the box."""
        return self.left + int(self.mask.shape[1])

    @property
    def bottom(self) -> int:
        """First row below the box."""
        return self.top + int(self.mask.shape[0])

    def __bool__(self) -> bool:
        return bool(self.mask.any())

    def trimmed(self) -> Pixels:
        """Return the same in the smallest box."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        if not rows.size:
            return Pixels(self.left, self.top, np.zeros((0, 0), bool))
        mask = self.mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return Pixels(self.left + int(columns[0]), self.top + int(rows[0]), mask)

    def within(self, region: Region) -> Pixels:
        """Return the pixels that lie in *region*."""
        window = self.window(region.x_px, region.y_px, region.width_px, region.height_px)
        return Pixels(region.x_px, region.y_px, window).trimmed()

    def window(self, left: int, top: int, width: int, height: int) -> Mask:
        """Return the mask of that box of the plane."""
        window = np.zeros((height, width), bool)
        west, north = max(left, self.left), max(top, self.top)
        east, south = min(left + width, self.right), min(top + height, self.bottom)
        if west < east and north < south:
            window[north - top : south - top, west - left : east - left] = self.mask[
                north - self.top : south - self.top, west - self.left : east - self.left
            ]
        return window

    def rings(self) -> list[Doubles]:
        """Return the half-pixel outline: outer rings first, then holes. Touching corners are joined."""
        return [ring + np.array([self.left, self.top]) for ring in _traced(self.mask)]


def rings_of(outline: Doubles, area_px: float | None = None) -> list[Doubles]:
    """Cut an outline into its rings. One that does not follow the sides of pixels is taken as one ring.

    Parameters
    ----------
    area_px
        Pixels of the object, where they are known: a few outlines can be read in two ways.
    """
    likely: list[Doubles] | None = None
    for rings in cuts(outline):
        filled = _filled(rings)
        # Only a right cut is the outline of what it encloses.
        if _set_of(filled.rings()) == _set_of(rings):
            if area_px is None or int(filled.mask.sum()) == area_px:
                return rings
            likely = likely or rings
    return likely or [outline]


def same(first: Pixels, second: Pixels) -> bool:
    """Say whether two sets, seen in the same window, are the same object.

    They are where two connected pieces, one of each, overlap in at least half of the smaller one.
    """
    left, top = max(first.left, second.left), max(first.top, second.top)
    width, height = min(first.right, second.right) - left, min(first.bottom, second.bottom) - top
    if width <= 0 or height <= 0:
        return False
    common = first.window(left, top, width, height) & second.window(left, top, width, height)
    number = int(common.sum())
    if not number:
        return False
    if 2 * number >= min(int(first.mask.sum()), int(second.mask.sum())):
        return True
    pieces, others = _components(first.mask), _components(second.mask)
    rows, columns = np.nonzero(common)
    of_first = pieces[rows + top - first.top, columns + left - first.left]
    of_second = others[rows + top - second.top, columns + left - second.left]
    sizes, other_sizes = np.bincount(pieces.ravel()), np.bincount(others.ravel())
    pairs, numbers = np.unique(np.stack([of_first, of_second]), axis=1, return_counts=True)
    return bool((2 * numbers >= np.minimum(sizes[pairs[0]], other_sizes[pairs[1]])).any())


def touch(first: Pixels, second: Pixels) -> bool:
    """Say whether a pixel of one set lies beside a pixel of the other, not only corner to corner."""
    for across, down in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        left, top = max(first.left + across, second.left), max(first.top + down, second.top)
        width = min(first.right + across, second.right) - left
        height = min(first.bottom + down, second.bottom) - top
        if width > 0 and height > 0:
            moved = first.window(left - across, top - down, width, height)
            if (moved & second.window(left, top, width, height)).any():
                return True
    return False


def _filled(rings: list[Doubles]) -> Pixels:
    here = np.concatenate(rings)
    ahead = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    low, high = np.floor(here.min(axis=0)), np.ceil(here.max(axis=0))
    width, height = (high - low).astype(np.intp).tolist()
    step = np.zeros((height + 1, width + 2), np.int32)
    _fill(step, here - low, ahead - low)
    mask = np.cumsum(step[:, :-1], axis=1) > 0
    _add_level_edges(mask, here - low, ahead - low)
    return Pixels(int(low[0]), int(low[1]), mask)


def _set_of(rings: list[Doubles]) -> set[bytes]:
    """Return rings in a form that does not depend on their order, beginning and direction."""
    forms = set()
    for ring in rings:
        points = corners(ring)
        first = int(np.lexsort(points.T)[0])
        ahead, back = np.roll(points, -first, axis=0), np.roll(points[::-1], first + 1, axis=0)
        forms.add(min(ahead.tobytes(), back.tobytes()))
    return forms


def _fill(step: NDArray[np.int32], here: Doubles, ahead: Doubles) -> None:
    """Add 1 where a run of pixels inside begins and subtract 1 behind its end (even-odd rule)."""
    upper, lower = np.minimum(here[:, 1], ahead[:, 1]), np.maximum(here[:, 1], ahead[:, 1])
    first = np.ceil(upper).astype(np.intp)
    count = np.maximum(np.ceil(lower).astype(np.intp) - first, 0)
    edge = np.repeat(np.arange(len(here)), count)
    row = first[edge] + np.arange(edge.size) - np.repeat(np.cumsum(count) - count, count)
    rise = (ahead - here)[edge]
    x = here[edge, 0] + (row - here[edge, 1]) * rise[:, 0] / rise[:, 1]
    order = np.lexsort((x, row))
    row, x = row[order], x[order]
    begin = np.ceil(x[::2] - 1e-9).astype(np.intp)
    end = np.floor(x[1::2] + 1e-9).astype(np.intp) + 1
    filled = begin < end
    np.add.at(step, (row[::2][filled], begin[filled]), 1)
    np.add.at(step, (row[::2][filled], end[filled]), -1)


def _add_level_edges(mask: Mask, here: Doubles, ahead: Doubles) -> None:
    """Add pixels with their centres on a horizontal edge: outlines may end along a picture's last row."""
    level = (here[:, 1] == ahead[:, 1]) & (here[:, 1] == np.rint(here[:, 1]))
    for (x, y), (other, _) in zip(here[level].tolist(), ahead[level].tolist(), strict=True):
        mask[int(y), int(np.ceil(min(x, other))) : int(np.floor(max(x, other))) + 1] = True


def _components(mask: Mask) -> NDArray[np.intp]:
    """Number the connected pieces of a mask from 1 on; corners connect."""
    framed = np.zeros((mask.shape[0], mask.shape[1] + 2), np.int8)
    framed[:, 1:-1] = mask
    rows, begins = np.nonzero(np.diff(framed, axis=1) == 1)
    ends = np.nonzero(np.diff(framed, axis=1) == -1)[1]
    parent = list(range(len(rows)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    bounds = np.searchsorted(rows, np.arange(mask.shape[0] + 1)).tolist()
    first, last = begins.tolist(), ends.tolist()
    for row in range(1, mask.shape[0]):
        above, here = bounds[row - 1], bounds[row]
        while above < bounds[row] and here < bounds[row + 1]:
            if first[above] <= last[here] and first[here] <= last[above]:
                parent[root(here)] = root(above)
            if last[above] < last[here]:
                above += 1
            else:
                here += 1
    pieces = np.zeros(mask.shape, np.intp)
    for number, (row, begin, end) in enumerate(zip(rows.tolist(), first, last, strict=True)):
        pieces[row, begin:end] = root(number) + 1
    return pieces


#: For each of the ways in which the four pixels around a corner can be inside (8 upper left, 4 upper right,
#: 2 lower left, 1 lower right): the pieces of outline, each from one side's middle to another's, with the
#: inside to the left. Sides as (x, y) in half pixels from the upper left pixel's centre.
_T, _R, _B, _L = (1, 0), (2, 1), (1, 2), (0, 1)
_CASES = {
    8: [(_L, _T)], 4: [(_T, _R)], 1: [(_R, _B)], 2: [(_B, _L)],
    7: [(_T, _L)], 11: [(_R, _T)], 14: [(_B, _R)], 13: [(_L, _B)],
    12: [(_L, _R)], 5: [(_T, _B)], 3: [(_R, _L)], 10: [(_B, _T)],
    9: [(_R, _T), (_L, _B)], 6: [(_T, _L), (_B, _R)],
}  # fmt: skip


def _traced(mask: Mask) -> list[Doubles]:
    """Return the rings around the pixels of *mask*, outer ones first, each from its topmost vertex on."""
    framed = np.pad(mask, 1).astype(np.int8)
    code = 8 * framed[:-1, :-1] + 4 * framed[:-1, 1:] + 2 * framed[1:, :-1] + framed[1:, 1:]
    width = 2 * framed.shape[1]
    following: dict[int, int] = {}
    for case, pieces in _CASES.items():
        rows, columns = np.nonzero(code == case)
        corner = 2 * rows * width + 2 * columns
        for (x, y), (to_x, to_y) in pieces:
            begins, ends = corner + y * width + x, corner + to_y * width + to_x
            following.update(zip(begins.tolist(), ends.tolist(), strict=True))
    outer: list[Doubles] = []
    holes: list[Doubles] = []
    for start in sorted(following):
        if start not in following:
            continue
        ring, place = [], start
        while place in following:
            ring.append(place)
            place = following.pop(place)
        # Minus the frame.
        points = np.stack(np.divmod(np.array(ring), width)[::-1], axis=1) / 2 - 1
        step = np.roll(points, -1, axis=0) - points
        points = points[(step != np.roll(step, 1, axis=0)).any(axis=1)]
        ahead = np.roll(points, -1, axis=0)
        turned = (points[:, 0] * ahead[:, 1] - ahead[:, 0] * points[:, 1]).sum()
        (outer if turned < 0 else holes).append(points)
    return outer + holes
