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
        keep = part.kind == Kind.INNER
        rows = part.rows if keep.all() else [part.rows[number] for number in np.flatnonzero(keep).tolist()]
        return cls._of(rows, part.outlines.taken(keep), part.centroids[keep], part.areas_px[keep])

    @classmethod
    def settled(cls, found: Sequence[Settled]) -> Batch:
        """Return objects from the borders."""
        batch = cls._of(
            [one.row for one in found],
            Outlines.joined([one.outline for one in found]),
            np.array([(one.x, one.y) for one in found]).reshape(-1, 2),
            np.array([one.area_px for one in found]),
        )
        batch.rings.update((number, one.rings) for number, one in enumerate(found) if one.rings)
        return batch

    @classmethod
    def _of(cls, rows: list[str], outlines: Outlines, centroids: Doubles, areas: Doubles) -> Batch:
        batch = cls(rows, outlines, centroids, areas)
        for number in outlines.several().tolist():
            rings = rings_of(outlines[number], float(areas[number]))
            if len(rings) > 1:
                batch.rings[number] = rings
        return batch

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
