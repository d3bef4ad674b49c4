"""Objects that are kept, some at a time, with their coordinates as text for each kind of file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dynsvc.merge.joining import Settled
from dynsvc.merge.outlines import Doubles, Outlines
from dynsvc.merge.parts import Kind, Part
from dynsvc.merge.pixels import rings_of

__all__ = ["Batch", "Words", "interleaved", "json_number"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Objects of one table."""

    rows: list[str]
    outlines: Outlines
    #: Shape (objects, 2), in pixels of the plane.
    centroids: NDArray[np.float64]
    areas_px: NDArray[np.float64]
    #: The rings of those that have several, by number.
    rings: dict[int, list[Doubles]] = field(default_factory=dict)

    @classmethod
    def inner(cls, part: Part) -> Batch:
        """Return what a part holds of objects that no other tile has to do with."""
        inner = part.kind == Kind.INNER
        every = cls(part.rows, part.outlines, part.centroids, part.areas_px)
        every._cut(number for number in part.several if inner[number])
        return every.taken(inner)

    @classmethod
    def settled(cls, found: Sequence[Settled]) -> Batch:
        """Return objects from the borders."""
        outlines = Outlines.joined([one.outline for one in found])
        batch = cls(
            [one.row for one in found],
            outlines,
            np.array([(one.x, one.y) for one in found]).reshape(-1, 2),
            np.array([one.area_px for one in found]),
            {number: one.rings for number, one in enumerate(found) if one.rings},
        )
        batch._cut([number for number in outlines.several().tolist() if number not in batch.rings])
        return batch

    def _cut(self, numbers: Iterable[int]) -> None:
        """Cut those outlines into their rings."""
        for number in numbers:
            rings = rings_of(self.outlines[number], float(self.areas_px[number]))
            if len(rings) > 1:
                self.rings[number] = rings

    def __len__(self) -> int:
        return len(self.rows)

    def taken(self, keep: NDArray[np.bool_]) -> Batch:
        """Return the objects for which *keep* is true."""
        if keep.all():
            return self
        numbers = np.flatnonzero(keep).tolist()
        return Batch(
            [self.rows[number] for number in numbers],
            self.outlines.taken(keep),
            self.centroids[keep],
            self.areas_px[keep],
            {new: self.rings[old] for new, old in enumerate(numbers) if old in self.rings},
        )


class Words(dict[float, str]):
    """Texts of coordinates, each made once: neighbouring objects share most of their numbers.

    Parameters
    ----------
    factor, shift
        The text shows ``factor * coordinate + shift``.
    form
        With one place for a number.
    """

    #: Forget all beyond this.
    _MOST = 1 << 18

    def __init__(self, factor: float, shift: float, form: str) -> None:
        super().__init__()
        self._factor, self._shift, self._form = factor, shift, form

    def __missing__(self, coordinate: float) -> str:
        if len(self) >= self._MOST:
            self.clear()
        text = self[coordinate] = self._form % (self._factor * coordinate + self._shift)
        return text

    def of(self, coordinates: Iterable[float]) -> list[str]:
        """Return the text of each."""
        return list(map(self.__getitem__, coordinates))


def interleaved(xs: list[str], ys: list[str]) -> list[str]:
    """Return both in turn."""
    words = [""] * (2 * len(xs))
    words[::2], words[1::2] = xs, ys
    return words


def json_number(text: str) -> str:
    """Return a number as JSON has it; nothing for nan and infinity, which it does not have."""
    try:
        number = float(text)
    except ValueError:
        return ""
    return f"{number:.6g}" if abs(number) < float("inf") else ""
