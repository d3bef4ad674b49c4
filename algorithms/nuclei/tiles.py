"""How a region is cut into tiles, each small enough for the processor's cache, that together give one result.

A tile is segmented with a margin around it, the halo, and keeps the nuclei whose centre lies in its core. The
threshold is that of the whole region. So the result hardly depends on the cuts, and not on the tiles' order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .arguments import Parameters
from .candidates import CELL
from .nuclei import Nuclei, nuclei_of
from .pictures import Bytes, Source
from .segmentation import segment
from .stain import Field, Grid, Histogram, field_of
from .threshold import Threshold

__all__ = ["Box", "Survey", "Tile", "cut", "nuclei_in", "survey"]

#: Pixels of the working grid on a side of the core.
TILE_PX = 1024
#: At least the diameter of a large nucleus.
_HALO_UM = 16.0
#: So many tiles are kept in memory between the survey and the segmentation.
_KEPT = 10
#: A region of more tiles than this is surveyed on that many of them, evenly spaced.
_SURVEYED = 96


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the source."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """First column that is outside."""
        return self.left + self.width

    @property
    def bottom(self) -> int:
        """First row that is outside."""
        return self.top + self.height


@dataclass(frozen=True, slots=True)
class Tile:
    """The core of a tile, and the core with its halo, clipped to the region."""

    core: Box
    whole: Box


def cut(region: Box, part: Box, grid: Grid, *, tile_px: int = TILE_PX) -> list[Tile]:
    """Cut *part* of *region* into tiles of about *tile_px* pixels of the grid on a side."""
    # Cells of the low-resolution maps lie at the same places of the slide in all tiles.
    unit = CELL * grid.shrink
    halo = max(math.ceil(_HALO_UM / grid.um / CELL), 1) * unit
    steps = []
    for length in (part.width, part.height):
        on_grid = length * grid.enlarge / grid.shrink
        number = max(1, math.ceil(on_grid / tile_px))
        steps.append(max(unit, math.ceil(length / number / unit) * unit))
    tiles = []
    for top in range(part.top, part.bottom, steps[1]):
        for left in range(part.left, part.right, steps[0]):
            core = Box(left, top, min(steps[0], part.right - left), min(steps[1], part.bottom - top))
            west, north = max(region.left, left - halo), max(region.top, top - halo)
            east, south = min(region.right, core.right + halo), min(region.bottom, core.bottom + halo)
            tiles.append(Tile(core, Box(west, north, east - west, south - north)))
    return tiles


@dataclass(frozen=True, slots=True)
class Survey:
    """What must be known of the whole region before its first tile is segmented."""

    grid: Grid
    #: None where there is no tissue, or nothing in it that stands out.
    threshold: Threshold | None
    tissue_um2: float
    #: Share of the region's area covered by ink and the like.
    ink: float
    #: Fields of the first tiles, by their box, to be used once.
    fields: dict[Box, Field]


def survey(source: Source, tiles: Sequence[Tile], grid: Grid, given: Threshold | float | None) -> Survey:
    """Look at the tiles of a region.

    Parameters
    ----------
    given
        A threshold from outside, as it is or as a density that separates the classes.
    """
    if isinstance(given, Threshold):
        return Survey(grid, given, math.nan, 0.0, {})
    spacing = max(1, math.ceil(len(tiles) / _SURVEYED))
    chosen = tiles[::spacing]
    fields: dict[Box, Field] = {}
    histogram, ink = Histogram(), 0.0
    for tile in chosen:
        field = field_of(_read(source, tile.whole), grid)
        core, whole = tile.core, tile.whole
        histogram.add(field, core.left - whole.left, core.top - whole.top, core.width, core.height)
        ink += field.ink / len(chosen)
        if len(fields) < _KEPT:
            fields[tile.whole] = field
    threshold = histogram.threshold(given)
    if threshold is not None and given is None and not threshold.visible:
        threshold = None
    return Survey(grid, threshold, histogram.tissue_um2 * spacing, ink, fields)


def nuclei_in(
    source: Source, tile: Tile, found: Survey, parameters: Parameters, mpp_um: float
) -> tuple[Bytes, Nuclei] | None:
    """Return a tile's pixels with halo, and the nuclei whose centre is in its core, or None without any."""
    if found.threshold is None:
        return None
    rgb = _read(source, tile.whole)
    field = found.fields.pop(tile.whole, None) or field_of(rgb, found.grid)
    if not field.tissue.any():
        return None
    labels = segment(field, found.threshold, parameters, mpp_um, (rgb.shape[0], rgb.shape[1]))
    # At the region's own edges there is no neighbour to take what lies there.
    left, top = tile.core.left - tile.whole.left, tile.core.top - tile.whole.top
    core = (
        left or -math.inf,
        top or -math.inf,
        left + tile.core.width if tile.core.right < tile.whole.right else math.inf,
        top + tile.core.height if tile.core.bottom < tile.whole.bottom else math.inf,
    )
    nuclei = nuclei_of(labels, min_size_px=max(parameters.min_size_um2 / mpp_um**2, 1.0), core=core)
    return (rgb, nuclei) if len(nuclei) else None


def _read(source: Source, box: Box) -> Bytes:
    return source.read(box.left, box.top, box.width, box.height)
