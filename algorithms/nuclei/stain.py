"""From colours to haematoxylin: the working grid, colour deconvolution, tissue, ink and the threshold.

All of it works on optical densities (absorbance to base 10), where stains add up. The grid has about 0.5 um
per pixel and is a whole multiple of the picture's pixel, so that tiles of one slide see the same grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .threshold import Threshold

__all__ = ["Field", "Grid", "Histogram", "field_of"]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

#: Nuclei keep their outline at this size of a pixel; anything finer costs time and gains nothing.
_GRID_UM = 0.5
#: Haematoxylin's weights of the densities of red, green and blue: the first column of the inverse of the
#: stain matrix of Ruifrok and Johnston (2001) for haematoxylin, eosin and DAB.
_WEIGHTS = (1.87798274, -0.06590806, -0.60190736)
#: Glass is brighter than this in all channels.
_GLASS = 215
#: Blur against the sensor's noise and JPEG blocks.
_SMOOTH_UM = 0.3
#: Densities begin at 0: red cells and eosin have less than no haematoxylin, and how much less says nothing.
#: Their histogram has steps of 1/400.
_LOWEST_OD, _STEP_OD, _BINS = 0.0, 1 / 400, 1200
#: Dark matter counts as ink where it is wider than a nucleus. It is looked for in blocks of so many grid
#: pixels, a divisor of the cells of low-resolution maps.
_WIDE_UM, _BLOCK = 14.0, 4
#: A region with less tissue than this has none.
_MIN_TISSUE_UM2 = 25.0

_DENSITY = -np.log10(np.maximum(np.arange(256, dtype=np.float64), 1) / 255)
_LUT = (_DENSITY[:, None] * np.array(_WEIGHTS)).astype(np.float32).reshape(1, 256, 3)
_SUM = np.ones((1, 3), dtype=np.float32)
#: For each red, the largest green that stains can have beside it; pale and dark pixels are never ink.
_GREENER = np.array(
    [
        255 if red > 140 else min(255, 8 + int(255 * 10 ** -((density - 0.08) / 1.25)))
        for red, density in enumerate(_DENSITY)
    ],
    dtype=np.uint8,
)


@dataclass(frozen=True, slots=True)
class Grid:
    """The working grid of a picture: *shrink* pixels make one of the grid, or one makes *enlarge*."""

    shrink: int
    enlarge: int
    um: float

    @classmethod
    def of(cls, mpp_um: float) -> Grid:
        """Choose the grid for pixels of *mpp_um*."""
        shrink = max(1, round(_GRID_UM / mpp_um))
        enlarge = max(1, round(mpp_um / _GRID_UM))
        return cls(shrink, enlarge, mpp_um * shrink / enlarge)

    def px(self, um: float) -> float:
        """Return a length on the grid."""
        return um / self.um

    def on_grid(self, px: int) -> int:
        """Return the pixel of the grid at or after a pixel of the picture."""
        return -(-px * self.enlarge // self.shrink)

    def reduce(self, rgb: Bytes) -> Bytes:
        """Bring a picture onto the grid. Where the last row or column is not full, it is repeated."""
        if self.shrink > 1:
            height, width = rgb.shape[:2]
            below, right = -height % self.shrink, -width % self.shrink
            if below or right:
                rgb = _u8(cv2.copyMakeBorder(rgb, 0, below, 0, right, cv2.BORDER_REPLICATE))
            size = rgb.shape[1] // self.shrink, rgb.shape[0] // self.shrink
            return _u8(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))
        if self.enlarge > 1:
            size = rgb.shape[1] * self.enlarge, rgb.shape[0] * self.enlarge
            return _u8(cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR))
        return rgb


@dataclass(frozen=True, slots=True)
class Field:
    """What the method sees of a picture: haematoxylin density, and where there is tissue (0 or 1)."""

    od: Floats
    tissue: Bytes
    grid: Grid
    #: Share of the area that was left out as ink or other dark matter without stain.
    ink: float


def field_of(rgb: Bytes, grid: Grid) -> Field:
    """Return the haematoxylin density of a picture on the working grid."""
    small = grid.reduce(rgb)
    od = _f32(cv2.transform(cv2.LUT(small, _LUT), _SUM))
    np.maximum(od, _LOWEST_OD, out=od)
    od = _f32(cv2.GaussianBlur(od, (0, 0), grid.px(_SMOOTH_UM)))
    glass = cv2.inRange(small, (_GLASS, _GLASS, _GLASS), (255, 255, 255))
    tissue = _u8(glass == 0)
    ink = _ink(small, grid)
    if ink is not None:
        tissue &= 1 - ink
    return Field(od, tissue, grid, 0.0 if ink is None else float(ink.mean()))


def _ink(small: Bytes, grid: Grid) -> Bytes | None:
    """Return where ink or soot covers the tissue, 0 or 1, or None where there is none.

    Haematoxylin and eosin both absorb green the most. Green and cyan inks absorb red clearly more: no stained
    pixel looks like that. Blue and black pens are nearer to haematoxylin: they count only where they cover
    more than a nucleus, so that a dark nucleus is never taken for ink.
    """
    red, green, _ = cv2.split(small)
    mask = _u8(green > cv2.LUT(red, _GREENER))
    height, width = small.shape[:2]
    # Whole blocks, so that they lie at the same places of the slide in every tile.
    framed = cv2.copyMakeBorder(small, 0, -height % _BLOCK, 0, -width % _BLOCK, cv2.BORDER_REPLICATE)
    size = framed.shape[1] // _BLOCK, framed.shape[0] // _BLOCK
    coarse = cv2.resize(framed, size, interpolation=cv2.INTER_AREA)
    od = cv2.LUT(coarse, _DENSITY.astype(np.float32))
    red, green, blue = od[..., 0], od[..., 1], od[..., 2]
    dark = ((red > green) & (red > 0.35)) | ((blue > 0.8 * green) & (red > 0.6 * green) & (green > 0.45))
    if dark.any():
        side = 2 * max(1, round((grid.px(_WIDE_UM) / _BLOCK - 1) / 2)) + 1
        wide = cv2.morphologyEx(
            _u8(dark), cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        )
        wide = cv2.resize(wide, framed.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        mask |= _u8(wide[:height, :width])
    if not mask.any():
        return None
    # Single pixels are noise of dark, compressed pixels; strokes fade into what is beside them.
    mask = _u8(cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)))
    if not mask.any():
        return None
    edge = 2 * max(1, round(grid.px(1.0))) + 1
    return _u8(cv2.dilate(mask, np.ones((edge, edge), np.uint8)))


class Histogram:
    """Densities of tissue, summed over any number of tiles."""

    def __init__(self) -> None:
        self.counts = np.zeros(_BINS, dtype=np.float64)
        self.tissue_um2 = 0.0

    def add(self, field: Field, left: int, top: int, width: int, height: int) -> None:
        """Count the tissue of a part of *field*, in pixels of the picture, so that no halo counts twice."""
        grid = field.grid
        columns = slice(grid.on_grid(left), grid.on_grid(left + width))
        lines = slice(grid.on_grid(top), grid.on_grid(top + height))
        limits = [_LOWEST_OD, _LOWEST_OD + _STEP_OD * _BINS]
        od, tissue = (
            np.ascontiguousarray(field.od[lines, columns]),
            np.ascontiguousarray(field.tissue[lines, columns]),
        )
        counts = cv2.calcHist([od], [0], tissue, [_BINS], limits)
        self.counts += counts.ravel()
        self.tissue_um2 += float(counts.sum()) * field.grid.um**2

    def threshold(self, given_od: float | None = None) -> Threshold | None:
        """Return the threshold of all that was counted, or None where that is no tissue, or all alike.

        Parameters
        ----------
        given_od
            Separate the classes here instead of at Otsu's threshold.
        """
        if self.tissue_um2 < _MIN_TISSUE_UM2:
            return None
        edges = _LOWEST_OD + _STEP_OD * np.arange(1, _BINS + 1)
        centres = edges - _STEP_OD / 2
        below, sums = np.cumsum(self.counts), np.cumsum(self.counts * centres)
        total, whole = below[-1], sums[-1]
        if given_od is None:
            with np.errstate(divide="ignore", invalid="ignore"):
                between = (whole * below - sums * total) ** 2 / (below * (total - below))
            between[~np.isfinite(between)] = -1.0
            last = int(between.argmax())
        else:
            last = int(np.clip(np.searchsorted(edges, given_od), 0, _BINS - 1))
        low, high = below[last], total - below[last]
        mean = whole / total
        threshold = Threshold.rounded(
            float(edges[last]) if given_od is None else given_od,
            float(sums[last] / low if low else mean),
            float((whole - sums[last]) / high if high else mean),
            float(mean),
        )
        return threshold if threshold.visible or given_od is not None else None


def _f32(values: NDArray[Any]) -> Floats:
    return np.asarray(values, dtype=np.float32)


def _u8(values: NDArray[Any]) -> Bytes:
    return values.view(np.uint8) if values.dtype == np.bool_ else values.astype(np.uint8, copy=False)
