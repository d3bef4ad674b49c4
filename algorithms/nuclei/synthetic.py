"""Pictures of H&E stained tissue that never was, with the exact place of every nucleus.

Nuclei are ellipses with a slightly wavy outline, stained unevenly; the tissue around them is eosin with
fibres and holes. Stains are mixed as optical densities with the vectors of Ruifrok and Johnston, then comes
the microscope: blur, noise and, where wanted, JPEG. The same seed gives the same picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Scene", "scene"]

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int32]
Floats = NDArray[np.float32]

_HAEMATOXYLIN = np.array([0.650, 0.704, 0.286], dtype=np.float32)
_EOSIN = np.array([0.072, 0.990, 0.105], dtype=np.float32)
_TRIES = 60


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture and its truth."""

    #: Shape (height, width, 3).
    rgb: Bytes
    #: 0 for background, 1 … for nuclei; where two overlap, the later one lies on top.
    labels: Ints
    mpp_um: float


def scene(
    seed: int,
    *,
    side_px: int = 512,
    mpp_um: float = 0.25,
    nuclei: int = 150,
    overlap: float = 0.0,
    clustered: bool = False,
    strength: float = 1.0,
    white: tuple[int, int, int] = (243, 243, 243),
    jpeg_quality: int | None = None,
) -> Scene:
    """Draw a scene.

    Parameters
    ----------
    nuclei
        How many are tried; fewer are placed where there is no room.
    overlap
        0: nuclei keep apart. Otherwise every nucleus may share up to this part of its area with others.
    clustered
        Put every second nucleus against another one: clumps and chains, the hardest case.
    strength
        Factor on both stains.
    white
        Colour of the lamp behind the glass.
    jpeg_quality
        None for no JPEG.
    """
    random = np.random.default_rng(seed)
    labels = _placed(random, side_px, mpp_um=mpp_um, nuclei=nuclei, overlap=overlap, clustered=clustered)
    count = int(labels.max())
    # Each nucleus has a stain of its own, and chromatin texture.
    stain = np.concatenate([[0.0], random.normal(0.62, 0.10, count).clip(0.38, 0.95)]).astype(np.float32)
    chromatin = _texture(random, side_px, 0.5 / mpp_um)
    haematoxylin = stain[labels] * (1 + 0.16 * chromatin)
    haematoxylin += 0.05 * (1 + _texture(random, side_px, 3.0 / mpp_um)).clip(0, 2)
    fibres = _texture(random, side_px, 1.0 / mpp_um) + _texture(random, side_px, 8.0 / mpp_um)
    eosin = (0.28 + 0.09 * fibres).clip(0.02, None)
    gaps = _texture(random, side_px, 10.0 / mpp_um) > 1.3
    eosin[gaps & (labels == 0)] = 0.0
    eosin[labels > 0] *= 0.5
    density = strength * (haematoxylin[..., None] * _HAEMATOXYLIN + eosin[..., None] * _EOSIN)
    light = np.array(white, dtype=np.float32) * np.power(10.0, -density).astype(np.float32)
    light = np.asarray(cv2.GaussianBlur(light, (0, 0), 0.22 / mpp_um), dtype=np.float32)
    light += random.normal(0, 1.5, light.shape).astype(np.float32)
    rgb = np.clip(np.rint(light), 0, 255).astype(np.uint8)
    if jpeg_quality is not None:
        _, content = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
        rgb = np.ascontiguousarray(np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR), np.uint8)[..., ::-1])
    return Scene(rgb, labels, mpp_um)


def _placed(
    random: np.random.Generator, side_px: int, *, mpp_um: float, nuclei: int, overlap: float, clustered: bool
) -> Ints:
    """Place nuclei one after the other; one that finds no place is left out."""
    labels = np.zeros((side_px, side_px), dtype=np.int32)
    margin = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * max(1, round(0.75 / mpp_um)) + 1,) * 2)
    full: list[int] = [0]
    free: list[int] = [0]
    centres: list[tuple[float, float, float]] = []
    for number in range(nuclei):
        radius = float(np.clip(random.normal(3.4, 0.6), 2.2, 5.5)) / mpp_um
        long, short = radius * random.uniform(1.0, 1.3), radius / random.uniform(1.0, 1.25)
        for _ in range(_TRIES):
            x, y = random.uniform(0, side_px, 2)
            if clustered and number % 2 and centres:
                near_x, near_y, near_radius = centres[int(random.integers(len(centres)))]
                angle, reach = random.uniform(0, 2 * math.pi), 0.85 * (near_radius + radius)
                x, y = near_x + reach * math.cos(angle), near_y + reach * math.sin(angle)
            # Only the part of the picture around the nucleus is looked at.
            reach_px = math.ceil(1.2 * long) + margin.shape[0]
            left, top = max(0, math.floor(x) - reach_px), max(0, math.floor(y) - reach_px)
            part = labels[top : math.floor(y) + reach_px, left : math.floor(x) + reach_px]
            shape = _ellipse(random, part.shape, (x - left, y - top), long, short)
            area = int(shape.sum())
            if area < 0.5 * math.pi * long * short:
                continue
            covered = np.bincount(part[shape > 0], minlength=len(full))
            if not overlap:
                if part[cv2.dilate(shape, margin) > 0].any():
                    continue
            elif not _room(covered, area, full, free, overlap):
                continue
            for other in np.flatnonzero(covered).tolist():
                free[other] -= int(covered[other])
            full.append(area)
            free.append(area)
            centres.append((x, y, radius))
            part[shape > 0] = len(full) - 1
            break
    return labels


def _room(covered: NDArray[np.intp], area: int, full: list[int], free: list[int], overlap: float) -> bool:
    """Return whether no nucleus, old or new, would share more than *overlap* of its area."""
    others = [number for number in np.flatnonzero(covered).tolist() if number]
    if sum(int(covered[number]) for number in others) > overlap * area:
        return False
    return all(free[number] - int(covered[number]) >= (1 - overlap) * full[number] for number in others)


def _ellipse(
    random: np.random.Generator, size: tuple[int, ...], centre: tuple[float, float], long: float, short: float
) -> Bytes:
    """Return a wavy ellipse of random direction in a mask of *size*, 0 or 1."""
    x, y = centre
    angles = np.linspace(0, 2 * math.pi, 72, endpoint=False)
    wave = (
        1
        + 0.04 * np.sin(3 * angles + random.uniform(0, 6))
        + 0.03 * np.sin(5 * angles + random.uniform(0, 6))
    )
    tilt = random.uniform(0, math.pi)
    across, along = long * wave * np.cos(angles), short * wave * np.sin(angles)
    points = np.stack(
        [
            x + across * math.cos(tilt) - along * math.sin(tilt),
            y + across * math.sin(tilt) + along * math.cos(tilt),
        ],
        axis=1,
    )
    shape = np.zeros(size, dtype=np.uint8)
    # OpenCV takes fixed-point coordinates: here with 4 bits after the point.
    cv2.fillPoly(shape, [np.rint(points * 16).astype(np.int32)], 1, shift=4)
    return shape


def _texture(random: np.random.Generator, side_px: int, sigma_px: float) -> Floats:
    """Return smooth noise of mean 0 and deviation 1."""
    noise = cv2.GaussianBlur(
        random.normal(size=(side_px, side_px)).astype(np.float32), (0, 0), max(sigma_px, 0.5)
    )
    return np.asarray((noise - noise.mean()) / noise.std(), dtype=np.float32)
