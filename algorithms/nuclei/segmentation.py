"""From haematoxylin to nuclei, on the working grid. All lengths and areas are in micrometres.

1. A pixel is a candidate where its density exceeds a threshold that follows the tissue around it.
2. Candidates are split where the distance to their outline, weighted by density, has separate summits.
3. Each object then gets an outline of its own, near the middle between its density and that of the tissue
   around it: the place where a blurred edge really is, whatever the stain's strength.
4. Objects too small, too ragged or too faint are dropped.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .arguments import Parameters
from .basins import Rule, split
from .candidates import around, candidates
from .stain import Field, Grid
from .threshold import Threshold

__all__ = ["segment"]

Labels = NDArray[np.uint16]
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

#: Blur of the distance transform, and of the density that weights it. Where an object is thin, the distance
#: is blurred less, or a small nucleus would sink into a large one beside it.
_ROUND_UM, _ROUND_THIN_UM = 0.7, 0.5
_THIN_UM, _THICK_UM = 2.0, 3.0
_WEIGHT_EXPONENT = 0.3
_FAR_UM = 100.0
#: A pass splits where it is lower than this share of the lower summit, and lower by this.
_RATIO, _DEPTH_UM = 0.95, 0.25
#: Less is enough where the parts together would be larger than most nuclei.
_LARGE_UM2, _LARGE_RATIO, _LARGE_DEPTH_UM = 60.0, 0.97, 0.15
#: The outline's place between background (0) and nucleus (1), how far outside and inside the candidate it may
#: lie, and the distance over which background is averaged.
_OUTLINE, _GROW_UM, _SHRINK_UM, _BACKGROUND_UM = 0.45, 1.0, 1.5, 3.0
#: Objects whose contrast is below this share of the typical contrast are not nuclei.
_MIN_CONTRAST = 0.17
#: With -j 1, objects are split only when large or when perimeter^2 / area exceeds this (as in the original).
_RAGGED = 30.0
#: The defaults of -w and -k, at which they have no effect on the tuned method.
_DEFAULT_WEIGHT, _DEFAULT_KERNEL_PX = 0.8, 20.0
_SQUARE = np.ones((3, 3), np.uint8)
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def segment(
    field: Field, threshold: Threshold, parameters: Parameters, mpp_um: float, shape: tuple[int, int]
) -> Labels:
    """Label the nuclei of a picture, from 1 on; 0 is background.

    Parameters
    ----------
    field
        Density and tissue on the working grid.
    threshold
        Of the whole region, so that its tiles agree.
    parameters
        What the user turned.
    mpp_um
        Of the picture, for parameters in pixels.
    shape
        Height and width of the picture, and of the labels.
    """
    limit, mask = candidates(field, threshold, parameters)
    labels = _objects(field, threshold, (limit, mask), parameters, mpp_um)
    width_px = (
        max(1, round(parameters.curvature_weight / _DEFAULT_WEIGHT)) if parameters.curvature_weight else 0
    )
    labels = _opened(labels, width_px)
    labels, margin = _outlined(labels, field, threshold, mask, limit)
    labels = _opened(labels, width_px)
    return _enlarged(labels, margin, field.grid, shape)


def _objects(
    field: Field, threshold: Threshold, above: tuple[Floats, Bytes], parameters: Parameters, mpp_um: float
) -> Labels:
    """Return one label for each object among the candidates *above* their limit."""
    grid, (limit, mask) = field.grid, above
    if parameters.declump == 0:
        _, whole = cv2.connectedComponents(mask, connectivity=4, ltype=cv2.CV_32S)
        return _first(np.asarray(whole, dtype=np.int32))
    # Without any background the distance is infinite.
    distance = np.minimum(_f32(cv2.distanceTransform(mask, cv2.DIST_L2, 5)), np.float32(grid.px(_FAR_UM)))
    landscape = _rounded(distance, grid)
    smooth = _f32(cv2.GaussianBlur(field.od, (0, 0), grid.px(_ROUND_UM)))
    background = np.float32(threshold.background_od)
    strength = (smooth - background) / np.maximum(limit - background, np.float32(1e-3))
    np.clip(strength, 0.5, 4.0, out=strength)
    landscape *= _f32(cv2.pow(strength, _WEIGHT_EXPONENT))
    depth_um = _DEPTH_UM
    if parameters.declump == 1:
        # A wider kernel means fewer, larger parts.
        depth_um *= parameters.kernel_px * mpp_um / (_DEFAULT_KERNEL_PX * 0.25)
    rule = Rule(
        ratio=_RATIO,
        depth=grid.px(depth_um),
        large=_LARGE_UM2 / grid.um**2,
        large_ratio=_LARGE_RATIO,
        large_depth=grid.px(_LARGE_DEPTH_UM / _DEPTH_UM * depth_um),
    )
    parts, _ = split(landscape, mask, rule)
    if parameters.declump == 1:
        parts = _split_only_clumps(parts, mask, grid, parameters.max_size_um2)
    return _first(parts)


def _rounded(distance: Floats, grid: Grid) -> Floats:
    """Blur the distance to the outline, so that a rough outline makes no summits."""
    coarse = _f32(cv2.GaussianBlur(distance, (0, 0), grid.px(_ROUND_UM)))
    fine = _f32(cv2.GaussianBlur(distance, (0, 0), grid.px(_ROUND_THIN_UM)))
    fine -= coarse
    span = grid.px(_THICK_UM - _THIN_UM)
    thin = coarse * np.float32(-1 / span)
    thin += np.float32(grid.px(_THICK_UM) / span)
    np.clip(thin, 0, 1, out=thin)
    fine *= thin
    coarse += fine
    return coarse


def _split_only_clumps(
    parts: NDArray[np.int32], mask: Bytes, grid: Grid, above_um2: float
) -> NDArray[np.int32]:
    """Keep the parts of large or ragged components; let the others be whole."""
    count, whole, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4, ltype=cv2.CV_32S)
    area = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
    edge = mask & (1 - np.asarray(cv2.erode(mask, _CROSS), dtype=np.uint8))
    perimeter = np.bincount(whole[edge > 0], minlength=count)
    clump = (area * grid.um**2 > above_um2) | (perimeter**2 / np.maximum(area, 1) > _RAGGED)
    clump[0] = False
    joined = np.where(clump[whole], parts + count, whole)
    joined[mask == 0] = 0
    return np.unique(joined, return_inverse=True)[1].reshape(mask.shape).astype(np.int32)


def _outlined(
    labels: Labels, field: Field, threshold: Threshold, mask: Bytes, limit: Floats
) -> tuple[Labels, Floats]:
    """Give each object its own outline, and drop objects that hardly differ from what is around them.

    Returns
    -------
    Labels, and by how much each pixel exceeds the density at which its object ends.
    """
    pixels = np.flatnonzero(labels != 0)
    margin = field.od - limit
    if pixels.size == 0:
        return labels, margin
    grid, od = field.grid, field.od.ravel()
    outside = 1 - np.asarray(cv2.dilate(mask, _SQUARE), dtype=np.uint8)
    nearby = around(field.od, outside, threshold.background_od, grid.px(_BACKGROUND_UM))
    owner = labels.ravel()[pixels]
    count = int(owner.max()) + 1
    area = np.maximum(np.bincount(owner, minlength=count), 1)
    inside = np.bincount(owner, od[pixels], count) / area
    beside = np.bincount(owner, nearby.ravel()[pixels], count) / area
    end = (beside + _OUTLINE * (inside - beside)).astype(np.float32)
    faint = inside - beside < _MIN_CONTRAST * (threshold.nuclei_od - threshold.background_od)
    wider = _grown(labels, max(1, round(grid.px(_GROW_UM))))
    # A pale spot in the middle of a nucleus is chromatin, not an outline.
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3).ravel()
    pixels = np.flatnonzero(wider != 0)
    owner = wider.ravel()[pixels]
    above = od[pixels] - end[owner]
    margin.ravel()[pixels] = above
    shallow = depth[pixels] <= grid.px(_SHRINK_UM)
    wider.ravel()[pixels[(above <= 0) & shallow | faint[owner]]] = 0
    return wider, margin


def _enlarged(labels: Labels, margin: Floats, grid: Grid, shape: tuple[int, int]) -> Labels:
    """Bring labels from the grid to the pixels of a picture.

    The outline is where the margin, interpolated between pixels of the grid, changes its sign. So it is finer
    than the grid. Neighbours keep the border between them.
    """
    height, width = shape
    if grid.shrink == 1 and grid.enlarge == 1:
        return labels[:height, :width]
    if grid.enlarge > 1:
        return _labels(cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST))
    size = labels.shape[1] * grid.shrink, labels.shape[0] * grid.shrink
    signed = np.abs(margin)
    np.negative(signed, out=signed, where=labels == 0)
    inside = cv2.resize(signed, size, interpolation=cv2.INTER_LINEAR) > 0
    wider = cv2.resize(_grown(labels, 1), size, interpolation=cv2.INTER_NEAREST)
    wider[~inside] = 0
    return _labels(wider[:height, :width])


def _opened(labels: Labels, width_px: int) -> Labels:
    """Remove from each object what is thinner than *width_px* pixels to each side."""
    if width_px == 0:
        return labels
    kernel = np.ones((2 * min(width_px, 8) + 1,) * 2, np.uint8)
    core = np.where(cv2.erode(labels, kernel) == cv2.dilate(labels, kernel), labels, np.uint16(0))
    opened = cv2.dilate(core, kernel)
    return _labels(np.where(opened == labels, labels, np.uint16(0)))


def _grown(labels: Labels, steps: int) -> Labels:
    """Let objects grow into the background, crosses and squares by turns: nearly a disk."""
    grown = labels.copy()
    for step in range(steps):
        wider = cv2.dilate(grown, _SQUARE if step % 2 else _CROSS)
        cv2.copyTo(wider, _u8(grown == 0), grown)
    return grown


def _f32(values: NDArray[Any]) -> Floats:
    return np.asarray(values, dtype=np.float32)


def _first(labels: NDArray[np.int32]) -> Labels:
    """Return 16-bit labels. A tile has no room for more objects of any size that counts."""
    if int(labels.max(initial=0)) > np.iinfo(np.uint16).max:
        labels = np.where(labels > np.iinfo(np.uint16).max, 0, labels)
    return labels.astype(np.uint16)


def _labels(values: NDArray[np.generic]) -> Labels:
    return np.ascontiguousarray(values, dtype=np.uint16)


def _u8(values: NDArray[np.bool_]) -> Bytes:
    return values.view(np.uint8)
