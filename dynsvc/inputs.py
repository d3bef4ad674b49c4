"""The input folder of a run: the picture as the algorithm wants it, and the JSON files beside it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, JpegImagePlugin, PngImagePlugin

from dynsvc.commands import Placeholders, filled
from dynsvc.descriptors import Algorithm
from dynsvc.errors import PictureWrong

__all__ = ["place"]

_FORMATS = {".png": "png", ".jpg": "jpeg"}
_CM_UM = 1e4


def place(
    algorithm: Algorithm,
    picture: Path,
    input_dir: Path,
    placeholders: Placeholders,
    values: Mapping[str, str],
    *,
    link: bool = True,
) -> Path:
    """Put into *input_dir* what *algorithm* reads, and return the picture's path there.

    Parameters
    ----------
    algorithm
        Its descriptor says format, name and further files.
    picture
        The region as it was fetched, PNG or JPEG, outside of *input_dir*.
    input_dir
        Empty.
    placeholders, values
        For the further files; *values* come from :func:`dynsvc.parameters.fill`.
    link
        Whether the algorithm may get *picture* itself by another name, and not a copy: it may change what it
        gets.

    Raises
    ------
    PictureWrong
        The picture cannot be converted (permanent).
    OSError
        The disk is full or away.
    """
    declared = algorithm.input
    name = declared.file_name(picture.suffix)
    target = input_dir / name
    if "/" in name:
        target.parent.mkdir(parents=True, exist_ok=True)
    if declared.format in ("any", _FORMATS.get(picture.suffix)):
        if not (link and _linked(picture, target)):
            shutil.copyfile(picture, target)
    else:
        _convert(picture, target, declared.format, placeholders.mpp)
    for name, content in declared.files.items():
        path = input_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(filled(content, placeholders, algorithm.parameters, values), indent=1))
    return target


def _linked(picture: Path, target: Path) -> bool:
    try:
        os.link(picture, target)
    except OSError:  # no links on this file system
        return False
    return True


def _convert(picture: Path, target: Path, wanted: str, mpp_um: float) -> None:
    # Opened by class: the size was checked when the region was ordered, so Pillow's own limit has no say.
    kind = PngImagePlugin.PngImageFile if picture.suffix == ".png" else JpegImagePlugin.JpegImageFile
    per_cm = _CM_UM / mpp_um
    try:
        with kind(picture) as opened:
            rgb: Image.Image = opened if opened.mode == "RGB" else opened.convert("RGB")
            if wanted == "tiff":
                rgb.save(
                    target, "TIFF", compression="tiff_deflate", x_resolution=per_cm, y_resolution=per_cm,
                    resolution_unit=3,
                )  # fmt: skip
            elif wanted == "jpeg":
                rgb.save(target, "JPEG", quality=95, subsampling=0)
            else:
                rgb.save(target, "PNG", compress_level=1)
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk, not the picture
        raise PictureWrong("the artifact store", f"a damaged picture ({error})", "PNG or JPEG") from error
