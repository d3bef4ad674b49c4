"""An algorithm that is local by construction: it looks up labels. With and without tiles it sees the same."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from algorithms.nuclei.polygons import doubled_polygons
from dynsvc.descriptors import Outputs
from dynsvc.merge import Counts, Merged, Wanted, merge, part_of
from dynsvc.merge.outlines import corners
from dynsvc.merge.pixels import rings_of
from dynsvc.regions import Region
from dynsvc.tiles import Grid, Tile

Labels = NDArray[np.int32]

#: Of the last column nobody knows how it is computed.
COLUMNS = (
    "AreaInPixels",
    "MajorAxis",
    "Eccentricity",
    "PhysicalSize",
    "NumberOfPixelsOnBorder",
    "MeanR",
    "Odd",
)
OUTPUTS = Outputs(
    required=("*-seg.png",), mask="*-seg.png", table="*-features.csv", metadata="*-algmeta.json"
)
MPP_UM = 0.5


def region(x: int, y: int, width: int, height: int) -> Region:
    return Region(x_px=x, y_px=y, width_px=width, height_px=height)


def objects_of(labels: Labels) -> Iterator[NDArray[np.bool_]]:
    """The connected pieces of each label, in a picture."""
    for label in np.unique(labels[labels > 0]).tolist():
        pieces, count = ndimage.label(labels == label, np.ones((3, 3)))
        for number in range(1, count + 1):
            yield pieces == number


def outline_of(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Rings in half pixels, the outer one first: OpenCV's tracing, and the original's corners."""
    framed = np.pad(mask, 1).astype(np.uint8)
    rings, levels = cv2.findContours(framed, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(-1, -1))
    order = sorted(range(len(rings)), key=lambda number: bool(levels[0][number][3] >= 0))
    return doubled_polygons([rings[number].reshape(-1, 2) for number in order])


def row_of(mask: NDArray[np.bool_], whole: Region) -> str:
    y, x = np.nonzero(mask)
    xx, yy, xy = x.var(), y.var(), ((x - x.mean()) * (y - y.mean())).mean()
    spread = np.sqrt((xx - yy) ** 2 + 4 * xy**2)
    major, minor = (np.sqrt(8 * max(xx + yy + 1 / 6 + sign * spread, 0)) for sign in (1, -1))
    border = ((x == 0) | (x == whole.width_px - 1) | (y == 0) | (y == whole.height_px - 1)).sum()
    eccentricity = np.sqrt(max(1 - (minor / major) ** 2, 0))
    values = (x.size, major, eccentricity, x.size * MPP_UM**2, border, 120, 7)
    doubled = np.concatenate(outline_of(mask)) + 2 * np.array([whole.x_px, whole.y_px])
    numbers = ":".join(f"{value / 2:.10g}" for value in doubled.ravel().tolist())
    return ",".join([*(f"{value:.6g}" for value in values), f"[{numbers}]"])


def run(labels: Labels, whole: Region, folder: Path) -> dict[str, Path]:
    """Write what the algorithm finds in one picture."""
    folder.mkdir(exist_ok=True)
    seen = labels[whole.y_px : whole.y_px + whole.height_px, whole.x_px : whole.x_px + whole.width_px]
    files = {"t-seg.png": folder / "t-seg.png"}
    Image.fromarray((seen > 0).astype(np.uint8)).save(files["t-seg.png"])
    if rows := [row_of(mask, whole) for mask in objects_of(seen)]:
        files |= {name: folder / name for name in ("t-features.csv", "t-algmeta.json")}
        files["t-features.csv"].write_text("\n".join([",".join((*COLUMNS, "Polygon")), *rows, ""]))
        metadata = {"input_type": "img", "otsu_ratio": 1, "mpp": MPP_UM, "image_width": 3, "case_id": "?"}
        files["t-algmeta.json"].write_text(json.dumps(metadata) + "\n")
    return files


def part(labels: Labels, grid: Grid, tile: Tile, folder: Path) -> tuple[Path, Counts]:
    """Run the algorithm on one tile."""
    files = run(labels, tile.whole, folder / "run")
    path = folder / f"{tile.row:03}-{tile.column:03}.part"
    counts = part_of(path, grid=grid, tile=tile, files=files, outputs=OUTPUTS, algorithm="lookup")
    return path, counts


def parts(labels: Labels, grid: Grid, folder: Path, without: Collection[Tile] = ()) -> list[Path]:
    """Run the algorithm on every tile but some; the parts in grid order."""
    return [part(labels, grid, tile, folder)[0] for tile in grid.tiles() if tile not in without]


def wanted(grid: Grid, **more: Any) -> Wanted:
    """What an order of the whole slide wants."""
    width, height = round(grid.width_px * grid.scale), round(grid.height_px * grid.scale)
    values = {
        "subject_id": "subject 1",
        "case_id": "case/1",
        "analysis_id": "run:1",
        "description": "test",
        "slide_width_px": width,
        "slide_height_px": height,
        "mpp_um": MPP_UM / grid.scale,
        "region": region(0, 0, width, height),
    }
    return Wanted(**(values | more))


def merged(labels: Labels, grid: Grid, folder: Path, **more: Any) -> Merged:
    """Run the algorithm on every tile, and merge."""
    out = folder / "merged"
    out.mkdir()
    return merge(out, parts(labels, grid, folder), grid=grid, wanted=wanted(grid, **more))


def file(result: Merged, ending: str) -> Path:
    """The one file with that ending."""
    (path,) = (path for name, path in result.files.items() if name.endswith(ending))
    return path


def rows(table: Path | None) -> list[dict[str, str]]:
    if table is None:
        return []
    with table.open(newline="") as stream:
        return list(csv.DictReader(stream))


def points(row: dict[str, str]) -> NDArray[np.float64]:
    return np.array([float(word) for word in row["Polygon"][1:-1].split(":")]).reshape(-1, 2)


def canonical(row: dict[str, str]) -> frozenset[tuple[float, ...]]:
    """An outline in a form that does not depend on where rings begin and which comes first."""
    forms = set()
    for ring in rings_of(points(row), float(row["AreaInPixels"])):
        places = [tuple(place) for place in corners(ring).tolist()]
        first = places.index(min(places))
        ahead = places[first:] + places[:first]
        forms.add(min(tuple(sum(way, ())) for way in (ahead, [ahead[0], *ahead[:0:-1]])))
    return frozenset(forms)


def outlines(table: Path | None) -> Counter[frozenset[tuple[float, ...]]]:
    """How often a table has each outline."""
    return Counter(canonical(row) for row in rows(table))
