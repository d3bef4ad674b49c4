"""Which tiles a region is done in: the grid, and those of its tiles that have tissue."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import structlog
from PIL import Image

from dynsvc.algorithms import Algorithm
from dynsvc.errors import PeerRefused, PictureWrong, SlideSizeUnknown
from dynsvc.messages import Message, Plan, Tiles
from dynsvc.orders import Order
from dynsvc.regions import Region
from dynsvc.slides import Slide
from dynsvc.steps import REGION_FETCHED, Attempt, Ports, artifact_key, disk_errors, planned, workspace
from dynsvc.tiles import Grid, Tile
from dynsvc.wholeslide.tissue import TissueMask

__all__ = ["grid_of", "plan_tiles"]

log = structlog.get_logger(__name__)

#: Longer side of the slide made small. A nucleus still darkens a pixel of it on the largest slides.
_THUMBNAIL_PX: Final = 2048
#: Scales this close to a whole number are meant to be one: mpp is written with few digits.
_WHOLE: Final = 0.02


def grid_of(
    algorithm: Algorithm, order: Order, slide: Slide, region: Region, *, mpp_um: float, one_piece_px: int
) -> Grid | None:
    """Return the grid for *region*, or None where it is taken in one piece.

    Parameters
    ----------
    region
        Level-0 pixels.
    mpp_um
        Of level 0.
    one_piece_px
        Regions of up to so many level-0 pixels are taken in one piece; polygons and whole slides are not,
        unless they fit into one tile.

    Raises
    ------
    SlideSizeUnknown
        Tiles are needed, and nobody knows where the slide ends (permanent).
    """
    tile_px = algorithm.input.tile_px
    if tile_px is None:
        return None
    whole = order.roi.kind in ("full", "square", "polygon")
    if not whole and region.width_px * region.height_px <= one_piece_px:
        return None
    scale = _scale(algorithm.input.mpp, mpp_um)
    if max(region.width_px, region.height_px) <= tile_px * scale and not order.roi.outline:
        return None
    if slide.width_px is None or slide.height_px is None:
        raise SlideSizeUnknown(str(order.roi))
    return Grid.over(
        slide.width_px, slide.height_px, tile_px=tile_px, halo_px=algorithm.input.halo_px, scale=scale
    )


def _scale(wanted_um: float | None, mpp_um: float) -> float:
    """Return how many level-0 pixels make a pixel as the algorithm wants it; slides are never enlarged."""
    scale = max(1.0, (wanted_um or mpp_um) / mpp_um)
    return float(round(scale)) if abs(scale - round(scale)) <= _WHOLE * round(scale) else scale


def plan_tiles(message: Message, ports: Ports, attempt: Attempt) -> Tiles:
    """Choose the tiles of an order, and store their list and the slide made small."""
    plan = planned(message)
    grid, slide = plan.grid, plan.slide
    assert grid is not None and slide.width_px and slide.height_px  # noqa: S101, PT018 - fetch_order saw to it
    with workspace(ports, message) as folder, disk_errors(folder):
        thumbnail, scale = _thumbnail(ports, slide, folder)
        chosen, empty, tissue = _chosen(plan, grid, thumbnail, scale)
        listing = folder / "tiles.json"
        listing.write_text(json.dumps([[tile.column, tile.row] for tile in chosen]))
        tiles = Tiles(
            listing=ports.artifacts.put(listing, artifact_key(message, "tiles.json")),
            count=len(chosen),
            empty=empty,
            thumbnail=ports.artifacts.put(thumbnail, artifact_key(message, "thumbnail.png")),
            thumbnail_scale=scale,
            tissue=tissue,
        )
    at = "" if math.isclose(grid.scale, 1) else f" at {plan.mpp_um * grid.scale:.4g} um/px"
    size = f"{grid.tile_px} px and a halo of {grid.halo_px} px{at}"
    skipped = f", {empty} without tissue left out ({tissue})" if plan.order.tissue else ""
    attempt.report(REGION_FETCHED, f"{plan.order.roi} in {len(chosen)} tiles of {size}{skipped}")
    return tiles


def _thumbnail(ports: Ports, slide: Slide, folder: Path) -> tuple[Path, float]:
    """Write the slide made small, and return it with the level-0 pixels in one of its pixels."""
    width_px, height_px = slide.width_px or 1, slide.height_px or 1
    scale = max(1.0, max(width_px, height_px) / _THUMBNAIL_PX)
    size_px = max(1, round(width_px / scale)), max(1, round(height_px / scale))
    whole = Region(x_px=0, y_px=0, width_px=width_px, height_px=height_px)
    try:
        picture = ports.source(slide).fetch(slide, whole, folder, "thumbnail", size_px=size_px)
    except (PeerRefused, PictureWrong) as error:
        # Old image servers have no smaller sizes. All tiles are run then.
        log.warning("no small picture of the slide", slide=slide.location, error=str(error))
        Image.new("RGB", (1, 1)).save(folder / "thumbnail.png")
        return folder / "thumbnail.png", float(max(width_px, height_px))
    if picture.suffix == ".png":
        return picture.path, scale
    path = folder / "thumbnail.png"
    with Image.open(picture.path) as opened:
        opened.convert("RGB").save(path)
    return path, scale


def _chosen(plan: Plan, grid: Grid, thumbnail: Path, scale: float) -> tuple[list[Tile], int, str]:
    slide = plan.slide
    with Image.open(thumbnail) as opened:
        mask = TissueMask.of(np.asarray(opened.convert("RGB")), scale)
    inside = [tile for tile in grid.tiles(grid.plane(plan.region)) if _reaches(plan, grid, tile)]
    if not plan.order.tissue:
        return inside, 0, "not looked for"
    level0 = [grid.level0(tile.core, slide.width_px or 1, slide.height_px or 1) for tile in inside]
    chosen = [tile for tile, core in zip(inside, level0, strict=True) if mask.meets(core)]
    # One at least: the result of a region without tissue is an empty one, as the algorithm writes it.
    chosen = chosen or inside[:1]
    return chosen, len(inside) - len(chosen), str(mask)


def _reaches(plan: Plan, grid: Grid, tile: Tile) -> bool:
    """Say whether the core of *tile* may hold a point of the ordered polygon."""
    outline = plan.order.roi.outline
    if not outline:
        return True
    core = tile.core
    left, top = core.x_px * grid.scale, core.y_px * grid.scale
    right, bottom = left + core.width_px * grid.scale, top + core.height_px * grid.scale
    corners = list(outline)
    for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if _crosses((x1, y1), (x2, y2), (left, top, right, bottom)):
            return True
    return _inside(corners, left, top)


def _crosses(
    begin: tuple[float, float], end: tuple[float, float], box: tuple[float, float, float, float]
) -> bool:
    """Say whether a line has a point in the box left, top, right, bottom (Liang and Barsky 1984)."""
    first, last = 0.0, 1.0
    for axis in (0, 1):
        step, low, high = end[axis] - begin[axis], box[axis] - begin[axis], box[axis + 2] - begin[axis]
        if step == 0:
            if not low <= 0 <= high:
                return False
            continue
        entry, leaving = sorted((low / step, high / step))
        first, last = max(first, entry), min(last, leaving)
    return first <= last


def _inside(corners: Sequence[tuple[float, float]], x: float, y: float) -> bool:
    """Say whether a point lies in a polygon, by the even-odd rule."""
    inside = False
    for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
            inside = not inside
    return inside
