"""The part of a merge that comes from one tile: what must be known of it, in one small file.

A part depends on the slide, the algorithm and the tile, never on the region that was ordered, so that other
orders on the slide can use it again. Coordinates are pixels of the working plane.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dynsvc import algmeta, archive
from dynsvc.descriptors import Outputs
from dynsvc.errors import ArtifactCorrupt, OutputMissing, OutputRefused
from dynsvc.merge.outlines import Outlines
from dynsvc.outputs import ResultFile
from dynsvc.tiles import Grid, Tile

__all__ = ["Counts", "Kind", "Part", "part_of", "read_part"]

_VERSION: Final = 1
_POLYGON: Final = "Polygon"
#: Coordinates of six digits may be off by half of the last one.
_SIX_DIGITS = 1e-5
_OBJECT = np.dtype([("kind", "u1"), ("vertices", "<u4"), ("x", "<f8"), ("y", "<f8"), ("area_px", "<f8")])


class Kind(IntEnum):
    """What a tile knows of an object."""

    #: Its own, complete, and inside its core.
    INNER = 0
    #: Its own, complete, and reaching over the border of its core.
    OWN = 1
    #: Complete and reaching into its core, with the centroid in another tile's.
    FOREIGN = 2
    #: At an edge of the tile's picture behind which the slide goes on.
    CUT = 3


@dataclass(frozen=True, slots=True)
class Counts:
    """What one part holds."""

    #: Objects of each kind.
    inner: int
    own: int
    foreign: int
    cut: int
    #: Objects that only other tiles have to know of.
    left_out: int

    @property
    def owned(self) -> int:
        """Objects that this tile contributes for certain."""
        return self.inner + self.own


@dataclass(frozen=True, slots=True)
class Part:
    """A part, read again."""

    tile: Tile
    #: Header of the table without its last column; empty where the tile has no table.
    columns: tuple[str, ...]
    #: The metadata document, or None.
    metadata: str | None
    #: Of each object the row without its outline, as the algorithm wrote it.
    rows: list[str]
    outlines: Outlines
    kind: NDArray[np.uint8]
    #: Centroids: shape (objects, 2).
    centroids: NDArray[np.float64]
    #: In pixels of the plane.
    areas_px: NDArray[np.float64]
    #: Numbers of the objects whose outline may have several rings.
    several: tuple[int, ...]
    #: The mask of the core: shape (height, width).
    core: NDArray[np.bool_]


def part_of(
    path: Path,
    *,
    grid: Grid,
    tile: Tile,
    files: Mapping[str, Path | ResultFile],
    outputs: Outputs,
    algorithm: str,
) -> Counts:
    """Write the part of one tile to the new file *path*. No file after an error; same input, same bytes.

    Parameters
    ----------
    grid, tile
        Of the slide; the algorithm has seen the picture of the tile's ``whole``.
    files
        What the run wrote, by name; checked for links and limits by the caller.
    outputs
        Which of them are the mask, the table and the metadata.
    algorithm
        Its name, for the errors.

    Raises
    ------
    OutputMissing
        There is no mask (permanent).
    OutputRefused
        The mask has another size than the tile, or the table cannot be read or lies elsewhere (permanent).
    StorageUnavailable
        The part cannot be written (transient).
    """
    mask = _mask(tile, files, outputs, algorithm)
    columns: tuple[str, ...] = ()
    rows: list[bytes] = []
    rings: list[bytes] = []
    for name in outputs.tables_of(files):
        found = _read_table(_content(files[name]), rows, rings, algorithm=algorithm, name=name)
        if columns not in ((), found):
            raise OutputRefused(algorithm, name, "its columns are not those of the table before")
        columns = found
    try:
        outlines = Outlines.parsed(rings)
    except ValueError as error:
        raise OutputRefused(algorithm, _names(outputs.tables_of(files)), str(error)) from error
    boxes, centroids = outlines.boxes(), outlines.centroids()
    _check_place(tile, boxes, outputs.tables_of(files), algorithm)
    kind = _kinds(grid, tile, boxes, centroids)
    keep = kind <= Kind.CUT
    numbers = np.flatnonzero(keep).tolist()
    areas = _areas(columns, rows, outlines)
    outlines = outlines.taken(keep)
    objects = np.zeros(len(numbers), _OBJECT)
    objects["kind"], objects["vertices"], objects["area_px"] = kind[keep], outlines.lengths, areas[keep]
    objects["x"], objects["y"] = centroids[keep].T
    core, whole = tile.core, tile.whole
    left, top = core.x_px - whole.x_px, core.y_px - whole.y_px
    vertices = _packed(outlines.points, tile)
    counts = np.bincount(kind, minlength=5).tolist()
    header = {
        "version": _VERSION,
        "tile": tile.model_dump(),
        "columns": columns,
        "metadata": _metadata(files, outputs),
        "vertices": vertices.dtype.str,
        "several": outlines.several().tolist(),
    }
    archive.build(
        path,
        {
            "part.json": json.dumps(header).encode(),
            "rows": b"\n".join(rows[number] for number in numbers),
            "objects": objects.tobytes(),
            "vertices": vertices.tobytes(),
            "core": np.packbits(mask[top : top + core.height_px, left : left + core.width_px]).tobytes(),
        },
    )
    return Counts(*counts)


def read_part(path: Path) -> Part:
    """Read a part again.

    Raises
    ------
    ArtifactCorrupt
        The file is no part of this version (permanent).
    """
    try:
        with zipfile.ZipFile(path) as packed:
            header: dict[str, Any] = json.loads(packed.read("part.json"))
            if header["version"] != _VERSION:
                raise ArtifactCorrupt(path.name, f"version {header['version']}", f"version {_VERSION}")
            rows = packed.read("rows").decode("utf-8", "surrogateescape")
            objects = np.frombuffer(packed.read("objects"), _OBJECT)
            vertices = np.frombuffer(packed.read("vertices"), header["vertices"]).reshape(-1, 2)
            bits = np.frombuffer(packed.read("core"), np.uint8)
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, KeyError, EOFError) as error:
        raise ArtifactCorrupt(path.name, f"{type(error).__name__}: {error}", "the part of a tile") from error
    tile = Tile.model_validate(header["tile"])
    points = vertices
    if vertices.dtype != np.float64:
        points = vertices / 2 + (tile.whole.x_px, tile.whole.y_px)
    core = tile.core
    mask = np.unpackbits(bits, count=core.width_px * core.height_px).view(bool)
    return Part(
        tile=tile,
        columns=tuple(header["columns"]),
        metadata=header["metadata"],
        rows=rows.split("\n") if objects.size else [],
        outlines=Outlines(points, np.concatenate([[0], np.cumsum(objects["vertices"], dtype=np.intp)])),
        kind=objects["kind"],
        centroids=np.stack([objects["x"], objects["y"]], axis=1),
        areas_px=objects["area_px"],
        several=tuple(header["several"]),
        core=mask.reshape(core.height_px, core.width_px),
    )


def _mask(
    tile: Tile, files: Mapping[str, Path | ResultFile], outputs: Outputs, algorithm: str
) -> NDArray[np.bool_]:
    names = outputs.masks_of(files)
    if len(names) != 1:
        raise OutputMissing(algorithm, f"one mask {outputs.mask or ''}".strip(), _names(names) or "none")
    try:
        with Image.open(io.BytesIO(_content(files[names[0]]))) as picture:
            size, mask = picture.size, np.asarray(picture)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise OutputRefused(algorithm, names[0], f"it is no mask ({error})") from error
    if size != (tile.whole.width_px, tile.whole.height_px):
        expected = f"the tile has {tile.whole.width_px} x {tile.whole.height_px}"
        raise OutputRefused(algorithm, names[0], f"a mask of {size[0]} x {size[1]} px, where {expected}")
    return np.asarray(mask.any(axis=2) if mask.ndim == 3 else mask != 0)


def _read_table(
    content: bytes, rows: list[bytes], rings: list[bytes], *, algorithm: str, name: str
) -> tuple[str, ...]:
    """Add the rows of one table to *rows* and *rings*; return its columns without the last."""
    lines = content.replace(b"\r\n", b"\n").split(b"\n")
    header = tuple(column.strip() for column in lines[0].decode("utf-8", "replace").split(","))
    if header[-1] != _POLYGON:
        raise OutputRefused(algorithm, name, f"its last column is not {_POLYGON}")
    commas = len(header) - 2
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        numbers, _, ring = line.rpartition(b",")
        ring = ring.strip()
        if numbers.count(b",") != commas or ring[:1] != b"[" or ring[-1:] != b"]":
            raise OutputRefused(algorithm, name, f"line {number} is no row of {len(header)} columns")
        rows.append(numbers)
        rings.append(ring[1:-1])
    return header[:-1]


def _kinds(
    grid: Grid, tile: Tile, boxes: NDArray[np.float64], centroids: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Return the kind of each object; 4 for those that only other tiles have to know of."""
    whole = tile.whole
    left, top, right, bottom = boxes.T
    west, north, east, south = tile.domain
    x, y = centroids.T
    # An outline may end at the centres of a picture's last pixels, or half a pixel outside.
    last_x, last_y = whole.x_px + whole.width_px - 1, whole.y_px + whole.height_px - 1
    cut = (left <= whole.x_px) & (whole.x_px > 0)
    cut |= (top <= whole.y_px) & (whole.y_px > 0)
    cut |= (right >= last_x) & (last_x + 1 < grid.width_px)
    cut |= (bottom >= last_y) & (last_y + 1 < grid.height_px)
    owned = (west <= x) & (x < east) & (north <= y) & (y < south)
    inside = (west <= left) & (right <= east) & (north <= top) & (bottom <= south)
    reaches = (west < right) & (left < east) & (north < bottom) & (top < south)
    return np.select(
        [cut & reaches, cut, owned & inside, owned, reaches],
        [Kind.CUT, 4, Kind.INNER, Kind.OWN, Kind.FOREIGN],
        4,
    ).astype(np.uint8)


