"""Statistics of red and blue in nuclei and in the ring of 8 pixels around them, by the original's formulas.

The original builds a histogram of 256 grey values for each nucleus and derives everything from it; so do we.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .nuclei import Nuclei

__all__ = ["colours", "textures"]

Bytes = NDArray[np.uint8]
Doubles = NDArray[np.float64]
Index = NDArray[np.intp]

_RING_PX = 8
_DISK = (np.add.outer(np.arange(-8, 9) ** 2, np.arange(-8, 9) ** 2) <= _RING_PX**2).astype(np.uint8)
#: Boxes of similar size are handled together.
_CELL_PX = 16
#: Places of mean and deviation among the values of a channel, and where those of blue begin.
_MEAN, _DEVIATION, _BLUE = 0, 3, 32
_CANNY_LOW, _CANNY_HIGH, _CANNY_APERTURE = 70, 90, 5


@dataclass(frozen=True, slots=True)
class _Pixels:
    """Pixels in groups that are not empty, one after the other; *nucleus* is the nucleus of each group."""

    pixels: Index
    count: Index
    nucleus: Index
    #: 256 times the number of the group, for each pixel.
    base: Index

    @classmethod
    def of(cls, pixels: Index, count: Index, nucleus: Index) -> _Pixels:
        filled = count > 0
        count, nucleus = count[filled], nucleus[filled]
        return cls(pixels, count, nucleus, np.repeat(np.arange(count.size) * 256, count))


def textures(nuclei: Nuclei, rgb: Bytes) -> Doubles:
    """Return the 64 values of each nucleus, in the order of :data:`.columns.TEXTURE`.

    A ring without a pixel, around a nucleus that fills the picture, has no values: ``nan``.
    """
    everyone = np.arange(len(nuclei))
    pixels, owner = nuclei.pixels()
    places = (_Pixels.of(pixels, nuclei.area, everyone), _rings(nuclei, pixels, owner))
    parts: list[Doubles] = []
    for channel in (0, 2):
        grey = np.ascontiguousarray(rgb[..., channel])
        slope = _gradient(grey)
        edges = np.asarray(cv2.Canny(grey, _CANNY_LOW, _CANNY_HIGH, apertureSize=_CANNY_APERTURE), np.uint8)
        for place in places:
            values = np.full((len(nuclei), 16), np.nan)
            if place.count.size:
                values[place.nucleus] = np.concatenate(
                    [
                        _statistics(place, grey, extremes=True),
                        _statistics(place, slope, extremes=False),
                        _edges(place, edges),
                    ],
                    axis=1,
                )
            parts.append(values)
    return np.concatenate(parts, axis=1)


def colours(nuclei: Nuclei, rgb: Bytes, texture: Doubles) -> Doubles:
    """Return means and deviations of red, green and blue, in the order of :data:`.columns.COLOUR`.

    Parameters
    ----------
    texture
        From :func:`textures`, which has those of red and blue.
    """
    if not len(nuclei):
        return np.zeros((0, 6))
    pixels, _ = nuclei.pixels()
    green = rgb[..., 1].ravel()[pixels].astype(np.float64)
    starts = np.cumsum(nuclei.area) - nuclei.area
    mean = np.add.reduceat(green, starts) / nuclei.area
    deviation = np.sqrt(np.maximum(np.add.reduceat(green * green, starts) / nuclei.area - mean**2, 0))
    red_mean, red_deviation = texture[:, _MEAN], texture[:, _DEVIATION]
    blue_mean, blue_deviation = texture[:, _BLUE + _MEAN], texture[:, _BLUE + _DEVIATION]
    return np.stack([red_mean, mean, blue_mean, red_deviation, deviation, blue_deviation], axis=1)


def _rings(nuclei: Nuclei, pixels: Index, owner: Index) -> _Pixels:
    """Return the pixels within 8 of each nucleus and outside it.

    Rings overlap each other and other nuclei, as in the original. Each nucleus is drawn into a cell of its
    own; the cells of one size stand in a column, far enough apart, and are dilated all at once.
    """
    height, width = nuclei.labels.shape
    side = np.maximum(nuclei.right - nuclei.left, nuclei.bottom - nuclei.top) + 1 + 2 * _RING_PX
    side = -(-side // _CELL_PX) * _CELL_PX
    row, column = np.divmod(pixels, width)
    # Where the first pixel of a nucleus' cell lies in the picture.
    top, left = nuclei.top - _RING_PX, nuclei.left - _RING_PX
    rings, counts, members = [], [], []
    for cell in np.unique(side).tolist():
        chosen = np.flatnonzero(side == cell)
        place = np.zeros(len(nuclei), dtype=np.intp)
        place[chosen] = np.arange(chosen.size)
        corner = (place * cell - top) * cell - left
        inside = np.flatnonzero((side == cell)[owner])
        drawn = np.zeros((chosen.size * cell, cell), dtype=np.uint8)
        drawn.ravel()[corner[owner[inside]] + row[inside] * cell + column[inside]] = 1
        near = np.flatnonzero((cv2.dilate(drawn, _DISK) - drawn).view(bool).ravel())
        line, across = np.divmod(near, cell)
        member = line // cell
        down = line - member * cell + top[chosen][member]
        across += left[chosen][member]
        within = np.flatnonzero((down >= 0) & (down < height) & (across >= 0) & (across < width))
        if within.size < near.size:
            down, across, member = down[within], across[within], member[within]
        rings.append(down * width + across)
        counts.append(np.bincount(member, minlength=chosen.size))
        members.append(chosen)
    if not members:
        return _Pixels.of(pixels, nuclei.area, owner)
    return _Pixels.of(np.concatenate(rings), np.concatenate(counts), np.concatenate(members))


def _gradient(grey: Bytes) -> Bytes:
    """Return the length of the central difference, one-sided at the picture's edge, as whole numbers.

    Halves are rounded up, as in the original. They are exact, and the next value is further away than *beta*.
    """
    across = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=1, scale=0.5, borderType=cv2.BORDER_REPLICATE)
    down = cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=1, scale=0.5, borderType=cv2.BORDER_REPLICATE)
    across[:, [0, -1]] *= 2
    down[[0, -1]] *= 2
    return np.asarray(cv2.convertScaleAbs(cv2.magnitude(across, down), beta=1e-4), dtype=np.uint8)


def _edges(place: _Pixels, edges: Bytes) -> Doubles:
    """Return the number of edge pixels in each group, and the mean of the edge picture, which is 0 or 255."""
    on_edge = np.flatnonzero(edges.ravel()[place.pixels] != 0)
    found = np.bincount(place.base[on_edge] >> 8, minlength=place.count.size)
    return np.stack([found, found * 255.0 / place.count], axis=1)


def _statistics(place: _Pixels, picture: Bytes, *, extremes: bool) -> Doubles:
    """Return mean, [largest, smallest,] deviation, entropy, energy, skewness and kurtosis of each group."""
    values = picture.ravel()[place.pixels]
    histograms = np.bincount(place.base + values, minlength=place.count.size * 256)
    # Few of the 256 grey values occur in a nucleus.
    filled = np.flatnonzero(histograms != 0)
    group, grey = filled >> 8, (filled & 255).astype(np.float64)
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    number_of = histograms[filled].astype(np.float64)
    # Sums of whole numbers below 2^53: exact, whatever their order.
    powers, sums = number_of, []
    for _ in range(4):
        powers = powers * grey
        sums.append(np.add.reduceat(powers, starts) / place.count)
    mean, second, third, fourth = sums
    variance = np.maximum(second - mean**2, 0)
    deviation = np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        skewness = (third - 3 * mean * second + 2 * mean**3) / (variance * deviation)
        kurtosis = (fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4) / variance**2
    flat = variance < 1e-9
    skewness[flat] = kurtosis[flat] = 0.0
    logarithms = np.log2(np.arange(1, int(number_of.max()) + 1))[histograms[filled] - 1]
    entropy = np.log2(place.count) - np.add.reduceat(number_of * logarithms, starts) / place.count
    energy = np.add.reduceat(number_of**2, starts) / place.count.astype(np.float64) ** 2
    parts = [mean, deviation, entropy, energy, skewness, kurtosis]
    if extremes:
        last = np.append(starts[1:], filled.size) - 1
        parts[1:1] = [grey[last], grey[starts]]
    return np.stack(parts, axis=1)
