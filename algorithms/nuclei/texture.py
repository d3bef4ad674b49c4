"""Statistics of colour in nuclei and in the ring of 8 pixels around them, by the original's formulas.

The original builds a histogram of 256 grey values for each nucleus and derives everything from it; so do we.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .cells import Cells, Groups
from .nuclei import Nuclei

__all__ = ["textures"]

Bytes = NDArray[np.uint8]
Pixels = NDArray[np.uint32]
Doubles = NDArray[np.float64]

_CANNY_LOW, _CANNY_HIGH, _CANNY_APERTURE = 70, 90, 5
#: Where the four bytes of a prepared pixel begin. They are read as one number, the first as the lowest.
_GREY, _SLOPE, _EDGE, _GREEN = np.arange(0, 32, 8, dtype=np.uint32)
_BYTE, _ONE = np.uint32(255), np.uint32(1)
#: Places of mean and deviation among the values of a channel.
_MEAN, _DEVIATION = 0, 3


def textures(nuclei: Nuclei, rgb: Bytes) -> tuple[Doubles, Doubles]:
    """Return the values of each nucleus, in the order of ``TEXTURE`` and of ``COLOUR`` in :mod:`.columns`.

    A ring without a pixel, around a nucleus that fills the picture, has no values: ``nan``.
    """
    # Of each nucleus: red and blue, nucleus and ring, 16 values.
    texture = np.full((len(nuclei), 2, 2, 16), np.nan)
    green = np.zeros((len(nuclei), 2))
    cells = Cells(nuclei)
    planes = [np.asarray(plane, dtype=np.uint8) for plane in cv2.split(rgb)]
    channels = [cells.framed(_prepared(planes[at], planes[1])).view("<u4")[..., 0] for at in (0, 2)]
    for groups in cells:
        number = groups.nuclei.size
        for channel, picture in enumerate(channels):
            pixels = groups.read(picture)
            values = np.full((2 * number, 16), np.nan)
            values[groups.place] = np.concatenate(
                [
                    _statistics(groups, pixels >> _GREY & _BYTE, extremes=True),
                    _statistics(groups, pixels >> _SLOPE & _BYTE, extremes=False),
                    _edges(groups, pixels >> _EDGE & _ONE),
                ],
                axis=1,
            )
            texture[groups.nuclei, channel] = values.reshape(2, number, 16).swapaxes(0, 1)
        green[groups.nuclei] = _spread(groups, pixels >> _GREEN, number)
    red, blue = texture[:, 0, 0], texture[:, 1, 0]
    colour = [
        red[:, _MEAN],
        green[:, 0],
        blue[:, _MEAN],
        red[:, _DEVIATION],
        green[:, 1],
        blue[:, _DEVIATION],
    ]
    return texture.reshape(len(nuclei), 64), np.stack(colour, axis=1)


def _prepared(grey: Bytes, green: Bytes) -> Bytes:
    """Return a channel with its gradient, its edges, and green."""
    edges = cv2.Canny(grey, _CANNY_LOW, _CANNY_HIGH, apertureSize=_CANNY_APERTURE)
    return np.asarray(cv2.merge([grey, _gradient(grey), edges, green]), dtype=np.uint8)


def _gradient(grey: Bytes) -> Bytes:
    """Return the length of the central difference, one-sided at the picture's edge, as whole numbers.

    Halves are rounded up, as in the original. They are exact, and the next value is further away than *beta*.
    """
    framed = cv2.copyMakeBorder(grey, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    across = cv2.absdiff(framed[1:-1, 2:], framed[1:-1, :-2])
    down = cv2.absdiff(framed[2:, 1:-1], framed[:-2, 1:-1])
    squares = np.zeros(grey.shape, dtype=np.float32)
    cv2.accumulateSquare(across, squares)
    # One-sided: over half the distance.
    squares[:, [0, -1]] *= 4
    cv2.accumulateSquare(down, squares)
    squares[[0, -1]] += 3 * down[[0, -1]].astype(np.float32) ** 2
    cv2.sqrt(squares, squares)
    return np.asarray(cv2.convertScaleAbs(squares, alpha=0.5, beta=1e-4), dtype=np.uint8)


def _edges(groups: Groups, edge: Pixels) -> Doubles:
    """Return the number of edge pixels in each group, and the mean of the edge picture, which is 0 or 255."""
    found = np.add.reduceat(edge, groups.starts).astype(np.float64)
    return np.stack([found, found * 255 / groups.count], axis=1)


def _spread(groups: Groups, grey: Pixels, number: int) -> Doubles:
    """Return mean and deviation of the first *number* groups."""
    count, starts = groups.count[:number], groups.starts[:number]
    values = grey[: int(count.sum())].astype(np.float64)
    mean = np.add.reduceat(values, starts) / count
    square = np.add.reduceat(values * values, starts) / count
    return np.stack([mean, np.sqrt(np.maximum(square - mean**2, 0))], axis=1)


def _statistics(groups: Groups, grey: Pixels, *, extremes: bool) -> Doubles:
    """Return mean, [largest, smallest,] deviation, entropy, energy, skewness and kurtosis of each group."""
    count = groups.count
    histograms = np.bincount(groups.histogram + grey, minlength=256 * count.size)
    # Few of the 256 grey values occur in a nucleus.
    filled = np.flatnonzero(histograms != 0)
    starts = np.searchsorted(filled, np.arange(0, histograms.size, 256))
    value, times = (filled & 255).astype(np.float64), histograms[filled]
    number_of = times.astype(np.float64)
    # Sums of whole numbers below 2^53: exact, whatever their order.
    powers, sums = number_of, []
    for _ in range(4):
        powers = powers * value
        sums.append(np.add.reduceat(powers, starts) / count)
    mean, second, third, fourth = sums
    variance = np.maximum(second - mean**2, 0)
    deviation = np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        skewness = (third - 3 * mean * second + 2 * mean**3) / (variance * deviation)
        kurtosis = (fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4) / variance**2
    flat = variance < 1e-9
    skewness[flat] = kurtosis[flat] = 0.0
    logarithms = np.log2(np.arange(1, int(times.max()) + 1))[times - 1]
    entropy = np.log2(count) - np.add.reduceat(number_of * logarithms, starts) / count
    energy = np.add.reduceat(number_of**2, starts) / count.astype(np.float64) ** 2
    parts = [mean, deviation, entropy, energy, skewness, kurtosis]
    if extremes:
        last = np.append(starts[1:], filled.size) - 1
        parts[1:1] = [value[last], value[starts]]
    return np.stack(parts, axis=1)
