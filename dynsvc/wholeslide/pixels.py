"""The pixels of a region of the working plane."""

from __future__ import annotations

from pathlib import Path

from dynsvc.messages import Plan
from dynsvc.regions import Region
from dynsvc.slides import Picture
from dynsvc.steps import Ports

__all__ = ["picture_of", "scale_of"]


def scale_of(plan: Plan) -> float:
    """Return how many level-0 pixels make a pixel of the working plane."""
    return plan.grid.scale if plan.grid else 1.0


def picture_of(ports: Ports, plan: Plan, region: Region, folder: Path, stem: str) -> Picture:
    """Write the picture of a region of the working plane, one pixel each. Errors as in ImageSource."""
    grid, slide = plan.grid, plan.slide
    assert grid is not None and slide.width_px and slide.height_px  # noqa: S101, PT018 - there are tiles
    level0 = grid.level0(region, slide.width_px, slide.height_px)
    size_px = (region.width_px, region.height_px)
    return ports.source(slide).fetch(slide, level0, folder, stem, size_px=size_px)
