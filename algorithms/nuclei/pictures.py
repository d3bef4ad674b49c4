"""Where pixels come from: a picture file, or a part of a slide. Both give 8-bit RGB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .failures import InputUnreadable

__all__ = ["MAX_PICTURE_PX", "Picture", "Slide", "Source", "opened"]

Bytes = NDArray[np.uint8]

#: A picture is held in memory as a whole, 3 bytes per pixel. Larger regions are read from slides, in tiles.
MAX_PICTURE_PX = 160_000_000
_STRIP_PX = 1280
# The limit above takes the place of Pillow's own, which only warns at first.
Image.MAX_IMAGE_PIXELS = None


class Source(Protocol):
    """A rectangle of pixels."""

    width_px: int
    height_px: int
    #: Micrometres per pixel as the file says, None where it says nothing.
    mpp_um: float | None

    def read(self, left: int, top: int, width: int, height: int) -> Bytes:
        """Return the pixels of a part that lies inside, shape (height, width, 3)."""
        ...


class Picture:
    """A picture in memory."""

    def __init__(self, rgb: Bytes) -> None:
        self.rgb = rgb
        self.height_px, self.width_px = rgb.shape[:2]
        self.mpp_um: float | None = None

    def read(self, left: int, top: int, width: int, height: int) -> Bytes:
        """Return a view of the picture."""
        return self.rgb[top : top + height, left : left + width]


class Slide:
    """Level 0 of a whole-slide image."""

    def __init__(self, slide: Any, name: str) -> None:
        self._slide, self._name = slide, name
        self.width_px, self.height_px = slide.dimensions
        self.mpp_um = _slide_mpp(slide.properties)

    def read(self, left: int, top: int, width: int, height: int) -> Bytes:
        """Decode a part of the slide. What was never scanned is white.

        Raises
        ------
        InputUnreadable
            The slide is damaged there.
        """
        rgb = np.empty((height, width, 3), np.uint8)
        # OpenSlide's four channels and Pillow's copy of them are held for one strip at a time.
        for first in range(0, height, _STRIP_PX):
            lines = min(_STRIP_PX, height - first)
            try:
                part = self._slide.read_region((left, top + first), 0, (width, lines))
            except Exception as error:
                if type(error).__module__.split(".")[0] != "openslide":
                    raise
                raise InputUnreadable(f"slide {self._name!r} is damaged: {error}") from error
            rgb[first : first + lines] = _on_white(part)
        return rgb


@contextmanager
def opened(path: Path, *, slide: bool) -> Iterator[Source]:
    """Open a picture, or a slide.

    Raises
    ------
    InputUnreadable
        The file cannot be read, is not complete, or is too large to be held as one picture.
    """
    if not slide:
        yield Picture(_decoded(path))
        return
    try:
        import openslide  # noqa: PLC0415 - only needed for slides, and slow to load
    except ImportError as error:
        raise InputUnreadable(f"slides need openslide-python, which is not installed: {error}") from error
    try:
        handle = openslide.OpenSlide(str(path))
    except (openslide.OpenSlideError, OSError) as error:
        raise InputUnreadable(
            f"slide {str(path)!r} cannot be opened: {error or type(error).__name__}"
        ) from error
    with handle:
        yield Slide(handle, str(path))


def _slide_mpp(properties: Any) -> float | None:
    try:
        values = [float(properties[f"openslide.mpp-{axis}"]) for axis in "xy"]
    except (KeyError, ValueError):
        return None
    return sum(values) / 2


def _decoded(path: Path) -> Bytes:
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_PICTURE_PX:
                raise InputUnreadable(
                    f"{str(path)!r} has {picture.width} x {picture.height} px, expected at most "
                    f"{MAX_PICTURE_PX} px in one picture (use -t onetile or -t wsi on the slide)"
                )
            picture.load()
            return _rgb(picture, path)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise InputUnreadable(f"{str(path)!r} cannot be read: {error}") from error


def _rgb(picture: Image.Image, path: Path) -> Bytes:
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        return _on_white(picture.convert("RGBA"))
    if picture.mode.startswith("I"):
        grey = np.asarray(picture)
        if grey.min() < 0 or grey.max() > 65535:
            raise InputUnreadable(f"{str(path)!r} has more than 16 bits per channel")
        high = (grey >> 8).astype(np.uint8)
        return np.repeat(high[..., None], 3, axis=2)
    if picture.mode == "F":
        raise InputUnreadable(f"{str(path)!r} has floating point pixels, expected 8 or 16 bits per channel")
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _on_white(picture: Image.Image) -> Bytes:
    if picture.getextrema()[-1] == (255, 255):
        return np.ascontiguousarray(np.asarray(picture)[..., :3])
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    white.alpha_composite(picture)
    return np.ascontiguousarray(np.asarray(white)[..., :3])
