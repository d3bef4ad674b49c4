"""Splitting clumps: a marker watershed by steepest ascent, in array operations only.

Every pixel points to its highest neighbour; following the pointers leads to a summit, and all pixels of one
summit are a basin (the landscape is turned upside down, as usual). Two basins that touch are then merged,
highest pass first, unless the pass is clearly lower than both summits. That is the watershed of the
landscape's significant summits (Meyer and Beucher 1990), without a queue of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Rule", "split"]

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]
Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Rule:
    """When two summits stay apart: the pass is lower than *ratio* of the lower summit, and lower by *depth*.

    Where the two together have more than *large* pixels, *large_ratio* and *large_depth* count instead.
    """

    ratio: float
    depth: float
    large: float
    large_ratio: float
    large_depth: float


def split(landscape: Floats, mask: NDArray[np.uint8], rule: Rule) -> tuple[Ints, int]:
    """Label the parts of *mask*.

    Parameters
    ----------
    landscape
        Height of each pixel, positive inside the mask.
    mask
        0 or 1.
    rule
        Which summits stay apart.

    Returns
    -------
    Labels from 1 on, 0 outside, and their number.
    """
    height, width = mask.shape
    stride = width + 2
    framed = np.zeros((height + 2, stride), dtype=np.float32)
    # One is added so that no pixel of the mask is as low as the frame.
    np.multiply(landscape + np.float32(1), mask, out=framed[1:-1, 1:-1])
    heights = framed.ravel()
    pixels = np.flatnonzero(heights != 0)
    labels = np.zeros(heights.size, dtype=np.int32)
    if pixels.size == 0:
        return np.zeros((height, width), dtype=np.int32), 0
    basin, summits = _basins(framed, pixels, stride)
    labels[pixels] = basin + 1
    low, high, passes = _passes(labels, heights, pixels, basin, stride)
    area = np.bincount(basin, minlength=summits.size)
    owner = _merged(heights[pixels[summits]] - 1, area, (low, high, passes - 1), rule)
    kept, renamed = np.unique(owner, return_inverse=True)
    labels[pixels] = (renamed + 1).astype(np.int32)[basin]
    return np.ascontiguousarray(labels.reshape(height + 2, stride)[1:-1, 1:-1]), int(kept.size)


def _basins(framed: Floats, pixels: Index, stride: int) -> tuple[Ints, Ints]:
    """Return the basin of each pixel, and the position of each basin's summit in *pixels*."""
    heights = framed.ravel()
    own = heights[pixels]
    # Among equal heights the earlier pixel counts as higher: a strict order, so no plateau is ever a cycle.
    target = pixels.copy()
    summit = own >= cv2.dilate(framed, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))).ravel()[pixels]
    best = own.copy()
    for step in (-stride, -1, 1, stride):
        there = pixels + step
        height = heights[there]
        better = height > best
        if step < 0:
            # A summit that is a plateau has one pixel without an equal before it.
            better |= summit & (height == best) & (target == pixels)
        np.copyto(best, height, where=better)
        np.copyto(target, there, where=better)
    position = np.zeros(heights.size, dtype=np.int32)
    position[pixels] = np.arange(pixels.size, dtype=np.int32)
    parent = position[target]
    while True:
        further = parent[parent]
        if np.array_equal(further, parent):
            break
        parent = further
    summits = np.flatnonzero(parent == np.arange(parent.size, dtype=np.int32)).astype(np.int32)
    number = np.zeros(parent.size, dtype=np.int32)
    number[summits] = np.arange(summits.size, dtype=np.int32)
    return number[parent], summits


def _passes(
    labels: Ints, heights: Floats, pixels: Index, basin: Ints, stride: int
) -> tuple[Ints, Ints, Floats]:
    """Return every pair of touching basins and the height of the highest pass between them."""
    pairs, found = [], []
    count = int(basin.max()) + 1
    own = heights[pixels]
    for step in (1, stride):
        there = pixels + step
        other = labels[there] - 1
        edge = np.flatnonzero((other != basin) & (other >= 0))
        first, second = basin[edge].astype(np.int64), other[edge].astype(np.int64)
        pairs.append(np.minimum(first, second) * count + np.maximum(first, second))
        found.append(np.minimum(own[edge], heights[there[edge]]))
    keys, values = np.concatenate(pairs), np.concatenate(found)
    order = np.lexsort((-values, keys))
    keys, values = keys[order], values[order]
    first_of = np.ones(keys.size, dtype=bool)
    first_of[1:] = keys[1:] != keys[:-1]
    low, high = np.divmod(keys[first_of], count)
    return low.astype(np.int32), high.astype(np.int32), values[first_of]


def _merged(
    summits: Floats, area: NDArray[np.intp], pairs: tuple[Ints, Ints, Floats], rule: Rule
) -> NDArray[np.int64]:
    """Return the basin that each basin belongs to after merging."""
    peaks, areas = summits.tolist(), area.tolist()
    low, high, passes = pairs
    owner = list(range(len(peaks)))

    def find(basin: int) -> int:
        while owner[basin] != basin:
            owner[basin] = basin = owner[owner[basin]]
        return basin

    order = np.lexsort((high, low, -passes))
    for first, second, height in zip(
        low[order].tolist(), high[order].tolist(), passes[order].tolist(), strict=True
    ):
        upper, lower = find(first), find(second)
        if upper == lower:
            continue
        if (peaks[upper], -upper) < (peaks[lower], -lower):
            upper, lower = lower, upper
        together = areas[upper] + areas[lower]
        ratio, depth = (
            (rule.large_ratio, rule.large_depth) if together > rule.large else (rule.ratio, rule.depth)
        )
        if height >= ratio * peaks[lower] or peaks[lower] - height < depth:
            owner[lower] = upper
            areas[upper] = together
    return np.array([find(basin) for basin in owner], dtype=np.int64)
