"""What an IIIF image server says of an image, and how a region is cut into requests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from dynsvc.records import whole_px
from dynsvc.regions import Region

__all__ = ["Information", "pieces"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Information:
    """The part of an info.json that matters here. Unknown is None."""

    width_px: int | None = None
    height_px: int | None = None
    #: Longest side that the server sends without making the picture smaller.
    longest_px: int | None = None

    @classmethod
    def from_document(cls, document: object) -> Information:
        """Read an info.json of version 2 or 3; oss-lite writes its numbers as texts."""
        if not isinstance(document, dict):
            return cls()
        width_px, height_px = whole_px(document.get("width")), whole_px(document.get("height"))
        profile = document.get("profile")
        limits = (
            [document, *(part for part in profile if isinstance(part, dict))]
            if isinstance(profile, list)
            else [document]
        )
        sides: list[int] = []
        for limit in limits:
            sides += [side for name in ("maxWidth", "maxHeight") if (side := whole_px(limit.get(name)))]
            if area_px := limit.get("maxArea"):
                sides += [math.isqrt(area_px)] if isinstance(area_px, int) and area_px > 0 else []
        known = width_px is not None and height_px is not None
        return cls(
            width_px=width_px if known else None,
            height_px=height_px if known else None,
            longest_px=min(sides, default=None),
        )


def pieces(region: Region, side_px: int) -> Iterator[Region]:
    """Yield the fewest regions of sides up to *side_px* that cover *region* once, all about equally large."""
    columns, rows = -(-region.width_px // side_px), -(-region.height_px // side_px)
    for row in range(rows):
        top, bottom = region.height_px * row // rows, region.height_px * (row + 1) // rows
        for column in range(columns):
            left, right = region.width_px * column // columns, region.width_px * (column + 1) // columns
            yield Region(
                x_px=region.x_px + left, y_px=region.y_px + top, width_px=right - left, height_px=bottom - top
            )
