"""Outlines of many objects in one array: where they lie, and which rings they consist of.

A vertex is (x, y) in pixels of the working plane, with the centre of the first pixel at (0, 0). Rings are
open. An object with holes, or of several pieces, has its rings one after the other, as the original writes
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["Doubles", "Outlines", "corners", "cuts"]

Doubles = NDArray[np.float64]
Index = NDArray[np.intp]

#: Steps in the search for the rings of one outline.
_TRIES = 2000


@dataclass(frozen=True, slots=True)
class Outlines:
    """Outlines of ``len(starts) - 1`` objects."""

    #: Shape (vertices, 2).
    points: Doubles
    #: Number of the first vertex of each object, and at last the number of all.
    starts: Index

    @classmethod
    def parsed(cls, texts: Sequence[bytes]) -> Outlines:
        """Read ``x1:y1:x2:y2…`` of each object.

        Raises
        ------
        ValueError
            One is no list of pairs of numbers.
        """
        if not texts:
            return cls(np.zeros((0, 2)), np.zeros(1, np.intp))
        counts = np.fromiter((text.count(b":") + 1 for text in texts), np.intp, len(texts))
        if (counts % 2).any():
            raise ValueError("an outline with an odd number of coordinates")
        values = np.array(list(map(float, b":".join(texts).split(b":"))))
        if not np.isfinite(values).all():
            raise ValueError("an outline with a coordinate that is no number")
        return cls(values.reshape(-1, 2), np.concatenate([[0], np.cumsum(counts // 2)]))

    @classmethod
    def joined(cls, outlines: Sequence[Doubles]) -> Outlines:
        """Put outlines of shape (vertices, 2) together."""
        if not outlines:
            return cls(np.zeros((0, 2)), np.zeros(1, np.intp))
        lengths = [len(outline) for outline in outlines]
        return cls(np.concatenate(outlines), np.concatenate([[0], np.cumsum(lengths)]))

    def __len__(self) -> int:
        return self.starts.size - 1

    def __getitem__(self, number: int) -> Doubles:
        return self.points[self.starts[number] : self.starts[number + 1]]

    @property
    def lengths(self) -> Index:
        """Number of vertices of each."""
        return np.diff(self.starts)

    def taken(self, keep: NDArray[np.bool_]) -> Outlines:
        """Return those for which *keep* is true."""
        if keep.all():
            return self
        lengths = self.lengths
        return Outlines(
            self.points[np.repeat(keep, lengths)], np.concatenate([[0], np.cumsum(lengths[keep])])
        )

    def boxes(self) -> Doubles:
        """Return left, top, right and bottom of each: shape (objects, 4)."""
        if not len(self):
            return np.zeros((0, 4))
        first = self.starts[:-1]
        return np.concatenate(
            [np.minimum.reduceat(self.points, first), np.maximum.reduceat(self.points, first)], axis=1
        )

    def centroids(self) -> Doubles:
        """Return the centre of the area of each: shape (objects, 2).

        Each is computed from differences to its own box, so that two tiles which see the same outline get the
        same number to the last bit.
        """
        if not len(self):
            return np.zeros((0, 2))
        first, base = self.starts[:-1], self.boxes()[:, :2]
        here = self.points - np.repeat(base, self.lengths, axis=0)
        ahead = here[self._following()]
        cross = here[:, 0] * ahead[:, 1] - ahead[:, 0] * here[:, 1]
        doubled = np.add.reduceat(cross, first)
        moments = np.add.reduceat((here + ahead) * cross[:, None], first)
        flat = doubled == 0
        if flat.any():
            moments[flat] = (np.add.reduceat(here, first) / self.lengths[:, None])[flat]
            doubled[flat] = 1 / 3
        return np.asarray(base + moments / (3 * doubled[:, None]))

    def areas(self) -> Doubles:
        """Return the area inside each outline."""
        if not len(self):
            return np.zeros(0)
        here, ahead = self.points, self.points[self._following()]
        base = np.repeat(self.points[self.starts[:-1]], self.lengths, axis=0)
        here, ahead = here - base, ahead - base
        return np.asarray(
            abs(np.add.reduceat(here[:, 0] * ahead[:, 1] - ahead[:, 0] * here[:, 1], self.starts[:-1])) / 2
        )

    def several(self) -> Index:
        """Return the numbers of those that may consist of several rings."""
        if not len(self):
            return np.zeros(0, np.intp)
        following = self._following()
        direction = _directions(self.points, self.points[following])
        before = np.empty_like(direction)
        before[following] = direction
        turns = np.add.reduceat(_turns(before, direction), self.starts[:-1])
        wrong = (direction < 0) | ~_goes_on(self.points, before, direction) | _off_lattice(self.points)
        wrong = np.logical_or.reduceat(wrong, self.starts[:-1])
        return np.flatnonzero((abs(turns) != 8) | wrong)

    def _following(self) -> Index:
        following = np.arange(1, self.points.shape[0] + 1)
        following[self.starts[1:] - 1] = self.starts[:-1]
        return following


def cuts(points: Doubles) -> Iterator[list[Doubles]]:
    """Yield the ways in which an outline may consist of rings, the likeliest first.

    Half-pixel outlines have edges in eight directions, and a ring turns by 360 degrees. That tells where one
    may end and the next begin, although nothing in the text does.
    """
    if len(points) < 8 or _off_lattice(points).any():
        return
    ahead = _directions(points[:-1], points[1:])
    turn = np.zeros(len(points), np.intp)
    turn[1:-1] = _turns(ahead[:-1], ahead[1:])
    turned = np.cumsum(turn)
    torn = np.zeros(len(points), bool)
    torn[:-1] = ahead < 0
    torn[1:-1] |= ~_goes_on(points[1:-1], ahead[:-1], ahead[1:])
    torn[-1] = True
    broken = np.flatnonzero(torn)

    def ends(begin: int) -> list[int]:
        """Return where a ring that begins there may end, the longest first."""
        if begin + 3 >= len(points) or ahead[begin] < 0:
            return []
        last = int(broken[np.searchsorted(broken, begin + 1)])
        final = np.arange(begin + 3, last + 1)
        if not final.size:
            return []
        start = np.broadcast_to(points[begin], (final.size, 2))
        closing, away = _directions(points[final], start), np.full(final.size, ahead[begin])
        fits = (closing >= 0) & _goes_on(points[final], ahead[final - 1], closing)
        fits &= _goes_on(start, closing, away)
        total = turned[final - 1] - turned[begin] + _turns(ahead[final - 1], closing) + _turns(closing, away)
        found: list[int] = (final[fits & (abs(total) == 8)] + 1).tolist()
        return found[::-1]

    # Depth first, without recursion: an object may have many holes.
    path, choices = [0], [ends(0)]
    for _ in range(_TRIES):
        if path[-1] == len(points):
            yield [points[begin:end] for begin, end in pairwise(path)]
        while choices and not choices[-1]:
            choices.pop()
            path.pop()
        if not choices:
            return
        path.append(choices[-1].pop(0))
        choices.append(ends(path[-1]) if path[-1] < len(points) else [])


def corners(ring: Doubles) -> Doubles:
    """Return a ring without the vertices at which it does not turn."""
    step = np.roll(ring, -1, axis=0) - ring
    before = np.roll(step, 1, axis=0)
    straight = (step[:, 0] * before[:, 1] == step[:, 1] * before[:, 0]) & ((step * before).sum(axis=1) >= 0)
    return np.asarray(ring[~straight])


def _off_lattice(points: Doubles) -> NDArray[np.bool_]:
    """Say which vertices do not lie in the middle of a pixel's side."""
    doubled = 2 * points
    return np.asarray((doubled != np.rint(doubled)).any(axis=1) | (np.rint(doubled.sum(axis=1)) % 2 == 0))


