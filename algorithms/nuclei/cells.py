"""Nuclei and the rings around them, cut out of a tile into cells of one size.

Some hundreds of cells are handled at once: few enough for the processor's cache, and enough that what Python
costs for each of them does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .nuclei import Nuclei

__all__ = ["Cells", "Groups"]

Number = TypeVar("Number", bound=np.integer[Any])
Index = NDArray[np.intp]

#: How far a ring reaches from its nucleus.
_RING_PX = 8
#: The disk of that radius: for each half width, how far from its centre the rows are that have it.
_ROWS = [
    [row for row in range(_RING_PX + 1) if math.isqrt(_RING_PX**2 - row**2) == half]
    for half in range(_RING_PX + 1)
]
#: Sides of cells are multiples of this: whole bytes of bits. So many pixels are handled at once.
_STEP_PX, _AT_ONCE_PX = 8, 2**18


@dataclass(frozen=True, slots=True)
class Groups:
    """Pixels of some nuclei and of their rings, in groups that are not empty: first nuclei, then rings."""

    #: Numbers of the nuclei that are looked at.
    nuclei: Index
    #: Place of each group, if those without a pixel are counted too: nuclei from 0 on, then their rings.
    place: Index
    #: Number of pixels of each group.
    count: Index
    #: For each pixel, 256 times the number of its group among these: where the group's histogram begins.
    histogram: NDArray[np.uint32]
    #: Flat indices of pixels, group by group, in cells one below the other.
    _pixels: Index
    #: First row and column of each cell on a framed picture, and its side.
    _top: Index
    _left: Index
    _side_px: int

    @property
    def starts(self) -> Index:
        """Where each group begins among all pixels."""
        return np.cumsum(self.count) - self.count

    def read(self, framed: NDArray[Number]) -> NDArray[Number]:
        """Return what a picture has in these pixels.

        Parameters
        ----------
        framed
            From :meth:`Cells.framed`.
        """
        windows = sliding_window_view(framed, (self._side_px, self._side_px))
        return windows[self._top, self._left].ravel()[self._pixels]


class Cells:
    """Nuclei of one tile, by the size of their cells."""

    def __init__(self, nuclei: Nuclei) -> None:
        side = np.maximum(nuclei.right - nuclei.left, nuclei.bottom - nuclei.top) + 1 + 2 * _RING_PX
        self._side = -(-side // _STEP_PX) * _STEP_PX
        self._nuclei = nuclei
        height, width = nuclei.labels.shape
        # Cells may reach over the picture.
        below = int((nuclei.top + self._side).max(initial=0)) - _RING_PX - height
        right = int((nuclei.left + self._side).max(initial=0)) - _RING_PX - width
        self._frame = _RING_PX, max(0, below), _RING_PX, max(0, right)

    def framed(self, picture: NDArray[Number]) -> NDArray[Number]:
        """Return a picture of the tile with a frame that is wide enough for all cells.

        There a cell begins at the row and column at which its nucleus begins on the plain picture.
        """
        return np.asarray(
            cv2.copyMakeBorder(picture, *self._frame, cv2.BORDER_CONSTANT, value=0), picture.dtype
        )

    def __iter__(self) -> Iterator[Groups]:
        labels = self.framed(self._nuclei.labels)
        for side_px in np.unique(self._side).tolist():
            windows = sliding_window_view(labels, (side_px, side_px))
            members = np.flatnonzero(self._side == side_px)
            step = max(1, _AT_ONCE_PX // side_px**2)
            for first in range(0, members.size, step):
                yield self._groups(members[first : first + step], windows)

    def _groups(self, chosen: Index, windows: NDArray[np.uint16]) -> Groups:
        nuclei, side_px = self._nuclei, windows.shape[-1]
        top, left = nuclei.top[chosen], nuclei.left[chosen]
        inside = windows[top, left] == (chosen + 1).astype(np.uint16)[:, None, None]
        ring = _dilated(inside, side_px)
        ring ^= inside
        # Rings overlap each other and other nuclei, as in the original. They end at the picture.
        height, width = nuclei.labels.shape
        for first, length, axis in ((top, height, 1), (left, width, 2)):
            place = np.arange(side_px) + first[:, None] - _RING_PX
            outside = (place < 0) | (place >= length)
            if outside.any():
                ring &= np.expand_dims(~outside, 3 - axis)
        pixels = np.concatenate([np.flatnonzero(inside), np.flatnonzero(ring)])
        # Where each cell's first pixel would be among those of the rings.
        area = nuclei.area[chosen]
        begins = np.searchsorted(pixels[int(area.sum()) :], np.arange(chosen.size + 1) * side_px**2)
        count = np.concatenate([area, np.diff(begins)])
        place = np.flatnonzero(count)
        count = count[place]
        histogram = np.repeat(np.arange(0, 256 * place.size, 256, dtype=np.uint32), count)
        return Groups(chosen, place, count, histogram, pixels, top, left, side_px)


def _dilated(inside: NDArray[np.bool_], side_px: int) -> NDArray[np.bool_]:
    """Return what lies within the ring's reach of the nucleus of each cell.

    All pixels are bits of one whole number, which is shifted as a whole. Cells have margins so wide that
    nothing reaches the next row or the next cell.
    """
    spread = int.from_bytes(np.packbits(inside, bitorder="little").tobytes(), "little")
    near = 0
    for rows in _ROWS:
        for row in rows:
            near |= spread << row * side_px | spread >> row * side_px
        spread |= spread << 1 | spread >> 1
    content = np.frombuffer(near.to_bytes(inside.size // 8, "little"), np.uint8)
    return np.unpackbits(content, bitorder="little").view(np.bool_).reshape(inside.shape)
