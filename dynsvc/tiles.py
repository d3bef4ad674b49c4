"""How a slide is cut into tiles, and which tile an object belongs to.

The grid depends on the slide and the algorithm alone, never on the region: two orders on one slide that
overlap have tiles in common. It lies on the *working plane*: the slide at the algorithm's resolution, whose
pixels are ``scale`` level-0 pixels wide. Coordinates of objects are those that ``mainSegmentFeatures``
writes: the centre of the plane's first pixel is at (0, 0).

A tile has a core and, around it, a halo. Cores cover the plane without overlap. An object belongs to the tile
in whose core its centroid lies; on the line between two cores it belongs to the right or lower one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field

from dynsvc.regions import Region

__all__ = ["Grid", "Tile"]


class Tile(BaseModel):
    """One tile, in pixels of the working plane."""

    model_config = ConfigDict(frozen=True)

    column: int
    row: int
    core: Region
    #: Core and halo, as far as they lie on the plane.
    whole: Region

    def __str__(self) -> str:
        return f"{self.column},{self.row}"

    @property
    def domain(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of where centroids belong to this tile; the last two are outside.

        Beyond an edge where the halo ends with the plane there is no other tile: what lies there is its own.
        """
        core, whole = self.core, self.whole
        right, bottom = core.x_px + core.width_px, core.y_px + core.height_px
        return (
            -math.inf if core.x_px == whole.x_px else core.x_px - 0.5,
            -math.inf if core.y_px == whole.y_px else core.y_px - 0.5,
            math.inf if right == whole.x_px + whole.width_px else right - 0.5,
            math.inf if bottom == whole.y_px + whole.height_px else bottom - 0.5,
        )

    def owns(self, x: float, y: float) -> bool:
        """Say whether an object with its centroid at (*x*, *y*) belongs to this tile."""
        left, top, right, bottom = self.domain
        return left <= x < right and top <= y < bottom


class Grid(BaseModel):
    """The tiles of one slide for one algorithm."""

    model_config = ConfigDict(frozen=True)

    #: Size of the working plane.
    width_px: int = Field(ge=1)
    height_px: int = Field(ge=1)
    #: Side of a core, and width of the halo.
    tile_px: int = Field(ge=1)
    halo_px: int = Field(ge=0)
    #: Level-0 pixels in a pixel of the plane, to each side.
    scale: float = Field(1.0, gt=0)

    @classmethod
    def over(
        cls, slide_width_px: int, slide_height_px: int, *, tile_px: int, halo_px: int, scale: float
    ) -> Grid:
        """Return the grid over a slide whose level 0 has the given size."""
        return cls(
            width_px=max(1, math.ceil(slide_width_px / scale - 1e-9)),
            height_px=max(1, math.ceil(slide_height_px / scale - 1e-9)),
            tile_px=tile_px,
            halo_px=halo_px,
            scale=scale,
        )

    @property
    def columns(self) -> int:
        """Number of tiles in a row."""
        return math.ceil(self.width_px / self.tile_px)

    @property
    def rows(self) -> int:
        """Number of tiles in a column."""
        return math.ceil(self.height_px / self.tile_px)

    def tile(self, column: int, row: int) -> Tile:
        """Return the tile at that place of the grid."""
        left, top = column * self.tile_px, row * self.tile_px
        right, bottom = min(left + self.tile_px, self.width_px), min(top + self.tile_px, self.height_px)
        west, north = max(0, left - self.halo_px), max(0, top - self.halo_px)
        east, south = min(self.width_px, right + self.halo_px), min(self.height_px, bottom + self.halo_px)
        return Tile(
            column=column,
            row=row,
            core=Region(x_px=left, y_px=top, width_px=right - left, height_px=bottom - top),
            whole=Region(x_px=west, y_px=north, width_px=east - west, height_px=south - north),
        )

    def tiles(self, region: Region | None = None) -> Iterator[Tile]:
        """Yield the tiles whose core meets *region* (pixels of the plane; None: everything), row by row."""
        first_column = first_row = 0
        last_column, last_row = self.columns - 1, self.rows - 1
        if region is not None:
            first_column, first_row = region.x_px // self.tile_px, region.y_px // self.tile_px
            last_column = min(last_column, (region.x_px + region.width_px - 1) // self.tile_px)
            last_row = min(last_row, (region.y_px + region.height_px - 1) // self.tile_px)
        for row in range(first_row, last_row + 1):
            for column in range(first_column, last_column + 1):
                yield self.tile(column, row)

    def plane(self, region: Region) -> Region:
        """Return the pixels of the plane that a region of level 0 touches."""
        left, top = math.floor(region.x_px / self.scale), math.floor(region.y_px / self.scale)
        right = min(self.width_px, math.ceil((region.x_px + region.width_px) / self.scale - 1e-9))
        bottom = min(self.height_px, math.ceil((region.y_px + region.height_px) / self.scale - 1e-9))
        return Region(x_px=left, y_px=top, width_px=max(1, right - left), height_px=max(1, bottom - top))

    def level0(self, region: Region, slide_width_px: int, slide_height_px: int) -> Region:
        """Return the level-0 pixels of a region of the plane."""
        left, top = round(region.x_px * self.scale), round(region.y_px * self.scale)
        right = min(slide_width_px, round((region.x_px + region.width_px) * self.scale))
        bottom = min(slide_height_px, round((region.y_px + region.height_px) * self.scale))
        return Region(x_px=left, y_px=top, width_px=max(1, right - left), height_px=max(1, bottom - top))
