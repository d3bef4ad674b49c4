"""The original's table: one row of 88 columns for each nucleus."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .columns import COLUMNS
from .nuclei import Nuclei
from .texture import textures

__all__ = ["HEADER", "measured", "perimeters", "rows"]

Doubles = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Doubled = NDArray[np.int32]

HEADER = ",".join(COLUMNS)
_NUMBERS = "%.6g," * (len(COLUMNS) - 1)


def measured(nuclei: Nuclei, rgb: Bytes, mpp_um: float) -> Doubles:
    """Return the 87 numbers of each nucleus, in the order of :data:`.columns.COLUMNS`."""
    size, shape = _shapes(nuclei, mpp_um)
    texture, colour = textures(nuclei, rgb)
    return np.concatenate([size, texture, shape, colour], axis=1)


def rows(numbers: list[list[float]], polygons: Sequence[Doubled], x_px: int, y_px: int) -> list[str]:
    """Return the table's lines.

    Parameters
    ----------
    numbers
        From :func:`measured`.
    polygons
        In half pixels of the tile.
    x_px, y_px
        Place of the tile's first pixel on the slide.
    """
    texts = _polygon_texts(polygons, x_px, y_px)
    return [_NUMBERS % tuple(values) + text for values, text in zip(numbers, texts, strict=True)]


def _polygon_texts(polygons: Sequence[Doubled], x_px: int, y_px: int) -> list[str]:
    """Return ``[x1:y1:x2:y2:…]`` of each polygon, exact whatever the size of the slide."""
    if not polygons:
        return []
    places = np.concatenate(polygons)
    # Each column and row is written once; polygons then look it up.
    (left, top), (right, bottom) = places.min(axis=0).tolist(), places.max(axis=0).tolist()
    words = [_half(2 * x_px + column) for column in range(left, right + 1)]
    places -= (left, top - len(words))
    words += [_half(2 * y_px + line) for line in range(top, bottom + 1)]
    found = [words[place] for place in places.ravel().tolist()]
    ends = np.cumsum([2 * len(polygon) for polygon in polygons]).tolist()
    return [f"[{':'.join(found[begin:end])}]" for begin, end in pairwise([0, *ends])]


def _half(doubled: int) -> str:
    """Write half of a whole number."""
    whole, half = divmod(abs(doubled), 2)
    return f"{'-' if doubled < 0 else ''}{whole}{'.5' if half else ''}"


def _shapes(nuclei: Nuclei, mpp_um: float) -> tuple[Doubles, Doubles]:
    """Return the columns of size and of shape."""
    area = nuclei.area.astype(np.float64)
    xx, yy, xy = nuclei.xx, nuclei.yy, nuclei.xy
    spread = np.sqrt(np.maximum((xx - yy) ** 2 + 4 * xy**2, 0))
    # A pixel is a unit square: 1/12 more than its centre (the original's nscale, as MATLAB).
    major = 2 * math.sqrt(2) * np.sqrt(xx + yy + 1 / 6 + spread)
    minor = 2 * math.sqrt(2) * np.sqrt(np.maximum(xx + yy + 1 / 6 - spread, 0))
    perimeter = perimeters(nuclei)
    box = (nuclei.right - nuclei.left + 1) * (nuclei.bottom - nuclei.top + 1)
    size = [
        area,
        major,
        minor,
        np.sqrt(np.maximum(1 - (minor / major) ** 2, 0)),
        area / box,
        4 * math.pi * area / perimeter**2,
    ]
    # ITK's moments are those of pixel centres, smallest first.
    smaller, larger = np.maximum((xx + yy - spread) / 2, 0), (xx + yy + spread) / 2
    radius = np.sqrt(area / math.pi)
    mean = np.sqrt(smaller * larger)
    with np.errstate(divide="ignore", invalid="ignore"):
        # A line of pixels has no width: the original prints inf or nan there.
        elongation = np.sqrt(larger / smaller)
        diameters = [2 * radius * np.sqrt(moment / mean) for moment in (smaller, larger)]
    shape = [
        area * mpp_um**2,
        _on_border(nuclei),
        smaller,
        larger,
        elongation,
        2 * math.pi * radius / perimeter,
        radius,
        2 * math.pi * radius,
        *diameters,
        elongation,
    ]
    return np.stack(size, axis=1), np.stack(shape, axis=1)


def perimeters(nuclei: Nuclei) -> Doubles:
    """Return Crofton's estimate of each perimeter from intersections with lines in four directions."""
    # The frame keeps the rows apart: beside the last pixel of one lies background, as before the next.
    framed = np.pad(nuclei.labels, 1)
    labels, stride = framed.ravel(), framed.shape[1]
    crossings = np.zeros(len(nuclei) + 1)
    diagonal = 1 / math.sqrt(2)
    for step, weight in ((1, 1.0), (stride, 1.0), (stride + 1, diagonal), (stride - 1, diagonal)):
        places = np.flatnonzero(labels[step:] != labels[:-step])
        for side in (labels[places], labels[places + step]):
            crossings += weight * np.bincount(side, minlength=crossings.size)
    return np.asarray(math.pi / 8 * crossings[1:])


def _on_border(nuclei: Nuclei) -> Doubles:
    """Return how many of each nucleus' pixels lie on the picture's edge."""
    labels = nuclei.labels
    edge = np.zeros(labels.shape, dtype=bool)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    return np.bincount(labels[edge], minlength=len(nuclei) + 1)[1:].astype(np.float64)
