"""The files of one run: names, metadata and the archive. Every file appears complete or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .arguments import Request
from .failures import OutputFailed
from .tiles import Box

__all__ = ["Results", "algmeta", "prefix"]

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
#: A file name has 255 bytes at most; the prefix carries two ids and the longest ending has 13.
_ID_CHARACTERS = 80
#: The archive's only time stamp, the earliest that the format knows: the same content gives the same bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_COPIED_BYTES = 2**20
_PICTURES = (".png", ".jpg", ".tif")


def prefix(request: Request, mpp_um: float, x_px: int, y_px: int) -> str:
    """Return the first part of file names: ``<subject>.<case>_mpp_<mpp>_x<X>_y<Y>``, safe characters only.

    Parameters
    ----------
    x_px, y_px
        First pixel of the patch on the slide.
    """
    ids = ".".join(_UNSAFE.sub("_", text)[:_ID_CHARACTERS] for text in (request.subject_id, request.case_id))
    if ids[0] in ".-":
        ids = "_" + ids[1:]
    return f"{ids}_mpp_{mpp_um:.6g}_x{x_px}_y{y_px}"


def algmeta(
    request: Request, *, mpp_um: float, image_px: tuple[int, int], tile: Box, patch: Box
) -> dict[str, Any]:
    """Return the original's 25 metadata values, in its order.

    Parameters
    ----------
    image_px
        Width and height of the slide; of the picture where only a picture is known.
    tile, patch
        What was asked for, and the part of it that these files hold, in level-0 pixels.
    """
    parameters = request.parameters
    words = [word for word in ("mask", "img", "overlay") if word in request.levels]
    return {
        "input_type": request.input_type,
        "otsu_ratio": parameters.otsu_ratio,
        "curvature_weight": parameters.curvature_weight,
        "min_size": parameters.min_size_um2,
        "max_size": parameters.max_size_um2,
        "ms_kernel": parameters.kernel_px,
        "declump_type": parameters.declump,
        "levelset_num_iters": parameters.iterations,
        "mpp": mpp_um,
        "image_width": image_px[0],
        "image_height": image_px[1],
        "tile_minx": tile.left,
        "tile_miny": tile.top,
        "tile_width": tile.width,
        "tile_height": tile.height,
        "patch_minx": patch.left,
        "patch_miny": patch.top,
        "patch_width": patch.width,
        "patch_height": patch.height,
        "output_level": ":".join(words),
        "out_file_prefix": prefix(request, mpp_um, patch.left, patch.top),
        "subject_id": request.subject_id,
        "case_id": request.case_id,
        "analysis_id": request.analysis_id,
        "analysis_desc": request.description,
    }


class Results:
    """Writes files into the output folder and remembers their names."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise OutputFailed(f"output folder {str(folder)!r} does not exist")
        self.folder = folder
        self.names: list[str] = []

    def write(self, name: str, content: bytes | Iterable[bytes]) -> None:
        """Write one file, at once or piece by piece.

        Raises
        ------
        OutputFailed
            It cannot be written.
        """
        with _published(self.folder / name) as stream:
            stream.writelines([content] if isinstance(content, bytes) else content)
        self.names.append(name)

    def write_metadata(self, values: Mapping[str, Any]) -> None:
        """Write ``-algmeta.json`` on one line, as the loader reads it, and the same values as a table."""
        name = f"{values['out_file_prefix']}-algmeta"
        self.write(f"{name}.json", (json.dumps(dict(values)) + "\n").encode())
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([list(values), list(values.values())])
        self.write(f"{name}.csv", table.getvalue().encode())

    def archive(self, path: Path) -> None:
        """Put all files written so far into a new zip, by name and with a fixed time stamp."""
        with _published(path) as stream, zipfile.ZipFile(stream, "w") as archive:
            for name in sorted(self.names):
                file = self.folder / name
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.external_attr = 0o644 << 16
                entry.compress_type = zipfile.ZIP_STORED if name.endswith(_PICTURES) else zipfile.ZIP_DEFLATED
                entry._compresslevel = 1  # type: ignore[attr-defined]  # noqa: SLF001 - public from 3.13 on
                entry.file_size = file.stat().st_size
                with file.open("rb") as source, archive.open(entry, "w") as target:
                    shutil.copyfileobj(source, target, _COPIED_BYTES)


@contextmanager
def _published(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that appears when it is complete."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with hidden.open("wb") as stream:
                yield stream
            hidden.replace(path)
        finally:
            hidden.unlink(missing_ok=True)
    except OSError as error:
        raise OutputFailed(f"{str(path)!r} cannot be written: {error.strerror or error}") from error
