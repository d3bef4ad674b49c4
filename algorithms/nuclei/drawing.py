"""Pictures that the program writes. They are encoded some rows at a time."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .nuclei import Nuclei
from .raster import Raster
from .strips import png

__all__ = [
    "CYAN",
    "INSIDE",
    "OUTLINE",
    "draw_outlines",
    "jpeg",
    "labels_file",
    "mask_png",
    "stamped",
    "strip_rows",
]

Bytes = NDArray[np.uint8]

#: Values of the working mask. The written mask has 0 and 1 only.
INSIDE, OUTLINE = 1, 3
CYAN = (0, 255, 255)
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
#: So many pixels are encoded at once, in strips of a multiple of so many rows: 8 rows of a JPEG's blocks.
_AT_ONCE_PX, _ROWS = 2**22, 128


def strip_rows(width: int) -> int:
    """Return how many rows of a picture are encoded at once."""
    return max(1, _AT_ONCE_PX // (width * _ROWS)) * _ROWS


def stamped(nuclei: Nuclei) -> Bytes:
    """Return the working mask of a tile: nuclei, and the innermost line of their border, one pixel wide."""
    labels = nuclei.labels
    mask: Bytes = (labels != 0).astype(np.uint8)
    framed = cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    border = cv2.erode(framed, _CROSS) != cv2.dilate(framed, _CROSS)
    mask[border[1:-1, 1:-1] & (labels != 0)] = OUTLINE
    return mask


def draw_outlines(rgb: Bytes, mask: Bytes) -> Bytes:
    """Return *rgb* with the outlines of a working mask in cyan."""
    return np.where((mask == OUTLINE)[..., None], np.array(CYAN, np.uint8), rgb)


def mask_png(mask: Raster) -> Iterator[bytes]:
    """Encode a working mask with the original's values, 0 and 1."""
    strips = (strip & INSIDE for strip in mask.strips(strip_rows(mask.width_px)))
    return png(strips, mask.height_px, mask.width_px, 8)


def jpeg(strips: Iterable[Bytes], height: int) -> Iterator[bytes]:
    """Encode a picture from strips of :func:`strip_rows` rows; the last may be lower.

    Each row of blocks ends with a restart marker, and blocks know nothing of those before it. So the rows of
    all strips are those of one picture, whose height is written into the first strip's header.
    """
    for number, strip in enumerate(strips):
        stream = io.BytesIO()
        Image.fromarray(strip).save(stream, "JPEG", quality=90, restart_marker_rows=1)
        content = stream.getvalue()
        size, scan = _jpeg_places(content)
        if number == 0:
            yield content[:size] + struct.pack(">H", height) + content[size + 2 : scan]
        else:
            # Markers are numbered from 0 to 7 again and again; a strip has a multiple of 8 rows of blocks.
            yield b"\xff\xd7"
        yield content[scan:-2]
    yield b"\xff\xd9"


def _jpeg_places(content: bytes) -> tuple[int, int]:
    """Return where a JPEG's height stands, and where its pixels begin."""
    place, size = 2, 0
    while True:
        marker, length = struct.unpack(">HH", content[place : place + 4])
        if marker == 0xFFC0:
            size = place + 5
        place += 2 + length
        if marker == 0xFFDA:
            return size, place


def labels_file(labels: Raster, count: int) -> tuple[str, Iterator[bytes]]:
    """Encode labels as 16-bit PNG, or 32-bit TIFF where *count* is too high; return ending and bytes."""
    strips = labels.strips(strip_rows(labels.width_px))
    if count < 2**16:
        return ".png", png(strips, labels.height_px, labels.width_px, 16)
    return ".tif", _tiff(strips, labels.height_px, labels.width_px)


def _tiff(strips: Iterable[NDArray[np.int32]], height: int, width: int) -> Iterator[bytes]:
    """Encode grey rows with 32 bits per pixel, in strips of :func:`strip_rows` rows."""
    contents = [zlib.compress(strip.astype("<i4").tobytes(), 1) for strip in strips]
    begins = np.cumsum([8, *map(len, contents)]).tolist()
    long, short = 4, 3
    fields = [
        (256, long, [width]),
        (257, long, [height]),
        (258, short, [32]),
        (259, short, [8]),  # deflate
        (262, short, [1]),  # 0 is black
        (273, long, begins[:-1]),
        (277, short, [1]),
        (278, long, [strip_rows(width)]),
        (279, long, list(map(len, contents))),
        (339, short, [2]),  # signed numbers
    ]
    directory, beyond = struct.pack("<H", len(fields)), b""
    after = begins[-1] + 2 + 12 * len(fields) + 4
    for tag, kind, values in fields:
        packed = struct.pack(f"<{len(values)}{'I' if kind == long else 'H'}", *values)
        if len(packed) > 4:
            packed, beyond = struct.pack("<I", after + len(beyond)), beyond + packed
        directory += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    yield struct.pack("<2sHI", b"II", 42, begins[-1])
    yield from contents
    yield directory + bytes(4) + beyond
