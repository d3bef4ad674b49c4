"""Pyramidal slides of given pixels, written while the tests run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

__all__ = ["gradient", "misplaced", "write_pyramid"]

_TILE_PX = 256


def gradient(width_px: int, height_px: int) -> npt.NDArray[np.uint8]:
    """Return RGB pixels that tell where they are, smooth enough for JPEG."""
    y, x = np.mgrid[0:height_px, 0:width_px]
    red = (x * 255) // max(1, width_px - 1)
    green = (y * 255) // max(1, height_px - 1)
    blue = ((x // 64 + y // 64) % 4) * 60
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def write_pyramid(path: Path, pixels: npt.NDArray[np.uint8], *, mpp_um: float | None = 0.5) -> Path:
    """Write *pixels* as a tiled pyramidal TIFF without loss, which OpenSlide and iipsrv read."""
    options: dict[str, Any] = {"tile": (_TILE_PX, _TILE_PX), "photometric": "rgb", "compression": "deflate"}
    if mpp_um:
        options |= {"resolution": (10_000 / mpp_um, 10_000 / mpp_um), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, **options)
        level = pixels
        while max(level.shape) > 2 * _TILE_PX:
            level = np.ascontiguousarray(level[::2, ::2])
            tiff.write(level, **options, subfiletype=1)
    return path


def misplaced(found: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Return by how many pixels, at most one to each side, *found* has to be moved to fit *expected* best."""
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    inner = expected[1:-1, 1:-1].astype(int)
    height_px, width_px = inner.shape[:2]

    def misfit(shift: tuple[int, int]) -> float:
        dy, dx = shift
        part = found[1 + dy : 1 + dy + height_px, 1 + dx : 1 + dx + width_px].astype(int)
        return float(np.abs(part - inner).mean())

    return min(shifts, key=misfit)
