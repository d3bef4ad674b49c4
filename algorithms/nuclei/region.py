"""The method on pixels in memory: what the program, the evaluation and the benchmark have in common."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .arguments import Parameters
from .pictures import Picture
from .stain import Grid
from .tiles import TILE_PX, Box, cut, nuclei_in, survey

__all__ = ["label"]


def label(
    rgb: NDArray[np.uint8],
    mpp_um: float,
    parameters: Parameters | None = None,
    *,
    origin: tuple[int, int] = (0, 0),
    tile_px: int = TILE_PX,
) -> NDArray[np.int32]:
    """Return the nuclei of a picture as labels from 1 on; 0 is background.

    Parameters
    ----------
    rgb
        Shape (height, width, 3).
    mpp_um
        Micrometres per pixel.
    origin
        Place of the picture's first pixel on the slide.
    tile_px
        Side of a tile on the working grid.
    """
    parameters = parameters or Parameters()
    source, grid = Picture(rgb), Grid.of(mpp_um)
    whole = Box(0, 0, source.width_px, source.height_px)
    tiles = cut(whole, whole, grid, origin=origin, tile_px=tile_px)
    found = survey(source, tiles, grid, parameters.threshold)
    labels = np.zeros((whole.height, whole.width), np.int32)
    count = 0
    for tile in tiles:
        result = nuclei_in(source, tile, found, parameters, mpp_um)
        if result is None:
            continue
        _, nuclei = result
        box = tile.whole
        view = labels[box.top : box.bottom, box.left : box.right]
        free = (nuclei.labels != 0) & (view == 0)
        view[free] = nuclei.labels[free].astype(np.int32) + count
        count += len(nuclei)
    return labels
