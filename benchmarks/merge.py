"""Merging a million objects of 10 000 tiles: time, memory, and the same with one tree of all polygons.

``python -m benchmarks.merge [--tiles 100] [--objects 100]``. The parts are made first and not timed. Each way
runs in a process of its own, so that its peak of memory is its own. Nothing here is a test.

The comparison needs shapely. It does what peers do with tile results: read the polygons of all tiles, build
one STRtree, and of two that overlap by half or more keep the larger. It writes table and GeoJSON, no mask.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import shapely
from PIL import Image

from algorithms.nuclei.columns import COLUMNS
from dynsvc.descriptors import Outputs
from dynsvc.merge import Wanted, merge, part_of
from dynsvc.merge.parts import read_part
from dynsvc.merge.pixels import Pixels
from dynsvc.regions import Region
from dynsvc.tiles import Grid

ROOT = Path(__file__).resolve().parents[1]
TILE_PX, HALO_PX, MPP_UM = 512, 32, 0.5
OUTPUTS = Outputs(required=("*-seg.png",), mask="*-seg.png", table="*-features.csv")
WAYS = ("dynsvc", "strtree")


def outline(radius_px: float) -> np.ndarray:
    """Return the half-pixel outline of a disc, from its centre."""
    side = np.arange(-16, 17)
    disc = (side[:, None] ** 2 + side[None, :] ** 2 <= radius_px**2).astype(np.uint8)
    (ring,) = Pixels(-16, -16, disc.astype(bool)).rings()
    return ring


def make_parts(folder: Path, grid: Grid, objects: int) -> None:
    """Write the part of each tile: discs at random places of the plane, with 88 columns each."""
    rng = np.random.default_rng(6)
    shapes = [outline(radius) for radius in np.arange(5, 13, 0.5)]
    # One in each cell of a lattice, at random, without overlap.
    side = math.isqrt(objects)
    cell = TILE_PX / side
    if cell < 27:
        raise SystemExit(f"at most {int(TILE_PX / 27) ** 2} objects fit into a tile")
    centres: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for tile in grid.tiles():
        column, row = np.meshgrid(np.arange(side), np.arange(side))
        move = rng.uniform(13, cell - 13, (2, side, side))
        x = (tile.core.x_px + column * cell + move[0]).astype(int).ravel().tolist()
        y = (tile.core.y_px + row * cell + move[1]).astype(int).ravel().tolist()
        kind = rng.integers(0, len(shapes), side * side).tolist()
        # Some lie across the border: all are moved by half a cell.
        half = int(cell / 2)
        centres[tile.column, tile.row] = [
            (x - half, y - half, k)
            for x, y, k in zip(x, y, kind, strict=True)
            if x - half >= 13 and y - half >= 13
        ]
    numbers = ",".join(f"{n + 0.125:.6g}" for n in range(2, len(COLUMNS)))
    work = folder / "run"
    work.mkdir()
    for tile in grid.tiles():
        whole = tile.whole
        right, bottom = whole.x_px + whole.width_px, whole.y_px + whole.height_px
        mask = np.zeros((whole.height_px, whole.width_px), np.uint8)
        rows = [",".join(COLUMNS)]
        for down in (-1, 0, 1):
            for across in (-1, 0, 1):
                for x, y, kind in centres.get((tile.column + across, tile.row + down), ()):
                    # As an algorithm without cut objects: discs that fit into the picture.
                    if not (whole.x_px + 13 <= x < right - 13 and whole.y_px + 13 <= y < bottom - 13):
                        continue
                    words = ":".join(f"{v:g}" for v in (shapes[kind] + (x, y)).ravel().tolist())
                    rows.append(f"{400 + kind},{numbers},[{words}]")
                    mask[y - whole.y_px - 4 : y - whole.y_px + 5, x - whole.x_px - 4 : x - whole.x_px + 5] = 1
        files = {"t-seg.png": work / "t-seg.png", "t-features.csv": work / "t-features.csv"}
        Image.fromarray(mask).save(files["t-seg.png"], compress_level=1)
        files["t-features.csv"].write_text("\n".join([*rows, ""]))
        part_of(
            folder / f"{tile.row}-{tile.column}.part",
            grid=grid,
            tile=tile,
            files=files,
            outputs=OUTPUTS,
            algorithm="discs",
        )


def ours(folder: Path, grid: Grid, out: Path) -> int:
    paths = (folder / f"{tile.row}-{tile.column}.part" for tile in grid.tiles())
    wanted = Wanted(
        subject_id="s",
        case_id="c",
        analysis_id="a",
        slide_width_px=grid.width_px,
        slide_height_px=grid.height_px,
        mpp_um=MPP_UM,
        marks=False,
        region=Region(x_px=0, y_px=0, width_px=grid.width_px, height_px=grid.height_px),
    )
    return int(merge(out, paths, grid=grid, wanted=wanted).summary["objects"])


def strtree(folder: Path, grid: Grid, out: Path) -> int:
    """Merge with all polygons in one tree."""
    polygons, rows = [], []
    for tile in grid.tiles():
        part = read_part(folder / f"{tile.row}-{tile.column}.part")
        polygons += [shapely.Polygon(part.outlines[n]) for n in range(len(part.outlines))]
        rows += part.rows
    tree = shapely.STRtree(polygons)
    areas = shapely.area(polygons)
    every = np.array(polygons)
    kept = np.ones(len(every), bool)
    step = 100_000
    for begin in range(0, len(every), step):
        one, other = tree.query(every[begin : begin + step], predicate="intersects")
        one, distinct = one + begin, (one + begin) < other
        one, other = one[distinct], other[distinct]
        shared = shapely.area(shapely.intersection(every[one], every[other]))
        same = 2 * shared >= np.minimum(areas[one], areas[other])
        kept[np.where(areas[one] < areas[other], one, other)[same]] = False
    with (out / "t.csv").open("w") as table, (out / "t.geojson").open("w") as geojson:
        for number in np.flatnonzero(kept).tolist():
            points = shapely.get_coordinates(every[number])[:-1].ravel().tolist()
            table.write(f"{rows[number]},[{':'.join([f'{value:g}' for value in points])}]\n")
            geojson.write(shapely.to_geojson(every[number]) + "\n")
    return int(kept.sum())


def measure(way: str, folder: Path, grid: Grid) -> dict[str, float]:
    """Run one way in this process and return its figures."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        begin = time.perf_counter()
        objects = {"dynsvc": ours, "strtree": strtree}[way](folder, grid, Path(out))
        seconds = time.perf_counter() - begin
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "objects": objects,
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mib": used.ru_maxrss / 1024,
    }


