"""Picture files: checked when they come in, written when they are put together."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from dynsvc.errors import PictureWrong, StorageUnavailable
from dynsvc.files import complete, write
from dynsvc.measured import Measured
from dynsvc.regions import Region
from dynsvc.slides import Picture

__all__ = ["Expected", "decoded", "outside", "usable_as_sent", "write_bytes", "write_png"]

_MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"}
#: What can be turned into RGB without a guess.
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"})
#: The marker behind a JPEG's pixels, which cannot be among them, and how much may follow it: line ends.
_JPEG_END, _BEHIND_BYTES = b"\xff\xd9", 16
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)


MediaType = Literal["image/jpeg", "image/png"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The picture that was asked for."""

    width_px: int
    height_px: int
    #: Whether one column or row may be missing: iipsrv crops at the slide's edge and rounds badly. The last
    #: one it sent is repeated then.
    may_be_narrow: bool = False
    may_be_low: bool = False
    #: Whether the server makes the picture smaller: then a column or row may be missing or one too many.
    scaled: bool = False

    def __str__(self) -> str:
        return f"a picture of {self.width_px} x {self.height_px} px"


def decoded(peer: str, body: bytes, expected: Expected) -> Image.Image:
    """Return the picture *body*, which *peer* sent, as RGB of exactly the size asked for.

    Raises
    ------
    PictureWrong
        No JPEG or PNG picture, a damaged one, or one of another size (permanent).
    """
    with _checked(peer, body, expected) as picture:
        return _padded(_on_white(picture), expected.width_px, expected.height_px)


def usable_as_sent(peer: str, body: bytes, expected: Expected) -> MediaType | None:
    """Return what *body* is if it holds the RGB pixels asked for, whole, and None if it must be decoded.

    A JPEG is whole with its end. What else could be wrong with it is left to who decodes it, as a decoder
    takes nearly every byte for a pixel; it takes a tenth of an order's time to find that out twice.

    Raises as :func:`decoded`.
    """
    with _checked(peer, body, expected) as picture:
        if picture.mode != "RGB" or picture.size != (expected.width_px, expected.height_px):
            return None
        if picture.format == "JPEG" and _JPEG_END in body[-len(_JPEG_END) - _BEHIND_BYTES :]:
            return "image/jpeg"
        # Everything is read. Of a JPEG only the brightness is made, in an eighth of the size.
        picture.draft("L", (1, 1))
        picture.load()
        return "image/jpeg" if picture.format == "JPEG" else "image/png"


@contextmanager
def _checked(peer: str, body: bytes, expected: Expected) -> Iterator[Image.Image]:
    """Open *body* and check its size and kind; errors of the block are those of a damaged picture."""
    kind = next((kind for magic, kind in _MAGIC.items() if body.startswith(magic)), None)
    if kind is None:
        raise PictureWrong(peer, _described(body[:256], len(body)), str(expected))
    try:
        with Image.open(io.BytesIO(body), formats=[kind]) as picture:
            narrow_px, low_px = expected.width_px - picture.width, expected.height_px - picture.height
            least_px = -1 if expected.scaled else 0
            if not (
                least_px <= narrow_px <= (expected.scaled or expected.may_be_narrow)
                and least_px <= low_px <= (expected.scaled or expected.may_be_low)
            ):
                raise PictureWrong(peer, f"a picture of {picture.width} x {picture.height} px", str(expected))
            if picture.mode not in _MODES:
                raise PictureWrong(
                    peer, f"a picture with pixels of kind {picture.mode}", f"{expected}, 8 bit"
                )
            yield picture
    except (OSError, SyntaxError, ValueError, *_TOO_LARGE) as error:
        raise PictureWrong(peer, f"a damaged {kind} picture ({error})", str(expected)) from error


def outside(peer: str, region: Region, width_px: int | None, height_px: int | None) -> PictureWrong | None:
    """Return the error for a *region* that is not inside a slide of the given size, or None."""
    if not width_px or not height_px:
        return None
    if region.x_px + region.width_px <= width_px and region.y_px + region.height_px <= height_px:
        return None
    return PictureWrong(
        peer, f"a slide of {width_px} x {height_px} px", f"one that holds the region {region}"
    )


def write_png(picture: Image.Image, path: Path) -> Picture:
    """Write *picture* without loss to *path*, which appears complete or not at all.

    Raises
    ------
    StorageUnavailable
        The file cannot be written (transient).
    """
    with (
        _disk_errors(path),
        complete(path, lasting=False, folder_too=False) as fd,
        os.fdopen(fd, "wb", closefd=False) as stream,
    ):
        # Higher levels cost several times as much and save a few percent.
        picture.save(stream, "PNG", compress_level=1)
    return Picture(path=path, media_type="image/png", width_px=picture.width, height_px=picture.height)


def write_bytes(body: bytes, path: Path) -> Measured:
    """Write *body* to *path*, as :func:`write_png` does, and measure it."""
    with _disk_errors(path), complete(path, lasting=False, folder_too=False) as fd:
        write(fd, body)
    return Measured.of(body)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(str(path.parent), f"{path.name}: {error.strerror or error}") from error


def _described(head: bytes, size_bytes: int) -> str:
    """Return what a body that is no picture looks like: usually it is an error text with status 200."""
    text = " ".join(re.sub(r"<[^>]*>", " ", head.decode("latin-1")).split())[:60]
    return f'no picture but "{text}"' if text and text.isprintable() else f"no picture but {size_bytes} bytes"


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        rgb = Image.new("RGB", picture.size, "white")
        rgb.paste(rgba, mask=rgba.getchannel("A"))
        return rgb
    picture.load()
    return picture.convert("RGB")


def _padded(picture: Image.Image, width_px: int, height_px: int) -> Image.Image:
    """Return *picture* cut to the given size, or with its last column and row repeated up to it."""
    if picture.size == (width_px, height_px):
        return picture
    wide = Image.new("RGB", (width_px, height_px))
    wide.paste(picture)
    if width_px > picture.width:
        wide.paste(wide.crop((picture.width - 1, 0, picture.width, height_px)), (picture.width, 0))
    if height_px > picture.height:
        wide.paste(wide.crop((0, picture.height - 1, width_px, picture.height)), (0, picture.height))
    return wide
