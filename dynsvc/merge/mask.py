"""The mask of a region as a pyramid in one file, written tile by tile."""

from __future__ import annotations

import struct
import tempfile
import uuid
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import tifffile
from numpy.typing import NDArray

__all__ = ["MaskPyramid"]

_TILE_PX = 512
#: The smallest level fits into one tile.
_FASTEST = 1


class MaskPyramid:
    """Takes the masks of the cores in grid order and keeps no more of them than a row of tiles.

    Finished tiles of all levels wait, compressed, in temporary files beside the result.

    Parameters
    ----------
    folder
        For the temporary files.
    width_px, height_px
        Size of the region.
    """

    def __init__(self, folder: Path, width_px: int, height_px: int) -> None:
        self._levels = [_Level(folder, width_px, height_px)]
        while max(width_px, height_px) > _TILE_PX:
            width_px, height_px = -(-width_px // 2), -(-height_px // 2)
            self._levels.append(_Level(folder, width_px, height_px))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for level in self._levels:
            level.close()

    def paste(self, left: int, top: int, mask: NDArray[np.bool_]) -> None:
        """Put one core at its place in the region; what lies outside is left out."""
        self._levels[0].paste(left, top, mask)

    def complete_above(self, row: int) -> None:
        """Say that nothing will be pasted above *row* any more."""
        for level, smaller in zip(self._levels, [*self._levels[1:], None], strict=True):
            for left, top, tile in level.finished(row):
                if smaller is not None:
                    smaller.paste(left // 2, top // 2, _halved(tile))
            row = row // 2 if row < level.height_px else smaller.height_px if smaller else row

    def write(self, path: Path, *, mpp_um: float | None, x_px: int, y_px: int) -> None:
        """Write an OME-TIFF of 8 bits with 0 and 1, in which other programs find the levels, too.

        Parameters
        ----------
        mpp_um
            Of the mask; None where it is unknown.
        x_px, y_px
            Place of the mask on the slide, in its own pixels.
        """
        self.complete_above(self._levels[0].height_px)
        size = {} if mpp_um is None else {
            "PhysicalSizeX": mpp_um, "PhysicalSizeXUnit": "\u00b5m",
            "PhysicalSizeY": mpp_um, "PhysicalSizeYUnit": "\u00b5m",
            "Plane": {
                "PositionX": [x_px * mpp_um], "PositionXUnit": ["\u00b5m"],
                "PositionY": [y_px * mpp_um], "PositionYUnit": ["\u00b5m"],
            },
        }  # fmt: skip
        name = uuid.uuid5(uuid.NAMESPACE_OID, f"{path.name} {self._levels[0].digest:08x}")
        # An uncompressed estimate decides about the 64-bit variant; it must not change with the content.
        bigtiff = sum(level.width_px * level.height_px for level in self._levels) > 1 << 31
        with tifffile.TiffWriter(path, bigtiff=bigtiff, ome=True) as writer:
            for number, level in enumerate(self._levels):
                writer.write(
                    level.tiles(),
                    shape=(level.height_px, level.width_px),
                    dtype=np.uint8,
                    tile=(_TILE_PX, _TILE_PX),
                    photometric="minisblack",
                    compression="adobe_deflate",
                    subifds=None if number else len(self._levels) - 1,
                    subfiletype=1 if number else 0,
                    metadata=None if number else {"axes": "YX", "UUID": f"urn:uuid:{name}", **size},
                    software="dynsvc",
                )
        _chain_levels(path)


class _Level:
    """One level: tiles that are being filled, and a file of finished ones in their order."""

    def __init__(self, folder: Path, width_px: int, height_px: int) -> None:
        self.width_px, self.height_px = width_px, height_px
        self.digest = 0
        self._columns = -(-width_px // _TILE_PX)
        self._row = 0
        self._open: dict[tuple[int, int], NDArray[np.uint8]] = {}
        self._file: BinaryIO = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()
        self._sizes: list[int] = []
        self._blank = zlib.compress(bytes(_TILE_PX * _TILE_PX), _FASTEST)

    def close(self) -> None:
        self._file.close()

    def paste(self, left: int, top: int, mask: NDArray[np.bool_] | NDArray[np.uint8]) -> None:
        mask = mask[max(0, -top) : self.height_px - top, max(0, -left) : self.width_px - left]
        left, top = max(0, left), max(0, top)
        height, width = mask.shape
        if not height or not width:
            return
        for row in range(top // _TILE_PX, (top + height - 1) // _TILE_PX + 1):
            for column in range(left // _TILE_PX, (left + width - 1) // _TILE_PX + 1):
                y, x = row * _TILE_PX, column * _TILE_PX
                piece = mask[max(0, y - top) : y + _TILE_PX - top, max(0, x - left) : x + _TILE_PX - left]
                if not piece.any():
                    continue
                tile = self._open.get((row, column))
                if tile is None:
                    tile = self._open[row, column] = np.zeros((_TILE_PX, _TILE_PX), np.uint8)
                down, right = max(0, top - y), max(0, left - x)
                tile[down : down + piece.shape[0], right : right + piece.shape[1]] |= piece

    def finished(self, row: int) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        """Store the tiles above *row* (pixels) and yield those that are not empty, with their place."""
        rows = -(-self.height_px // _TILE_PX)
        last = rows if row >= self.height_px else row // _TILE_PX
        for number in range(self._row, last):
            for column in range(self._columns):
                tile = self._open.pop((number, column), None)
                packed = self._blank if tile is None else zlib.compress(tile.data, _FASTEST)
                self._file.write(packed)
                self._sizes.append(len(packed))
                self.digest = zlib.crc32(packed, self.digest)
                if tile is not None:
                    yield column * _TILE_PX, number * _TILE_PX, tile
        self._row = max(self._row, last)

    def tiles(self) -> Iterator[bytes]:
        self._file.seek(0)
        for size in self._sizes:
            yield self._file.read(size)


def _halved(tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return half the size: set where at least two of four pixels are."""
    quarters = tile[::2, ::2] + tile[1::2, ::2] + tile[::2, 1::2] + tile[1::2, 1::2]
    return np.asarray(quarters >= 2).view(np.uint8)


def _chain_levels(path: Path) -> None:
    """Link the levels, which OME keeps below the first image, as further images: OpenSlide looks there."""
    with tifffile.TiffFile(path) as found:
        first = found.pages[0]
        offsets = [first.offset, *(first.subifds or ())]
        big = found.is_bigtiff
    with path.open("r+b") as stream:
        for offset, following in pairwise(offsets):
            stream.seek(offset)
            if big:
                (entries,) = struct.unpack("<Q", stream.read(8))
                stream.seek(offset + 8 + 20 * entries)
                stream.write(struct.pack("<Q", following))
            else:
                (entries,) = struct.unpack("<H", stream.read(2))
                stream.seek(offset + 2 + 12 * entries)
                stream.write(struct.pack("<I", following))
