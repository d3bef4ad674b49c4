"""Areas of a slide in level-0 pixels: origin top left, x to the right, y down."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from dynsvc.errors import RegionOutsideSlide, RegionTooLarge, SlideSizeUnknown

__all__ = ["Region", "RegionRequest", "Resolved", "check_size", "resolve"]


class Region(BaseModel):
    """A rectangle of at least one pixel in level-0 pixels."""

    model_config = ConfigDict(frozen=True)

    x_px: int = Field(ge=0)
    y_px: int = Field(ge=0)
    width_px: int = Field(ge=1)
    height_px: int = Field(ge=1)

    def __str__(self) -> str:
        return f"{self.x_px},{self.y_px},{self.width_px},{self.height_px}"


class RegionRequest(BaseModel):
    """What an order asks for, before the slide's size is known."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    #: ``pixels``: the numbers are level-0 pixels. ``pct``: percent of the slide; otherwise unused.
    #: ``polygon``: the numbers are the box around *outline*.
    kind: Literal["pixels", "pct", "full", "square", "polygon"]
    x: float = 0
    y: float = 0
    width: float = 0
    height: float = 0
    #: Corners in level-0 pixels, from a pixel's corner; the line from the last to the first closes it.
    outline: tuple[tuple[float, float], ...] = ()

    @classmethod
    def within(cls, outline: tuple[tuple[float, float], ...]) -> RegionRequest:
        """Return the request for the inside of a polygon."""
        left, top = (min(corner[axis] for corner in outline) for axis in (0, 1))
        right, bottom = (max(corner[axis] for corner in outline) for axis in (0, 1))
        x, y = math.floor(left), math.floor(top)
        width, height = max(1, math.ceil(right) - x), max(1, math.ceil(bottom) - y)
        return cls(kind="polygon", x=x, y=y, width=width, height=height, outline=outline)

    def __str__(self) -> str:
        if self.kind in ("full", "square"):
            return self.kind
        numbers = ",".join(f"{number:.12g}" for number in (self.x, self.y, self.width, self.height))
        if self.kind == "polygon":
            return f"polygon of {len(self.outline)} corners in {numbers}"
        return numbers if self.kind == "pixels" else f"pct:{numbers}"


class Resolved(NamedTuple):
    """A region on the slide, and whether it is smaller than what was asked for."""

    region: Region
    clipped: bool


def resolve(request: RegionRequest, slide_width_px: int | None, slide_height_px: int | None) -> Resolved:
    """Return the pixels that *request* means on a slide.

    Parameters
    ----------
    request
        As ordered; it may reach beyond the slide's edges.
    slide_width_px, slide_height_px
        Size of level 0. With an unknown size, pixels are clipped only at 0.

    Raises
    ------
    RegionOutsideSlide
        Nothing of the region lies on the slide (permanent).
    SlideSizeUnknown
        The request is relative to a size that nobody knows (permanent).
    """
    if request.kind in ("pixels", "polygon"):
        x, width, x_clipped = _pixels(request.x, request.width, slide_width_px)
        y, height, y_clipped = _pixels(request.y, request.height, slide_height_px)
    elif slide_width_px is None or slide_height_px is None:
        raise SlideSizeUnknown(str(request))
    elif request.kind == "pct":
        x, width, x_clipped = _percent(request.x, request.width, slide_width_px)
        y, height, y_clipped = _percent(request.y, request.height, slide_height_px)
    else:
        width, height = slide_width_px, slide_height_px
        if request.kind == "square":
            width = height = min(width, height)
        x, y = (slide_width_px - width) // 2, (slide_height_px - height) // 2
        x_clipped = y_clipped = False
    if width < 1 or height < 1:
        raise RegionOutsideSlide(str(request), slide_width_px, slide_height_px)
    region = Region(x_px=x, y_px=y, width_px=width, height_px=height)
    return Resolved(region, x_clipped or y_clipped)


def check_size(region: Region, limit_px: int) -> None:
    """Refuse a region of more than *limit_px* pixels.

    Raises
    ------
    RegionTooLarge
        Width times height is above the limit (permanent).
    """
    if region.width_px * region.height_px > limit_px:
        raise RegionTooLarge(region.width_px, region.height_px, limit_px)


def _half_up(number: float) -> int:
    # As the viewer rounds. Not floor(number + 0.5): that sum is inexact just below one half.
    whole = math.floor(number)
    return whole + 1 if number - whole >= 0.5 else whole


def _pixels(start: float, length: float, slide_px: int | None) -> tuple[int, int, bool]:
    """Return start and length inside ``0 … slide_px``, and whether they were clipped.

    A length below 1 means that nothing is left.
    """
    first = _half_up(start)
    end = first + _half_up(length)
    kept_first = max(0, first)
    kept_end = end if slide_px is None else min(end, slide_px)
    return kept_first, kept_end - kept_first, (kept_first, kept_end) != (first, end)


def _percent(start: float, length: float, slide_px: int) -> tuple[int, int, bool]:
    """Do the same for a span in percent of *slide_px*.

    Both edges are rounded, so that neighbours share an edge. What touches the slide has at least one pixel.
    """
    kept_start, kept_end = max(0.0, start), min(100.0, start + length)
    clipped = kept_start != start or kept_end != start + length
    if kept_start >= kept_end:
        return 0, 0, clipped
    first = min(_half_up(slide_px * kept_start / 100), slide_px - 1)
    end = max(_half_up(slide_px * kept_end / 100), first + 1)
    return first, end - first, clipped
