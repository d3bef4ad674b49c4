"""Picture files: checked when they come in, written when they are put together."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from dynsvc.errors import PictureWrong, StorageUnavailable
from dynsvc.regions import Region
from dynsvc.slides import Picture

__all__ = ["Decoded", "decoded", "outside", "write_png"]

_MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"}
#: What can be turned into RGB without a guess.
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"})
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture that was received."""

    #: RGB, completely decoded, of exactly the size that was asked for.
    picture: Image.Image
    media_type: Literal["image/jpeg", "image/png"]
    #: Whether the file holds these very pixels.
    unchanged: bool


def decoded(
    peer: str,
    path: Path,
    width_px: int,
    height_px: int,
    *,
    may_be_narrow: bool = False,
    may_be_low: bool = False,
    scaled: bool = False,
) -> Decoded:
    """Return the picture in the file *path*, which *peer* sent, as RGB of exactly the size asked for.

    Parameters
    ----------
    width_px, height_px
        What was asked for.
    may_be_narrow, may_be_low
        Whether one column or row may be missing: iipsrv crops at the slide's edge and rounds badly. The last
        one it sent is repeated then.
    scaled
        Whether the server made the picture smaller: then a column or row may be missing or one too many.

    Raises
    ------
    PictureWrong
        No JPEG or PNG picture, a damaged one, or one of another size (permanent).
    """
    expected = f"a picture of {width_px} x {height_px} px"
    with path.open("rb") as file:
        head = file.read(256)
    kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
    if kind is None:
        raise PictureWrong(peer, _described(head, path.stat().st_size), expected)
    try:
        with Image.open(path, formats=[kind]) as picture:
            narrow_px, low_px = width_px - picture.width, height_px - picture.height
            least_px = -1 if scaled else 0
            if not (
                least_px <= narrow_px <= (scaled or may_be_narrow)
                and least_px <= low_px <= (scaled or may_be_low)
            ):
                raise PictureWrong(peer, f"a picture of {picture.width} x {picture.height} px", expected)
            if picture.mode not in _MODES:
                raise PictureWrong(
                    peer, f"a picture with pixels of kind {picture.mode}", f"{expected}, 8 bit"
                )
            unchanged = picture.mode == "RGB" and picture.size == (width_px, height_px)
            rgb = _on_white(picture)
    except (OSError, SyntaxError, ValueError, *_TOO_LARGE) as error:
        raise PictureWrong(peer, f"a damaged {kind} picture ({error})", expected) from error
    return Decoded(
        picture=_padded(rgb, width_px, height_px),
        media_type="image/jpeg" if kind == "JPEG" else "image/png",
        unchanged=unchanged,
    )


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
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        try:
            # Higher levels cost several times as much and save a few percent.
            picture.save(part, "PNG", compress_level=1)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise StorageUnavailable(str(path.parent), f"{path.name}: {error.strerror or error}") from error
    return Picture(path=path, media_type="image/png", width_px=picture.width, height_px=picture.height)


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
