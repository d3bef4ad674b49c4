"""Labelled pixels as separate nuclei: each one piece, without holes, with its moments and its outline."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Nuclei", "nuclei_of"]

Labels = NDArray[np.uint16]
Index = NDArray[np.intp]
Doubles = NDArray[np.float64]
Outline = NDArray[np.int32]

#: Area over the area of the ellipse with the same moments: 1 for ellipses, less for shreds and crescents.
_MIN_ELLIPTICITY = 0.75


@dataclass(frozen=True, slots=True)
class Nuclei:
    """The nuclei of one tile, numbered from 0 in the order of their labels. All lengths in pixels."""

    #: 0 for background, otherwise the nucleus' number plus 1.
    labels: Labels
    area: NDArray[np.int64]
    x: Doubles
    y: Doubles
    #: Second central moments per pixel, of pixel centres.
    xx: Doubles
    yy: Doubles
    xy: Doubles
    #: First and last column and row.
    left: Index
    right: Index
    top: Index
    bottom: Index
    #: Border pixels in order, counterclockwise on the screen, each one of (column, row).
    outlines: list[Outline]

    def __len__(self) -> int:
        return self.area.size


@dataclass(frozen=True, slots=True)
class _Runs:
    """Pixels of one label side by side, row by row: some twenty times fewer than pixels."""

    label: Labels
    row: Index
    left: Index
    length: Index

    @classmethod
    def of(cls, labels: Labels) -> _Runs:
        """Find all runs that are not background."""
        width = labels.shape[1] + 2
        framed = np.zeros((labels.shape[0], width), dtype=np.uint16)
        framed[:, 1:-1] = labels
        flat = framed.ravel()
        begins = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        label, length = flat[begins], np.diff(begins, append=flat.size)
        inside = label != 0
        row, left = np.divmod(begins[inside], width)
        return cls(label[inside], row, left - 1, length[inside])


def nuclei_of(
    labels: Labels, *, min_size_px: float, core: tuple[float, float, float, float] | None = None
) -> Nuclei:
    """Tidy *labels* in place and list what is left.

    Parameters
    ----------
    labels
        Of one tile; 0 is background.
    min_size_px
        Smaller objects are dropped.
    core
        Left, top, right and bottom of the part of the tile whose objects count: their centre is in it.
        A centre on the left or top edge belongs to it, on the right or bottom edge to the neighbour.
    """
    left, top, right, bottom = core or (-math.inf, -math.inf, math.inf, math.inf)
    listed = _listed(labels)
    keep = (listed.area >= min_size_px) & (listed.right >= left) & (listed.left < right)
    listed = _without(listed, keep & (listed.bottom >= top) & (listed.top < bottom))
    outlines, repaired = _outlines(listed)
    if repaired:
        listed = _listed(labels)
    ellipse = (
        4 * math.pi * np.sqrt(np.maximum((listed.xx + 1 / 12) * (listed.yy + 1 / 12) - listed.xy**2, 1e-12))
    )
    keep = (listed.area >= min_size_px) & (listed.area >= _MIN_ELLIPTICITY * ellipse)
    keep &= (listed.x >= left) & (listed.x < right) & (listed.y >= top) & (listed.y < bottom)
    kept = [outline for outline, wanted in zip(outlines, keep.tolist(), strict=True) if wanted]
    listed = _without(listed, keep)
    listed.outlines.extend(kept)
    return listed


def _listed(labels: Labels) -> Nuclei:
    """List the objects of *labels*, which is numbered without gaps in place."""
    runs = _Runs.of(labels)
    present = np.flatnonzero(np.bincount(runs.label, minlength=1))
    name = np.zeros(int(present.max(initial=0)) + 1, dtype=np.uint16)
    name[present] = np.arange(1, present.size + 1)
    if present.size and present[-1] != present.size:
        labels[:] = name[labels]
    order = np.argsort(runs.label, kind="stable")
    owner = name[runs.label[order]].astype(np.intp) - 1
    row, first, length = runs.row[order], runs.left[order], runs.length[order]
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    if not starts.size:
        none, nowhere = np.zeros(0), np.zeros(0, dtype=np.intp)
        return Nuclei(labels, nowhere, none, none, none, none, none, nowhere, nowhere, nowhere, nowhere, [])
    left, right = np.minimum.reduceat(first, starts), np.maximum.reduceat(first + length - 1, starts)
    top, bottom = row[starts], np.maximum.reduceat(row, starts)
    # Sums over runs in closed form. Counted from the corner of the box, they are exact whole numbers.
    begin, line = first - left[owner], row - top[owner]
    end = begin + length - 1
    sum_x = (begin + end) * length // 2
    sum_xx = (end * (end + 1) * (2 * end + 1) - (begin - 1) * begin * (2 * begin - 1)) // 6
    area, x, y, xx, yy, xy = (
        np.add.reduceat(values, starts)
        for values in (length, sum_x, line * length, sum_xx, line * line * length, line * sum_x)
    )
    mean_x, mean_y = x / area, y / area
    return Nuclei(
        labels, area, left + mean_x, top + mean_y,
        xx / area - mean_x**2, yy / area - mean_y**2, xy / area - mean_x * mean_y,
        left, right, top, bottom, [],
    )  # fmt: skip


def _without(listed: Nuclei, keep: NDArray[np.bool_]) -> Nuclei:
    """Drop the nuclei that are not to be kept, from the labels too."""
    if keep.all():
        return listed
    name = np.zeros(keep.size + 1, dtype=np.uint16)
    name[1:][keep] = np.arange(1, int(keep.sum()) + 1)
    listed.labels[:] = name[listed.labels]
    return Nuclei(
        listed.labels, listed.area[keep], listed.x[keep], listed.y[keep],
        listed.xx[keep], listed.yy[keep], listed.xy[keep],
        listed.left[keep], listed.right[keep], listed.top[keep], listed.bottom[keep], [],
    )  # fmt: skip


def _outlines(listed: Nuclei) -> tuple[list[Outline], bool]:
    """Return the outline of each nucleus, after filling holes and removing loose parts from the labels."""
    outlines: list[Outline] = []
    repaired = False
    boxes = zip(
        listed.left.tolist(), listed.top.tolist(), (listed.right + 1).tolist(), (listed.bottom + 1).tolist(),
        listed.area.tolist(), strict=True,
    )  # fmt: skip
    for number, (left, top, right, bottom, area) in enumerate(boxes, 1):
        crop = listed.labels[top:bottom, left:right]
        mask = (crop == number).view(np.uint8)
        found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(left, top))
        outline = found[0] if len(found) == 1 else max(found, key=cv2.contourArea)
        # Pick's theorem: pixels on and inside a border of n steps. A spur is walked twice, and counts right.
        steps = len(outline) if len(outline) > 1 else 0
        whole = round(cv2.contourArea(outline) + steps / 2 + 1)
        if len(found) > 1 or whole != area:
            repaired = True
            shape = np.zeros_like(mask)
            cv2.drawContours(shape, [outline], -1, 1, cv2.FILLED, offset=(-left, -top))
            crop[(mask != 0) & (shape == 0)] = 0
            crop[(crop == 0) & (shape != 0)] = number
        outlines.append(outline.reshape(-1, 2))
    return outlines, repaired