def ratios(one: dict[str, float], other: dict[str, float]) -> str:
    """Return how many times as much *one* takes. On a busy machine the time of the CPU tells most."""
    pairs = (("seconds", "time"), ("cpu_seconds", "time of the CPU"), ("peak_mib", "memory"))
    return ", ".join(f"{one[key] / other[key]:.2f} x {word}" for key, word in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiles", type=int, default=100, help="tiles on a side of the larger plane")
    parser.add_argument("--objects", type=int, default=100, help="objects in each tile")
    parser.add_argument("--folder", type=Path, help="where parts are kept and found again")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        side = arguments.side
        grid = Grid(width_px=side * TILE_PX, height_px=side * TILE_PX, tile_px=TILE_PX, halo_px=HALO_PX)
        print(json.dumps(measure(arguments.way, arguments.folder, grid)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        figures: dict[tuple[str, int], dict[str, float]] = {}
        sides = (arguments.tiles // 2, arguments.tiles)
        for side in sides:
            grid = Grid(width_px=side * TILE_PX, height_px=side * TILE_PX, tile_px=TILE_PX, halo_px=HALO_PX)
            folder = (arguments.folder or Path(scratch)) / str(side)
            if not folder.exists():
                folder.mkdir(parents=True)
                make_parts(folder, grid, arguments.objects)
            for way in WAYS:
                command = [sys.executable, "-m", "benchmarks.merge", "--way", way, "--side", str(side)]
                done = subprocess.run(
                    [*command, "--folder", str(folder)], cwd=ROOT, check=True, stdout=subprocess.PIPE
                )
                found = figures[way, side] = json.loads(done.stdout)
                each = 1e6 * found["seconds"] / found["objects"]
                print(
                    f"{way:8} {side * side:6} tiles {found['objects']:8.0f} objects "
                    f"{found['seconds']:7.1f} s ({found['cpu_seconds']:.1f} s of CPU) "
                    f"{each:5.1f} us each {found['peak_mib']:6.0f} MiB",
                    flush=True,
                )
        small, large = sides
        for way in WAYS:
            a, b = figures[way, small], figures[way, large]
            print(f"{way}: {b['objects'] / a['objects']:.2f} x objects, {ratios(b, a)}")
        print(f"strtree / dynsvc: {ratios(figures['strtree', large], figures['dynsvc', large])}")


if __name__ == "__main__":
    main()
