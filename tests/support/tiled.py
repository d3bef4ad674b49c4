"""An algorithm that is local by construction: it looks up labels. With and without tiles it sees the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from algorithms.nuclei.polygons import doubled_polygons
from dynsvc.descriptors import Outputs
from dynsvc.merge import part_of
from dynsvc.regions import Region
from dynsvc.tiles import Grid, Tile

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


def objects_of(labels: NDArray[np.int32]) -> Iterator[NDArray[np.bool_]]:
    """The connected pieces of each label, in a picture."""
    for label in np.unique(labels[labels > 0]).tolist():
        pieces, count = ndimage.label(labels == label, np.ones((3, 3)))
        for number in range(1, count + 1):
            yield pieces == number


def outline_of(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Rings in half pixels, the outer one first."""
    # Framed, since OpenCV leaves out what touches the edge of some pictures.
    framed = np.pad(mask, 1).astype(np.uint8)
    rings, levels = cv2.findContours(framed, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(-1, -1))
    order = sorted(range(len(rings)), key=lambda number: levels[0][number][3] >= 0)
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


def run(labels: NDArray[np.int32], whole: Region, folder: Path) -> dict[str, Path]:
    """Write what the algorithm finds in one picture."""
    folder.mkdir(exist_ok=True)
    seen = labels[whole.y_px : whole.y_px + whole.height_px, whole.x_px : whole.x_px + whole.width_px]
    Image.fromarray((seen > 0).astype(np.uint8)).save(folder / "t-seg.png")
    files = {"t-seg.png": folder / "t-seg.png"}
    if rows := [row_of(mask, whole) for mask in objects_of(seen)]:
        files["t-features.csv"] = folder / "t-features.csv"
        files["t-features.csv"].write_text("\n".join([",".join((*COLUMNS, "Polygon")), *rows, ""]))
        files["t-algmeta.json"] = folder / "t-algmeta.json"
        files["t-algmeta.json"].write_text(
            json.dumps({"input_type": "img", "otsu_ratio": 1, "mpp": MPP_UM, "case_id": "?"}) + "\n"
        )
    return files


def parts_of(
    labels: NDArray[np.int32], grid: Grid, folder: Path, *, without: set[Tile] = frozenset()
) -> list[Path]:  # type: ignore[assignment]
    """Run the algorithm on every tile and return the parts in grid order."""
    paths = []
    for tile in grid.tiles():
        if tile in without:
            continue
        files = run(labels, tile.whole, folder / "out")
        path = folder / f"{tile}.part"
        part_of(path, grid=grid, tile=tile, files=files, outputs=OUTPUTS, algorithm="lookup")
        paths.append(path)
        for file in files.values():
            file.unlink()
    return paths
