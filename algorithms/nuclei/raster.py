"""Pixels of a whole region that need not fit into memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .failures import OutputFailed

__all__ = ["Raster"]

#: Larger ones lie in a file.
_IN_MEMORY_BYTES = 50_000_000


class Raster:
    """A rectangle of pixels, 0 at first; in a file without a name where it is large.

    The file is read and written by row, not mapped: mapped pages would count as the program's memory.

    Parameters
    ----------
    shape
        Height and width, and the number of channels where pixels have more than one.
    folder
        Where the file may lie: on a disk, not in memory.

    Raises
    ------
    OutputFailed
        The folder takes no file.
    """

    mpp_um: float | None = None

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike, folder: Path) -> None:
        self.height_px, self.width_px = shape[:2]
        self._pixel, self._dtype = shape[2:], np.dtype(dtype)
        self._pixel_bytes = int(np.prod(self._pixel, initial=self._dtype.itemsize))
        size = self.height_px * self.width_px * self._pixel_bytes
        large = size > _IN_MEMORY_BYTES
        self._pixels = np.zeros((0,) if large else shape, dtype)
        self._file = None
        if large:
            try:
                self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by close
                self._file.truncate(size)
            except OSError as error:
                raise _failed(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back to the disk."""
        if self._file is not None:
            self._file.close()

    def read(self, left: int, top: int, width: int, height: int) -> NDArray[Any]:
        """Return the pixels of a part that lies inside. They may be the raster's own: do not change them."""
        if self._file is None:
            return self._pixels[top : top + height, left : left + width]
        part = np.empty((height, width, *self._pixel), self._dtype)
        for place, line in self._lines(left, top, part):
            done = 0
            while done < len(line):
                # A read may stop early, but not at the end of the file.
                done += os.preadv(self._file.fileno(), [line[done:]], place + done)
        return part

    def write(self, left: int, top: int, part: NDArray[Any]) -> None:
        """Put pixels at a place inside.

        Raises
        ------
        OutputFailed
            The disk has no room for them.
        """
        if self._file is None:
            self._pixels[top : top + part.shape[0], left : left + part.shape[1]] = part
            return
        for place, line in self._lines(left, top, np.ascontiguousarray(part, self._dtype)):
            done = 0
            while done < len(line):
                try:
                    done += os.pwrite(self._file.fileno(), line[done:], place + done)
                except OSError as error:
                    raise _failed(error) from error

    def strips(self, rows: int) -> Iterator[NDArray[Any]]:
        """Return all pixels, some rows at a time."""
        for top in range(0, self.height_px, rows):
            yield self.read(0, top, self.width_px, min(rows, self.height_px - top))

    def _lines(self, left: int, top: int, part: NDArray[Any]) -> Iterator[tuple[int, memoryview]]:
        """Return where each row of *part* lies in the file, and its bytes; full rows are one piece."""
        height, width = part.shape[:2]
        pieces = part.reshape(1 if width == self.width_px else height, -1).view(np.uint8)
        for row, line in enumerate(pieces):
            yield ((top + row) * self.width_px + left) * self._pixel_bytes, line.data


def _failed(error: OSError) -> OutputFailed:
    return OutputFailed(f"pixels cannot be put on the disk: {error.strerror}")
