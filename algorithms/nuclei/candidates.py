"""Where nuclei may be: pixels whose density exceeds a threshold that follows the tissue around them."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from .arguments import Parameters
from .stain import Field, Grid
from .threshold import Threshold

__all__ = ["CELL", "around", "candidates"]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

#: Share of the way from background to the threshold at which candidates begin.
_CANDIDATE = 0.8
#: How far the threshold follows the local mean, over which distance, and its limits in units of the contrast.
_FOLLOW, _AROUND_UM, _LOWER, _UPPER = 0.8, 8.0, 0.3, 0.65
_MAX_HOLE_UM2 = 20.0
#: Low-resolution maps have this many grid pixels in one. Tiles begin at multiples of it.
CELL = 8


def candidates(field: Field, threshold: Threshold, parameters: Parameters) -> tuple[Floats, Bytes]:
    """Return the threshold of each pixel, and the pixels above it (0 or 1)."""
    contrast = threshold.od - threshold.background_od
    local = around(field.od, field.tissue, threshold.mean_od, field.grid.px(_AROUND_UM))
    limit = threshold.od + np.float32(_FOLLOW) * (local - np.float32(threshold.mean_od))
    np.clip(limit, threshold.od - _LOWER * contrast, threshold.od + _UPPER * contrast, out=limit)
    # The original's ratio multiplies the threshold of transmitted light: more light passes, more is nucleus.
    start = threshold.background_od * (1 - _CANDIDATE) - math.log10(parameters.otsu_ratio)
    limit *= np.float32(_CANDIDATE)
    limit += np.float32(start)
    mask = (field.od > limit).view(np.uint8)
    mask &= field.tissue
    return limit, _without_holes(mask, field.grid)


def around(od: Floats, weight: Bytes, prior_od: float, sigma_px: float) -> Floats:
    """Return the weighted mean density around each pixel; *prior_od* where there is nothing to average."""
    height, width = od.shape
    below, right = -height % CELL, -width % CELL
    weights = weight.astype(np.float32)
    maps = []
    for values in (od * weights, weights):
        framed = cv2.copyMakeBorder(values, 0, below, 0, right, cv2.BORDER_CONSTANT, value=0)
        size = framed.shape[1] // CELL, framed.shape[0] // CELL
        coarse = cv2.resize(framed, size, interpolation=cv2.INTER_AREA)
        maps.append(
            cv2.GaussianBlur(coarse, (0, 0), max(sigma_px / CELL, 0.3), borderType=cv2.BORDER_REFLECT)
        )
    mean = (maps[0] + np.float32(0.01 * prior_od)) / (maps[1] + np.float32(0.01))
    whole = cv2.resize(mean, (width + right, height + below), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(whole[:height, :width], dtype=np.float32)


def _without_holes(mask: Bytes, grid: Grid) -> Bytes:
    """Fill small holes in place. Their outlines are found faster than their pixels."""
    largest_px = _MAX_HOLE_UM2 / grid.um**2
    outlines, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if tree is None:
        return mask
    inner = np.flatnonzero(tree.reshape(-1, 4)[:, 3] >= 0).tolist()
    small = [outlines[i] for i in inner if cv2.contourArea(outlines[i]) < largest_px]
    cv2.drawContours(mask, small, -1, 1, cv2.FILLED)
    return mask
