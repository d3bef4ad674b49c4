"""Slides and pictures: the values that sources, the locator and the pipeline exchange."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from dynsvc.measured import Measured

__all__ = ["Picture", "Slide"]


class Slide(BaseModel):
    """A whole-slide image and what is known of it. Unknown is None, never a guess."""

    model_config = ConfigDict(frozen=True)

    case_id: str
    #: ``iiif``: *location* is the path at the image server. ``file``: an absolute path on the worker.
    origin: Literal["iiif", "file"]
    location: str
    #: Size of level 0.
    width_px: int | None = None
    height_px: int | None = None
    #: Micrometres per pixel of level 0 (mean of both axes).
    mpp_um: float | None = None


class Picture(BaseModel):
    """The pixels of one region, as a file. Decoded: ``(height_px, width_px, 3)``, uint8, RGB."""

    model_config = ConfigDict(frozen=True)

    path: Path
    media_type: Literal["image/jpeg", "image/png"]
    width_px: int
    height_px: int
    #: What the file is, where that was measured while it was written.
    measured: Measured | None = None

    @property
    def suffix(self) -> str:
        """The file name's ending for this media type."""
        return ".jpg" if self.media_type == "image/jpeg" else ".png"
