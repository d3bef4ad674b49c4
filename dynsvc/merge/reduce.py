"""The parts of all tiles become one result. Parts are read one after the other; only borders are kept."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from dynsvc.algmeta import KEYS
from dynsvc.errors import StorageUnavailable
from dynsvc.merge.batches import Batch, Words
from dynsvc.merge.camicroscope import Marks, heatmap
from dynsvc.merge.density import Density, overview
from dynsvc.merge.geojson import GeoJson
from dynsvc.merge.joining import Borders
from dynsvc.merge.mask import MaskPyramid
from dynsvc.merge.parts import Part, read_part
from dynsvc.regions import Region
from dynsvc.tiles import Grid, Tile

__all__ = ["Merged", "Wanted", "merge"]

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
#: A file name has 255 bytes at most.
_ID_CHARACTERS = 80


class Wanted(BaseModel):
    """What the result is about: the slide, the ordered part of it, and the names that files carry."""

    model_config = ConfigDict(frozen=True)

    subject_id: str
    case_id: str
    analysis_id: str
    description: str = ""
    slide_width_px: int
    slide_height_px: int
    #: Micrometres per pixel of level 0; None where it is unknown.
    mpp_um: float | None
    #: In level-0 pixels. An object counts if its centroid lies inside.
    region: Region
    #: Corners in level-0 pixels; narrows the region down.
    polygon: tuple[tuple[float, float], ...] = ()
    #: Class of the objects, for QuPath.
    label: str = "Nucleus"
    #: Of the slide in caMicroscope 3: 24 hexadecimal digits, or the number of a PathDB node.
    slide_id: str = ""
    #: Whether to write marks, one document for each object.
    marks: bool = True

    @property
    def prefix(self) -> str:
        """First part of all file names: the original's, without its random number."""
        ids = ".".join(_UNSAFE.sub("_", text)[:_ID_CHARACTERS] for text in (self.subject_id, self.case_id))
        if ids[0] in ".-":
            ids = "_" + ids[1:]
        mpp = "unknown" if self.mpp_um is None else f"{self.mpp_um:.6g}"
        return f"{ids}_mpp_{mpp}_x{self.region.x_px}_y{self.region.y_px}"

    def holds(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Say which points of level 0 lie in the region; at the slide's far edges the edge belongs to it."""
        region = self.region
        right, bottom = region.x_px + region.width_px, region.y_px + region.height_px
        inside = (x >= region.x_px) & (y >= region.y_px)
        inside &= (x < right) | (right >= self.slide_width_px)
        inside &= (y < bottom) | (bottom >= self.slide_height_px)
        if self.polygon:
            inside &= _in_polygon(self.polygon, x, y)
        return inside


@dataclass(frozen=True, slots=True)
class Merged:
    """The files of one result, and what is in them."""

    #: By name; all lie in the folder that was given.
    files: dict[str, Path]
    #: ``objects``, ``joined``, ``dropped``, ``area_um2``, ``tiles``, ``holes``.
    summary: dict[str, Any]


def merge(
    folder: Path,
    parts: Iterable[Path],
    *,
    grid: Grid,
    wanted: Wanted,
    holes: Collection[Tile] = (),
    thumbnail: Path | None = None,
) -> Merged:
    """Write one result from the parts of its tiles.

    Memory holds one part, the border objects of a few rows of tiles, and one row of the mask.

    Parameters
    ----------
    folder
        Exists; gets the files.
    parts
        Of the tiles that were run, in the order of :meth:`dynsvc.tiles.Grid.tiles`. Each is read once, before
        the next is asked for.
    grid
        Of the slide and the algorithm.
    wanted
        What was ordered.
    holes
        Tiles that should have been run and failed. What lies in their cores is not in the result.
    thumbnail
        A picture of the whole slide, to draw the overview on.

    Raises
    ------
    ArtifactCorrupt
        A part is none (permanent).
    StorageUnavailable
        The files cannot be written (transient).
    ValueError
        The parts are not in order, or their tables differ: an error in the calling program.
    """
    try:
        with ExitStack() as stack:
            work = _Work(folder, grid, wanted, stack)
            for path in parts:
                work.add(read_part(path))
            return work.end(holes, thumbnail)
    except OSError as error:
        raise StorageUnavailable(
            str(folder), f"the merged result cannot be written ({error.strerror})"
        ) from error


class _Work:
    def __init__(self, folder: Path, grid: Grid, wanted: Wanted, stack: ExitStack) -> None:
        self._folder, self._grid, self._wanted = folder, grid, wanted
        self._plane = grid.plane(wanted.region)
        self._mask = stack.enter_context(MaskPyramid(folder, self._plane.width_px, self._plane.height_px))
        prefix = wanted.prefix
        self._names = {
            kind: f"{prefix}{ending}"
            for kind, ending in (
                ("table", "-features.csv"),
                ("metadata", "-algmeta.json"),
                ("metadata_table", "-algmeta.csv"),
                ("mask", "-seg.ome.tif"),
                ("geojson", ".geojson"),
                ("lines", ".geojsonl"),
                ("overview", "-overview.png"),
                ("heatmap", "-heatmap.json"),
            )
        }
        self._table = stack.enter_context(self._path("table").open("wb"))
        self._geojson = GeoJson(
            self._path("geojson"), self._path("lines"), scale=grid.scale, label=wanted.label
        )
        stack.callback(self._geojson.close)
        self._words = Words(grid.scale, (grid.scale - 1) / 2, "%.10g")
        width_px, height_px = wanted.slide_width_px, wanted.slide_height_px
        self._density = Density(width_px, height_px, wanted.mpp_um)
        self._image = {
            "slide": wanted.slide_id or wanted.case_id,
            "subject_id": wanted.subject_id,
            "case_id": wanted.case_id,
        }
        analysis = {"source": "computer", "computation": "segmentation", "execution_id": wanted.analysis_id}
        self._marks = Marks(
            folder,
            prefix,
            provenance={"image": self._image, "analysis": analysis},
            scale=grid.scale,
            width_px=width_px,
            height_px=height_px,
        )
        self._borders = Borders(grid)
        self._columns: tuple[str, ...] = ()
        self._metadata: dict[str, Any] = {}
        self._last: tuple[int, int] = (-1, -1)
        self._objects = self._tiles = 0
        self._area_px = 0.0

    def add(self, part: Part) -> None:
        tile = part.tile
        if (tile.row, tile.column) <= self._last:
            raise ValueError(f"tile {tile} comes after {self._last[1]},{self._last[0]}")
        if tile.row > self._last[0] >= 0:
            for row in range(self._last[0], tile.row):
                self._emit(Batch.settled(list(self._borders.after_row(row))))
            self._mask.complete_above(tile.core.y_px - self._plane.y_px)
        self._last = (tile.row, tile.column)
        self._tiles += 1
        if part.columns and part.columns != self._columns:
            if self._columns:
                raise ValueError(f"the table of tile {tile} has other columns than those before")
            self._columns = part.columns
            self._table.write((",".join((*part.columns, "Polygon")) + "\n").encode())
        if not self._metadata and part.metadata:
            self._metadata = json.loads(part.metadata)
        self._mask.paste(tile.core.x_px - self._plane.x_px, tile.core.y_px - self._plane.y_px, part.core)
        self._borders.add(part)
        self._emit(Batch.inner(part))

    def end(self, holes: Collection[Tile], thumbnail: Path | None) -> Merged:
        self._emit(Batch.settled(list(self._borders.end())))
        self._table.close()
        self._geojson.close()
        self._marks.close()
        overview(self._density, thumbnail).save(self._path("overview"))
        execution_id = f"{self._wanted.analysis_id} density"
        self._path("heatmap").write_text(heatmap(self._density, self._image, execution_id), encoding="ascii")
        wanted, scale = self._wanted, self._grid.scale
        mpp_um = None if wanted.mpp_um is None else wanted.mpp_um * scale
        self._mask.write(self._path("mask"), mpp_um=mpp_um, x_px=self._plane.x_px, y_px=self._plane.y_px)
        names = ["mask", "geojson", "lines", "overview", "heatmap"]
        if self._objects:
            self._write_metadata()
            names += ["table", "metadata", "metadata_table"]
        else:
            # As the original: no table says that nothing was found.
            self._path("table").unlink()
        summary = {
            "objects": self._objects,
            "joined": self._borders.joined,
            "dropped": self._borders.dropped,
            "area_um2": None if mpp_um is None else float(f"{self._area_px * mpp_um**2:.6g}"),
            "tiles": self._tiles,
            "holes": sorted([tile.column, tile.row] for tile in holes),
        }
        files = {self._names[kind]: self._path(kind) for kind in names}
        return Merged(files | {path.name: path for path in self._marks.paths}, summary)

    def _path(self, kind: str) -> Path:
        return self._folder / self._names[kind]

    def _emit(self, batch: Batch) -> None:
        if not len(batch):
            return
        level0 = (batch.centroids + 0.5) * self._grid.scale
        inside = self._wanted.holds(level0[:, 0], level0[:, 1])
        batch, level0 = batch.taken(inside), level0[inside]
        words = self._words.of(batch.outlines.points.ravel().tolist())
        bounds = (2 * batch.outlines.starts).tolist()
        lines = [
            f"{row},[{':'.join(words[begin:end])}]\n"
            for row, begin, end in zip(batch.rows, bounds, bounds[1:], strict=False)
        ]
        self._table.write("".join(lines).encode("utf-8", "surrogateescape"))
        self._geojson.add(batch, self._columns)
        if self._wanted.marks:
            self._marks.add(batch, self._columns)
        self._density.add(level0[:, 0], level0[:, 1], batch.areas_px * self._grid.scale**2)
        self._objects += len(batch)
        self._area_px += float(batch.areas_px.sum())

    def _write_metadata(self) -> None:
        wanted, region = self._wanted, self._wanted.region
        whole = (region.width_px, region.height_px) == (wanted.slide_width_px, wanted.slide_height_px)
        right: dict[str, Any] = {
            "input_type": "wsi" if whole else "onetile",
            "mpp": wanted.mpp_um,
            "image_width": wanted.slide_width_px,
            "image_height": wanted.slide_height_px,
            "out_file_prefix": wanted.prefix,
            "subject_id": wanted.subject_id,
            "case_id": wanted.case_id,
            "analysis_id": wanted.analysis_id,
            "analysis_desc": wanted.description,
        }
        for part in ("tile", "patch"):
            right |= {
                f"{part}_minx": region.x_px,
                f"{part}_miny": region.y_px,
                f"{part}_width": region.width_px,
                f"{part}_height": region.height_px,
            }
        told = self._metadata | right
        if told["mpp"] is None:
            # The loader's parser takes no null there.
            told["mpp"] = self._metadata.get("mpp") or 0
        values = {key: told[key] for key in (*KEYS, *told) if key in told}
        self._path("metadata").write_text(json.dumps(values) + "\n", encoding="utf-8")
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([list(values), list(values.values())])
        self._path("metadata_table").write_text(table.getvalue(), encoding="utf-8")


def _in_polygon(
    polygon: Sequence[tuple[float, float]], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.bool_]:
    inside = np.zeros(x.shape, bool)
    for (x1, y1), (x2, y2) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        if y1 == y2:
            continue
        crosses = (y1 <= y) != (y2 <= y)
        inside ^= crosses & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return inside
