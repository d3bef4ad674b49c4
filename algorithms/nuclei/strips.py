"""PNG read and written some rows at a time, so that a picture of any height fits into little memory."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["StripReader", "png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Bytes of a pixel by colour type, at 8 bits per channel: grey, RGB, palette, grey and alpha, RGBA.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
#: How much is read, and how many pixels are decoded, at once.
_READ_BYTES, _STRIP_PX = 2**20, 2**22


@dataclass(frozen=True, slots=True)
class StripReader:
    """A PNG with 8 bits per channel and rows in their order.

    Each strip is inflated here and handed to Pillow as a small PNG of its own, below the row before it, which
    its first row's filter may refer to.
    """

    path: Path
    width_px: int
    height_px: int
    _colour_type: int
    #: Palette and transparency.
    _colours: bytes

    @classmethod
    def of(cls, path: Path) -> StripReader | None:
        """Return a reader, or None where the file is not such a PNG."""
        with path.open("rb") as file:
            if file.read(8) != _SIGNATURE:
                return None
            colours = b""
            header = None
            for kind, length in _chunks(file):
                if kind == b"IDAT":
                    break
                content = file.read(length) if kind in (b"IHDR", b"PLTE", b"tRNS") else None
                if content is None:
                    file.seek(length, io.SEEK_CUR)
                elif kind == b"IHDR":
                    header = struct.unpack(">IIBBBBB", content)
                else:
                    colours += _chunk(kind, content)
        if header is None or header[2] != 8 or header[3] not in _CHANNELS or header[6] != 0:
            return None
        return cls(path, header[0], header[1], header[3], colours)

    def __iter__(self) -> Iterator[Image.Image]:
        """Return the strips as pictures.

        Raises
        ------
        OSError
            The file is not complete.
        """
        line = 1 + self.width_px * _CHANNELS[self._colour_type]
        before = bytes(line)
        rows = max(1, _STRIP_PX // self.width_px)
        with self.path.open("rb") as file:
            file.seek(len(_SIGNATURE))
            inflated = _Inflated(file)
            for top in range(0, self.height_px, rows):
                number = min(rows, self.height_px - top)
                # One row more: the one before the strip, unfiltered.
                size = struct.pack(">II5B", self.width_px, number + 1, 8, self._colour_type, 0, 0, 0)
                pixels = _chunk(b"IDAT", zlib.compress(before + inflated.read(number * line), 0))
                content = _SIGNATURE + _chunk(b"IHDR", size) + self._colours + pixels + _chunk(b"IEND", b"")
                picture = Image.open(io.BytesIO(content))
                before = bytes(1) + np.asarray(picture.crop((0, number, self.width_px, number + 1))).tobytes()
                yield picture.crop((0, 1, self.width_px, number + 1))
            inflated.check()


class _Inflated:
    """The rows of a PNG, as they are filtered."""

    def __init__(self, file: BinaryIO) -> None:
        self._pieces = _data(file)
        self._inflate = zlib.decompressobj()
        self._waiting = b""

    def read(self, length: int) -> bytes:
        """Return so many bytes.

        Raises
        ------
        OSError
            There are fewer, or they are damaged.
        """
        parts = []
        while length:
            parts.append(self._some(length))
            length -= len(parts[-1])
        return b"".join(parts)

    def check(self) -> None:
        """Read to the end, where the sum of all bytes stands."""
        while not self._inflate.eof:
            self._some(_READ_BYTES)

    def _some(self, most: int) -> bytes:
        if not self._waiting:
            self._waiting = next(self._pieces, b"")
        try:
            part = self._inflate.decompress(self._waiting, most)
        except zlib.error as error:
            raise OSError(f"broken data stream ({error})") from error
        if not (part or self._waiting or self._inflate.eof):
            raise OSError("image file is truncated")
        self._waiting = self._inflate.unconsumed_tail
        return part


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Return kind and length of each chunk; between two, the caller reads or skips exactly its content."""
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        yield kind, length
        file.seek(4, io.SEEK_CUR)


def _data(file: BinaryIO) -> Iterator[bytes]:
    for kind, length in _chunks(file):
        if kind != b"IDAT":
            file.seek(length, io.SEEK_CUR)
            continue
        left = length
        while left and (piece := file.read(min(left, _READ_BYTES))):
            left -= len(piece)
            yield piece


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(strips: Iterable[NDArray[Any]], height: int, width: int, bits: int) -> Iterator[bytes]:
    """Encode grey rows with 8 or 16 bits per pixel."""
    yield _SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    deflate = zlib.compressobj(1)
    for strip in strips:
        rows = strip.astype(f">u{bits // 8}").view(np.uint8).reshape(len(strip), -1)
        # Each row begins with its filter: 0 for none.
        yield _chunk(b"IDAT", deflate.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes()))
    yield _chunk(b"IDAT", deflate.flush()) + _chunk(b"IEND", b"")
