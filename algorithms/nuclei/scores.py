"""How well found nuclei match true ones: Dice, aggregated Jaccard index and panoptic quality."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Scores", "mean", "scores"]

Ints = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one picture, or their means."""

    #: Of all pixels of nuclei, whichever nucleus they belong to.
    dice: float
    #: Aggregated Jaccard index (Kumar 2017).
    aji: float
    #: Panoptic quality (Kirillov 2019), at an intersection over union above 0.5.
    pq: float
    true: float
    found: float


def scores(truth: Ints, found: Ints) -> Scores:
    """Compare two label images; 0 is background, labels need not be consecutive.

    Two empty images agree perfectly: 1. One empty image does not agree at all: 0.
    """
    _, first = np.unique(truth, return_inverse=True)
    _, second = np.unique(found, return_inverse=True)
    first, second = first.ravel(), second.ravel()
    # Without any background pixel the lowest label would take its place.
    first = first + int(truth.min() != 0)
    second = second + int(found.min() != 0)
    rows, columns = int(first.max()) + 1, int(second.max()) + 1
    table = (
        np.bincount(first * columns + second, minlength=rows * columns).reshape(rows, columns).astype(float)
    )
    true_area, found_area = table.sum(axis=1)[1:], table.sum(axis=0)[1:]
    shared = table[1:, 1:]
    if not true_area.size or not found_area.size:
        value = float(true_area.size == found_area.size)
        return Scores(value, value, value, true_area.size, found_area.size)
    union = true_area[:, None] + found_area[None, :] - shared
    jaccard = shared / union
    dice = 2 * shared.sum() / (true_area.sum() + found_area.sum())
    match = jaccard > 0.5
    pairs = float(match.sum())
    pq = jaccard[match].sum() / (pairs + 0.5 * (true_area.size - pairs) + 0.5 * (found_area.size - pairs))
    best = jaccard.argmax(axis=1)
    met = jaccard.max(axis=1) > 0
    each = np.arange(true_area.size)
    together = shared[each, best][met].sum()
    whole = union[each, best][met].sum() + true_area[~met].sum()
    whole += np.delete(found_area, np.unique(best[met])).sum()
    return Scores(float(dice), float(together / whole), float(pq), true_area.size, found_area.size)


def mean(many: list[Scores]) -> Scores:
    """Return the mean of each score over pictures."""
    values = np.array([(s.dice, s.aji, s.pq, s.true, s.found) for s in many])
    return Scores(*values.mean(axis=0).tolist())
