"""Features that follow from an object's pixels, by the names of the original's columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dynsvc.merge.pixels import Mask, Pixels
from dynsvc.regions import Region

__all__ = ["joined_row"]

#: Relative difference that is still the same value: the tables have six digits.
_SAME = 1e-4
#: Columns of which a joined object has the mean, weighted by area, of its pieces.
_MEANS = frozenset({"MeanR", "MeanG", "MeanB", "r_IntensityMean", "b_IntensityMean"})
_LARGEST = frozenset({"r_IntensityMax", "b_IntensityMax"})
_SMALLEST = frozenset({"r_IntensityMin", "b_IntensityMin"})


def joined_row(
    columns: Sequence[str],
    pieces: Sequence[tuple[str, Pixels, Region]],
    clipped: Sequence[Pixels],
    whole: Pixels,
    plane: Region,
) -> str:
    """Return the row of an object that was put together, without its outline.

    A formula is used for a column only where it gives the table's own value for every piece. Extremes of
    intensity are those of the pieces, means are their means by area. All other columns are ``nan``.

    Parameters
    ----------
    columns
        Without the last.
    pieces
        Of each piece its row, its pixels and the picture that its tile saw.
    clipped
        Of each piece the pixels in the core of its tile.
    whole
        All pixels of the object.
    plane
        The picture that an algorithm without tiles would have seen.
    """
    rows = [dict(zip(columns, map(_number, row.split(",")), strict=False)) for row, _, _ in pieces]
    scales = [row["PhysicalSize"] / row["AreaInPixels"] for row in rows if _has_size(row)]
    pixel_um2 = scales[0] if scales else math.nan
    seen = [_shape(pixels, picture, pixel_um2) for _, pixels, picture in pieces]
    known = _shape(whole, plane, pixel_um2)
    weights = [int(part.mask.sum()) for part in clipped]
    values = []
    for column in columns:
        listed = [row.get(column, math.nan) for row in rows]
        if column in known and all(_agree(a[column], b) for a, b in zip(seen, listed, strict=True)):
            values.append(known[column])
        elif column in _MEANS:
            values.append(sum(w * v for w, v in zip(weights, listed, strict=True)) / sum(weights))
        elif column in _LARGEST | _SMALLEST:
            values.append(max(listed) if column in _LARGEST else min(listed))
        else:
            values.append(math.nan)
    return ",".join(f"{value:.6g}" for value in values)


def _shape(pixels: Pixels, picture: Region, pixel_um2: float) -> Mapping[str, float]:
    """Return the features of a set of pixels, by column."""
    rows, columns = np.nonzero(pixels.mask)
    area = float(rows.size)
    xx, yy = float(columns.var()), float(rows.var())
    xy = float(((columns - columns.mean()) * (rows - rows.mean())).mean())
    spread = math.sqrt((xx - yy) ** 2 + 4 * xy**2)
    # A pixel is a unit square: 1/12 more than its centre.
    major = 2 * math.sqrt(2) * math.sqrt(xx + yy + 1 / 6 + spread)
    minor = 2 * math.sqrt(2) * math.sqrt(max(xx + yy + 1 / 6 - spread, 0))
    perimeter = _perimeter(pixels.mask)
    smaller, larger = max((xx + yy - spread) / 2, 0), (xx + yy + spread) / 2
    elongation = math.sqrt(larger / smaller) if smaller else math.inf if larger else math.nan
    radius = math.sqrt(area / math.pi)
    mean = math.sqrt(smaller * larger)
    diameters = [2 * radius * math.sqrt(moment / mean) if mean else math.nan for moment in (smaller, larger)]
    box = pixels.trimmed()
    height, width = box.mask.shape
    return {
        "AreaInPixels": area,
        "Perimeter": perimeter,
        "MajorAxis": major,
        "MinorAxis": minor,
        "Eccentricity": math.sqrt(max(1 - (minor / major) ** 2, 0)),
        "ExtentRatio": area / (height * width),
        "Circularity": 4 * math.pi * area / perimeter**2,
        "PhysicalSize": area * pixel_um2,
        "NumberOfPixelsOnBorder": float(_on_border(pixels, picture)),
        "PrincipalMoments0": smaller,
        "PrincipalMoments1": larger,
        "Elongation": elongation,
        "Flatness": elongation,
        "Roundness": 2 * math.pi * radius / perimeter,
        "EquivalentSphericalRadius": radius,
        "EquivalentSphericalPerimeter": 2 * math.pi * radius,
        "EquivalentEllipsoidDiameter0": diameters[0],
        "EquivalentEllipsoidDiameter1": diameters[1],
        "BoundingBoxTopLeftX": float(box.left),
        "BoundingBoxTopLeftY": float(box.top),
        "BoundingBoxBottomRightX": float(box.right - 1),
        "BoundingBoxBottomRightY": float(box.bottom - 1),
    }


def _perimeter(mask: Mask) -> float:
    """Return Crofton's estimate from intersections with lines in four directions."""
    framed = np.pad(mask, 1)
    crossings = 0.0
    for first, second, weight in (
        (framed[:, :-1], framed[:, 1:], 1.0),
        (framed[:-1], framed[1:], 1.0),
        (framed[:-1, :-1], framed[1:, 1:], math.sqrt(0.5)),
        (framed[:-1, 1:], framed[1:, :-1], math.sqrt(0.5)),
    ):
        crossings += weight * int((first != second).sum())
    return math.pi / 8 * crossings


def _on_border(pixels: Pixels, picture: Region) -> int:
    """Return how many of the pixels lie on the picture's edge."""
    inner = pixels.window(
        picture.x_px + 1, picture.y_px + 1, max(0, picture.width_px - 2), max(0, picture.height_px - 2)
    )
    return int(pixels.mask.sum()) - int(inner.sum())


def _has_size(row: Mapping[str, float]) -> bool:
    return row.get("PhysicalSize", 0.0) > 0 and row.get("AreaInPixels", 0.0) > 0


def _agree(computed: float, listed: float) -> bool:
    if not math.isfinite(computed) or not math.isfinite(listed):
        return math.isnan(computed) == math.isnan(listed) and not math.isfinite(listed)
    return abs(computed - listed) <= _SAME * max(abs(computed), abs(listed)) + 1e-9


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
