"""Where pixels come from: a picture file, or a part of a slide. Both give 8-bit RGB.

A small picture is held in memory. A large one is decoded once, some rows at a time, into a file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .failures import InputUnreadable
from .raster import Raster
from .strips import StripReader

__all__ = ["MAX_PICTURE_PX", "Picture", "Slide", "Source", "opened"]

Bytes = NDArray[np.uint8]

#: A PNG with 8 bits and plain rows is decoded in strips. Others are decoded at once, with this many pixels at
#: most: libraries hold 4 bytes for each of a JPEG, 15 of a WebP, and some 8 of a progressive JPEG or a TIFF.
MAX_PICTURE_PX = 1_000_000_000
_WHOLE_PX, _OTHER_WHOLE_PX = {"JPEG": 48_000_000, "WEBP": 12_000_000}, 24_000_000
_SMALL_PX = 16_000_000
#: The longest side that a JPEG can have.
_MAX_SIDE_PX = 65_500
#: So many rows of a slide are read at once, and of a picture converted.
_SLIDE_STRIP_PX, _STRIP_PX = 1280, 256
# The limits above take the place of Pillow's own, which only warns at first.
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing lies outside memory."""

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
        for first in range(0, height, _SLIDE_STRIP_PX):
            lines = min(_SLIDE_STRIP_PX, height - first)
            try:
                part = self._slide.read_region((left, top + first), 0, (width, lines))
            except Exception as error:
                if type(error).__module__.split(".")[0] != "openslide":
                    raise
                raise InputUnreadable(f"slide {self._name!r} is damaged: {error}") from error
            rgb[first : first + lines] = _on_white(part)
        return rgb


@contextmanager
def opened(path: Path, *, slide: bool, folder: Path | None = None) -> Iterator[Source]:
    """Open a picture, or a slide.

    Parameters
    ----------
    folder
        Where pixels may lie that are too many for memory; by default where temporary files do.

    Raises
    ------
    InputUnreadable
        The file cannot be read, is not complete, or is too large to be decoded.
    OutputFailed
        The folder has no room for the pixels.
    """
    if not slide:
        with _decoded(path, folder or Path(tempfile.gettempdir())) as source:
            yield source
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


def _decoded(path: Path, folder: Path) -> Picture | Raster:
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            small = width * height <= _SMALL_PX
            reader = None if small else StripReader.of(path)
            _check_size(path, picture, whole=reader is None)
            if small:
                return Picture(_rgb(picture, path))
            strips = _strips(picture) if reader is None else reader
            return _filed((_rgb(strip, path) for strip in strips), (height, width, 3), folder)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise InputUnreadable(f"{str(path)!r} cannot be read: {error}") from error


def _check_size(path: Path, picture: Image.Image, *, whole: bool) -> None:
    """Refuse what would take too much memory, and say what helps."""
    most, hint = MAX_PICTURE_PX, ""
    if whole:
        kind = "" if "progressive" in picture.info else picture.format or ""
        most = _WHOLE_PX.get(kind, _OTHER_WHOLE_PX)
        hint = " as a PNG with 8 bits per channel, not interlaced, or"
    if picture.width * picture.height > most or max(picture.size) > _MAX_SIDE_PX:
        raise InputUnreadable(
            f"{str(path)!r} has {picture.width} x {picture.height} px, expected at most {most} px and "
            f"{_MAX_SIDE_PX} px on a side (give it{hint} as a slide; use -t onetile or -t wsi)"
        )


def _strips(picture: Image.Image) -> Iterator[Image.Image]:
    """Return parts of a picture that was decoded as a whole: fewer pixels are converted at once."""
    picture.load()
    for top in range(0, picture.height, _STRIP_PX):
        yield picture.crop((0, top, picture.width, min(top + _STRIP_PX, picture.height)))


def _filed(parts: Iterable[Bytes], shape: tuple[int, ...], folder: Path) -> Raster:
    """Put the parts of a picture one below the other."""
    pixels = Raster(shape, np.uint8, folder)
    top = 0
    try:
        for part in parts:
            pixels.write(0, top, part)
            top += part.shape[0]
    except BaseException:
        pixels.close()
        raise
    return pixels


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
