"""The original's table: one row of 88 columns for each nucleus."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .columns import COLUMNS
from .nuclei import Nuclei
from .texture import colours, textures

__all__ = ["HEADER", "measured", "perimeters", "row"]

Doubles = NDArray[np.float64]
Bytes = NDArray[np.uint8]

HEADER = ",".join(COLUMNS)
_ROW = "%.6g," * (len(COLUMNS) - 1)


def measured(nuclei: Nuclei, rgb: Bytes, mpp_um: float) -> Doubles:
    """Return the 87 numbers of each nucleus, in the order of :data:`.columns.COLUMNS`."""
    size, shape = _shapes(nuclei, mpp_um)
    texture = textures(nuclei, rgb)
    return np.concatenate([size, texture, shape, colours(nuclei, rgb, texture)], axis=1)


def row(values: list[float], polygon: NDArray[np.int64], x_px: int, y_px: int) -> str:
    """Return one line of the table.

    Parameters
    ----------
    values
        From :func:`measured`.
    polygon
        In half pixels of the tile.
    x_px, y_px
        Place of the tile's first pixel on the slide.
    """
    return _ROW % tuple(values) + polygon_text(polygon, x_px, y_px)


def polygon_text(doubled: NDArray[np.int64], x_px: int, y_px: int) -> str:
    """Return ``[x1:y1:x2:y2:…]``, exact whatever the size of the slide."""
    places = (doubled + np.array([2 * x_px, 2 * y_px])).ravel().tolist()
    words = [str(p // 2) if p % 2 == 0 else f"{p // 2}.5" if p > 0 else f"-{-p // 2}.5" for p in places]
    return f"[{':'.join(words)}]"


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
    framed = np.pad(nuclei.labels, 1)
    count = len(nuclei) + 1
    crossings = np.zeros(count)
    height, width = framed.shape
    diagonal = 1 / math.sqrt(2)
    for down, right, weight in ((0, 1, 1.0), (1, 0, 1.0), (1, 1, diagonal), (1, -1, diagonal)):
        first = framed[: height - down, max(0, -right) : width - max(0, right)].ravel()
        second = framed[down:, max(0, right) : width + min(0, right)].ravel()
        places = np.flatnonzero(first != second)
        crossings += weight * np.bincount(first[places], minlength=count)
        crossings += weight * np.bincount(second[places], minlength=count)
    return np.asarray(math.pi / 8 * crossings[1:])


def _on_border(nuclei: Nuclei) -> Doubles:
    """Return how many of each nucleus' pixels lie on the picture's edge."""
    labels = nuclei.labels
    edge = np.zeros(labels.shape, dtype=bool)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    return np.bincount(labels[edge], minlength=len(nuclei) + 1)[1:].astype(np.float64)
