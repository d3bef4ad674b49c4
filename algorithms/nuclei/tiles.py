"""How a region is cut into tiles, each small enough for the processor's cache, that together give one result.

A tile is segmented with a margin around it, the halo, and keeps the nuclei whose centre lies in its core. The
threshold is that of the whole region, and the working grid begins at the slide's origin, not at the tile's.
So the result depends neither on the cuts nor on the tiles' order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from .arguments import Parameters
from .candidates import CELL
from .nuclei import Nuclei, nuclei_of
from .pictures import Bytes, Source
from .segmentation import segment
from .stain import Field, Grid, Histogram, field_of
from .threshold import NOTHING, Nothing, Threshold

__all__ = ["Box", "Survey", "Tile", "cut", "look", "nuclei_in", "survey"]

#: Pixels of the working grid on a side of the core.
TILE_PX = 1024
#: What decides on a nucleus reaches so far: the mean around it (four times 8 um), in whole cells.
_HALO_UM = 36.0
#: So many tiles are kept in memory between the survey and the segmentation.
_KEPT = 4
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
    #: So many columns and rows are put before those of *whole*, to begin where a cell of the slide begins.
    lead: tuple[int, int] = (0, 0)


def cut(
    region: Box, part: Box, grid: Grid, *, origin: tuple[int, int] = (0, 0), tile_px: int = TILE_PX
) -> list[Tile]:
    """Cut *part* of *region* into tiles of about *tile_px* pixels of the grid on a side.

    Parameters
    ----------
    origin
        Where the source's first pixel lies on the slide. Working grid and cells of low-resolution maps begin
        at the slide's own first pixel, so that all parts of a slide see the same ones.
    """
    unit = CELL * grid.shrink
    side = tile_px * grid.shrink / grid.enlarge
    halo = max(math.ceil(_HALO_UM / (grid.um * grid.enlarge) / CELL), 1) * unit
    across = _spans(part.left, part.width, (part.left + origin[0]) % unit, unit, side)
    down = _spans(part.top, part.height, (part.top + origin[1]) % unit, unit, side)
    tiles = []
    for top, height in down:
        for left, width in across:
            core = Box(left, top, width, height)
            west, north = max(region.left, left - halo), max(region.top, top - halo)
            east, south = min(region.right, core.right + halo), min(region.bottom, core.bottom + halo)
            lead = (west + origin[0]) % unit, (north + origin[1]) % unit
            tiles.append(Tile(core, Box(west, north, east - west, south - north), lead))
    return tiles


def _spans(begin: int, length: int, lead: int, unit: int, side: float) -> list[tuple[int, int]]:
    """Return begin and length of equal pieces of about *side*, cut at multiples of *unit* after -*lead*."""
    number = max(1, math.ceil((lead + length) / side))
    step = max(unit, math.ceil((lead + length) / number / unit) * unit)
    cuts = [begin, *range(begin - lead + step, begin + length, step), begin + length]
    return [(first, last - first) for first, last in pairwise(cuts)]


@dataclass(frozen=True, slots=True)
class Survey:
    """What must be known of the whole region before its first tile is segmented."""

    grid: Grid
    #: None where there is no tissue, or nothing in it that stands out.
    threshold: Threshold | None
    #: Not a number where the threshold comes from outside: then nothing was looked at.
    tissue_um2: float
    #: Share of the region's area covered by ink and the like.
    ink: float
    #: Fields of the first tiles, by their box, to be used once.
    fields: dict[Box, Field]

    @property
    def told(self) -> bool:
        """Whether the threshold comes from outside."""
        return math.isnan(self.tissue_um2)


def survey(
    source: Source, tiles: Sequence[Tile], grid: Grid, given: Threshold | Nothing | float | None
) -> Survey:
    """Look at the tiles of a region.

    Parameters
    ----------
    given
        A threshold from outside, as it is or as a density that separates the classes.
    """
    if given == NOTHING or isinstance(given, Threshold):
        return Survey(grid, given if isinstance(given, Threshold) else None, math.nan, 0.0, {})
    spacing = max(1, math.ceil(len(tiles) / _SURVEYED))
    chosen = tiles[::spacing]
    fields: dict[Box, Field] = {}
    histogram, ink = Histogram(), 0.0
    for tile in chosen:
        field = look(source, tile, grid, histogram)
        ink += field.ink / len(chosen)
        if len(fields) < _KEPT:
            fields[tile.whole] = field
    return Survey(grid, histogram.threshold(given), histogram.tissue_um2 * spacing, ink, fields)


def look(source: Source, tile: Tile, grid: Grid, histogram: Histogram) -> Field:
    """Count a tile's core, but not its halo, in *histogram*, and return the tile's field."""
    field = field_of(_read(source, tile), grid)
    core, whole, (left, top) = tile.core, tile.whole, tile.lead
    histogram.add(field, left + core.left - whole.left, top + core.top - whole.top, core.width, core.height)
    return field


def nuclei_in(
    source: Source, tile: Tile, found: Survey, parameters: Parameters, mpp_um: float
) -> tuple[Bytes, Nuclei] | None:
    """Return a tile's pixels with halo, and the nuclei whose centre is in its core, or None without any."""
    if found.threshold is None:
        return None
    rgb = _read(source, tile)
    field = found.fields.pop(tile.whole, None) or field_of(rgb, found.grid)
    if not field.tissue.any():
        return None
    labels = segment(field, found.threshold, parameters, mpp_um, (rgb.shape[0], rgb.shape[1]))
    west, north = tile.lead
    rgb, labels = rgb[north:, west:], np.ascontiguousarray(labels[north:, west:])
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


def _read(source: Source, tile: Tile) -> Bytes:
    box, (left, top) = tile.whole, tile.lead
    rgb = source.read(box.left, box.top, box.width, box.height)
    if left or top:
        rgb = np.asarray(cv2.copyMakeBorder(rgb, top, 0, left, 0, cv2.BORDER_REPLICATE), np.uint8)
    return rgb