def _check_place(tile: Tile, boxes: NDArray[np.float64], tables: Sequence[str], algorithm: str) -> None:
    """Refuse outlines that do not lie on the tile: then the algorithm counts from another origin."""
    if not len(boxes):
        return
    whole = tile.whole
    last_x, last_y = whole.x_px + whole.width_px - 1, whole.y_px + whole.height_px - 1
    left, top = boxes[:, :2].min(axis=0)
    right, bottom = boxes[:, 2:].max(axis=0)
    slack = 1 + _SIX_DIGITS * max(last_x, last_y)
    if min(left - whole.x_px, top - whole.y_px) < -slack or max(right - last_x, bottom - last_y) > slack:
        found = f"outlines between {left:g},{top:g} and {right:g},{bottom:g}"
        raise OutputRefused(algorithm, _names(tables), f"{found}, outside of the tile {whole}")


def _areas(columns: Sequence[str], rows: Sequence[bytes], outlines: Outlines) -> NDArray[np.float64]:
    if "AreaInPixels" not in columns:
        return outlines.areas()
    at = columns.index("AreaInPixels")
    try:
        areas = np.array([float(row.split(b",", at + 1)[at]) for row in rows])
    except ValueError:
        return outlines.areas()
    return np.where(np.isfinite(areas), areas, outlines.areas()) if len(areas) else areas


def _metadata(files: Mapping[str, Path | ResultFile], outputs: Outputs) -> str | None:
    for name in outputs.metadata_of(files):
        if not name.endswith(".csv"):
            content = _content(files[name])
            try:
                content = algmeta.corrected(content, image_width_px=None, image_height_px=None, mpp_um=None)
            except ValueError:
                continue
            return content.decode("utf-8", "replace")
    return None


def _packed(points: NDArray[np.float64], tile: Tile) -> NDArray[Any]:
    """Return vertices as small whole numbers where they lie in the middle of pixels and sides."""
    doubled = 2 * (points - (tile.whole.x_px, tile.whole.y_px))
    if (doubled != np.rint(doubled)).any():
        return points.astype("<f8")
    small = abs(doubled).max(initial=0) < 2**15
    return doubled.astype("<i2" if small else "<i4")


def _content(file: Path | ResultFile) -> bytes:
    with file.open("rb") if isinstance(file, Path) else file.open() as stream:
        return stream.read()


def _names(names: Sequence[str]) -> str:
    return ", ".join(names)