def _directions(here: Doubles, ahead: Doubles) -> Index:
    """Return the direction of edges in steps of 45 degrees; -1 where no half-pixel outline has one."""
    step = ahead - here
    sign = np.sign(step).astype(np.intp)
    direction = _DIRECTION[sign[:, 1] + 1, sign[:, 0] + 1].copy()
    level = (step[:, 0] == 0) | (step[:, 1] == 0)
    direction[~level & (abs(step[:, 0]) != abs(step[:, 1]))] = -1
    # A straight edge runs between pixels, not through their centres.
    whole = np.where(step[:, 0] == 0, here[:, 0], here[:, 1])
    direction[level & (whole == np.rint(whole))] = -1
    return direction


def _goes_on(points: Doubles, before: Index, after: Index) -> NDArray[np.bool_]:
    """Say where an outline crosses the line between two pixels' centres: it does not turn back at a side."""
    beside = points[:, 0] == np.rint(points[:, 0])
    come = np.where(beside, _ACROSS[before], _DOWN[before])
    return np.asarray((come != 0) & (come == np.where(beside, _ACROSS[after], _DOWN[after])))


def _turns(before: Index, after: Index) -> Index:
    return (after - before + 4) % 8 - 4


_DIRECTION = np.array([[5, 6, 7], [4, -1, 0], [3, 2, 1]])
#: Signs of the steps in each direction; the last for none.
_ACROSS = np.array([1, 1, 0, -1, -1, -1, 0, 1, 0])
_DOWN = np.array([0, -1, -1, -1, 0, 1, 1, 1, 0])
