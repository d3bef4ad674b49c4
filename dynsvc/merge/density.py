"""How many objects lie where: counted cell by cell over the whole slide, and drawn over its thumbnail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Density", "overview"]

#: Cells along the slide's longer side, and pixels along that of the overview.
_CELLS, _OVERVIEW_PX = 256, 1024
#: A cell has at least so many level-0 pixels on a side.
_SMALLEST_CELL_PX = 64
#: From few to many: transparent blue, green, yellow, red.
_COLOURS = np.array([[48, 18, 160], [32, 160, 140], [250, 220, 40], [220, 30, 30]], float)
_STRONGEST = 0.65


class Density:
    """Counts objects in square cells of a slide.

    Parameters
    ----------
    width_px, height_px
        Size of level 0.
    mpp_um
        Micrometres per pixel of level 0; None where it is unknown.
    """

    def __init__(self, width_px: int, height_px: int, mpp_um: float | None) -> None:
        self.cell_px = max(_SMALLEST_CELL_PX, -(-max(width_px, height_px) // _CELLS))
        #: Width and height of level 0.
        self.size = width_px, height_px
        self._cell_mm2 = None if mpp_um is None else (self.cell_px * mpp_um / 1000) ** 2
        shape = -(-height_px // self.cell_px), -(-width_px // self.cell_px)
        #: Shape (rows, columns).
        self.counts = np.zeros(shape, np.int64)
        self._areas_px = np.zeros(shape)

    def add(self, x: NDArray[np.float64], y: NDArray[np.float64], areas_px: NDArray[np.float64]) -> None:
        """Count objects at level-0 pixels *x* and *y*, with their areas in level-0 pixels."""
        rows, columns = self.counts.shape
        column = np.clip(x // self.cell_px, 0, columns - 1).astype(np.intp)
        row = np.clip(y // self.cell_px, 0, rows - 1).astype(np.intp)
        np.add.at(self.counts, (row, column), 1)
        np.add.at(self._areas_px, (row, column), areas_px)

    @property
    def cell_of_slide(self) -> tuple[float, float]:
        """Width and height of a cell as fractions of the slide's."""
        return self.cell_px / self.size[0], self.cell_px / self.size[1]

    @property
    def unit(self) -> str:
        """What :meth:`values` counts."""
        return "objects" if self._cell_mm2 is None else "objects per mm2"

    def values(self) -> NDArray[np.float64]:
        """Return the objects per mm² of each cell, or their number where the scale is unknown."""
        return self.counts / (self._cell_mm2 or 1.0)

    def covered(self) -> NDArray[np.float64]:
        """Return the share of each cell's area that its objects have, at most 1."""
        return np.minimum(self._areas_px / self.cell_px**2, 1.0)


def overview(density: Density, thumbnail: Path | None) -> Image.Image:
    """Return the density in colours over a thumbnail of the whole slide; over white without one."""
    width, height = (round(_OVERVIEW_PX * side / max(density.size)) or 1 for side in density.size)
    if thumbnail is None:
        below = Image.new("RGB", (width, height), "white")
    else:
        with Image.open(thumbnail) as picture:
            below = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    # The scale ends where one cell of two hundred is denser: a single one does not hide all others.
    full = density.counts[density.counts > 0]
    most = float(np.percentile(full, 99.5)) if full.size else 1.0
    share = np.minimum(density.counts / most, 1.0)
    place = share * (len(_COLOURS) - 1)
    colour = np.stack([np.interp(place, range(len(_COLOURS)), channel) for channel in _COLOURS.T], axis=2)
    alpha = np.where(density.counts > 0, _STRONGEST * (0.3 + 0.7 * share), 0)
    # A cell at the far edges may reach over the slide.
    rows, columns = (round(cells * density.cell_px * width / density.size[0]) or 1 for cells in share.shape)
    heat = Image.fromarray(colour.astype(np.uint8)).resize((columns, rows), Image.Resampling.NEAREST)
    veil = Image.fromarray((255 * alpha).astype(np.uint8)).resize((columns, rows), Image.Resampling.BILINEAR)
    below.paste(heat.crop((0, 0, width, height)), (0, 0), veil.crop((0, 0, width, height)))
    return below
