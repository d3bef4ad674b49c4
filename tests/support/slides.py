"""Small slides with known pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile


def write_slide(path: Path, *, width_px: int = 640, height_px: int = 512, mpp_um: float = 0.5) -> Path:
    """Write a tiled TIFF that OpenSlide opens: a gradient with dark discs, lossless."""
    y, x = np.mgrid[0:height_px, 0:width_px]
    pixels = np.stack([x % 256, y % 256, (x + y) % 256], axis=-1).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    per_cm = 10_000 / mpp_um
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            pixels,
            tile=(256, 256),
            photometric="rgb",
            compression="deflate",
            resolution=(per_cm, per_cm),
            resolutionunit="CENTIMETER",
        )
    return path
