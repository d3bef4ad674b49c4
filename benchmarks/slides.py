"""Whole slides: workers added, a region beside a slide, the broker's memory, tiles of several sizes.

The big slide has 100,000 x 80,000 px: the same tile again and again, written by this script. The program of
the first parts does nothing but wait and copy a mask, so that what is measured is the fan-out. The last part
runs the nucleus segmentation on a real slide, where one is given, with tiles of several sizes.
"""

from __future__ import annotations

import statistics
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from benchmarks.report import arguments, machine, table, written
from dynsvc.kue import connect
from dynsvc.settings import RedisServer
from dynsvc.traces import Traces
from tests.support.hospital import SLIDE, Hospital, eventually
from tests.support.orders import v4
from tests.support.redis import RedisProcess

__all__ = ["main"]

NAME = "slides"
WIDTH_PX, HEIGHT_PX = 100_000, 80_000
_TILE_PX = 512

_WAITING = """
schema = 1
name = "waiting"
title = "Waits, and finds nothing"
version = "1"
command = ["waiting", "{{output_dir}}", "{{width}}x{{height}}"]
default_mpp = 0.25
[input]
format = "any"
tile_px = {tile_px}
halo_px = 64
[limits]
memory_mib = 16
cpus = 0.05
[outputs]
required = ["*-seg.png"]
mask = "*-seg.png"
"""


def write_big_slide(path: Path) -> None:
    """Write a pyramid whose tiles are all alike: 30,000 times the same bytes."""
    y, x = np.mgrid[0:_TILE_PX, 0:_TILE_PX]
    rgb = np.full((_TILE_PX, _TILE_PX, 3), (235, 205, 220), np.uint8)
    rgb[((x % 64 - 32) ** 2 + (y % 64 - 32) ** 2) < 100] = (90, 50, 130)
    body = zlib.compress(rgb.tobytes(), 1)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level in range(4):
            shape = (HEIGHT_PX >> 2 * level, WIDTH_PX >> 2 * level, 3)
            count = -(-shape[0] // _TILE_PX) * -(-shape[1] // _TILE_PX)
            tiff.write(
                (body for _ in range(count)),
                shape=shape,
                dtype=np.uint8,
                tile=(_TILE_PX, _TILE_PX),
                photometric="rgb",
                compression="deflate",
                subfiletype=int(level > 0),
                resolution=(40_000, 40_000),
                resolutionunit="CENTIMETER",
            )


@contextmanager
def hospital(slide: Path) -> Iterator[Hospital]:
    redis = RedisProcess()
    redis.start()
    try:
        with Hospital(redis, None, slide.parents[2]) as site:
            yield site
    finally:
        redis.close()


def install(site: Hospital, tile_px: int, seconds: float) -> dict[str, str]:
    folder = site.folder / "algorithms" / "waiting"
    folder.mkdir(parents=True)
    (folder / "algorithm.toml").write_text(_WAITING.format(tile_px=tile_px))
    masks = site.folder / "masks"
    masks.mkdir()
    site.install("waiting", f'#!/bin/sh\nsleep {seconds}\nexec cp "{masks}/$2.png" "$1/x-seg.png"\n')
    for width in range(tile_px, tile_px + 129, 64):
        for height in range(tile_px, tile_px + 129, 64):
            Image.new("L", (width, height)).save(masks / f"{width}x{height}.png")
    return {"DYNSVC_ALGORITHMS": str(folder.parent), "DYNSVC_SLIDES": str(site.images.root)}


def order(site: Hospital, roi: dict[str, Any], algorithm: str, name: str) -> str:
    document = v4(algorithm=algorithm, execution_id=name, parameters={})
    document["order"]["roi"] = roi
    return site.jobs.create("analysisJob", document)


def pixels(x: int, y: int, side: int) -> dict[str, Any]:
    return {"x": str(x), "y": str(y), "w": str(side), "h": str(side)}


def tiles_seconds(site: Hospital, order_id: str) -> float:
    """Return how long the tiles of an order took, from their planning to the merge."""
    site.wait_ended(order_id, limit_s=280)
    job = site.jobs.read(order_id)
    assert job is not None
    assert job.is_done, (job.error, site.jobs.log_lines(order_id))
    client = connect(RedisServer(host="127.0.0.1", port=site.redis.port))
    trace = Traces(client, "q:", "redis", keep_s=3600).read(order_id)
    began = next(e.at_s for e in trace if e.step == "run_algorithm" and e.facts.get("event") == "ended")
    return next(e.at_s for e in trace if e.step == "merge_tiles" and e.facts.get("event") == "began") - began


def scaling(slide: Path, processes: list[int], side: int, seconds: float) -> dict[int, float]:
    """Return tiles per second by number of worker processes, one slot each."""
    found = {}
    for number in processes:
        with hospital(slide) as site:
            env = install(site, 1024, seconds)
            for each in range(number):
                site.start_worker("-c", "1", **env, DYNSVC_HOST=f"host-{each}", DYNSVC_BATCH_S="2")
            site.start_bridge()
            order_id = order(site, pixels(0, 0, 1024 * side), "waiting", "scaling")
            found[number] = side * side / tiles_seconds(site, order_id)
            print(f"{number} processes: {found[number]:.2f} tiles/s", file=sys.stderr)
    return found


def beside(slide: Path, number: int, seconds: float) -> tuple[list[float], list[float]]:
    """Return how long a single region takes: idle, and while a slide runs."""

    def single(site: Hospital, each: int) -> float:
        began = time.monotonic()
        site.wait_ended(order(site, pixels(100 + each, 100, 1000), "waiting", f"single-{each}"))
        return time.monotonic() - began

    with hospital(slide) as site:
        env = install(site, 1024, seconds)
        Image.new("L", (1000, 1000)).save(site.folder / "masks" / "1000x1000.png")
        site.start_worker("-c", "2", **env)
        site.start_bridge()
        single(site, 0)
        idle = [single(site, each) for each in range(1, number + 1)]
        slide_id = order(site, {"full": "true"}, "waiting", "slide")
        eventually(lambda: (job := site.jobs.read(slide_id)) and job.progress >= 15, 60)
        time.sleep(2 * seconds)
        busy = [single(site, number + each) for each in range(1, number + 1)]
        job = site.jobs.read(slide_id)
        assert job is not None
        assert job.is_running, (job.error, job.progress)
    return idle, busy


def broker(slide: Path, seconds: float) -> dict[str, Any]:
    """Plan the whole big slide, do tiles for a while, and look at what the broker holds."""
    with hospital(slide) as site:
        env = install(site, 1024, 0.0)
        site.start_worker("-c", "2", **env)
        site.start_bridge()
        order_id = order(site, {"full": "true"}, "waiting", "whole")
        began = time.monotonic()
        eventually(
            lambda: any(" in " in line and "tiles of" in line for line in site.jobs.log_lines(order_id)), 60
        )
        planned_s = time.monotonic() - began
        client, held, memory = site.redis.client(1), [], []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            keys = [key for key in client.keys("*") if client.type(key) in (b"list", "list")]
            held.append(sum(client.llen(key) for key in keys) + client.hlen("unacked"))
            memory.append(client.info("memory")["used_memory"])
            time.sleep(0.2)
        line = next(line for line in site.jobs.log_lines(order_id) if "tiles of" in line)
        half = len(memory) // 2
        return {
            "plan": line,
            "planned_s": planned_s,
            "messages_most": max(held),
            "memory_growth_kib": (statistics.median(memory[half:]) - statistics.median(memory[:half])) / 1024,
        }


def invariance(slide: Path, sizes: list[int]) -> dict[int, list[str]]:
    """Return the sorted outlines that the nucleus segmentation finds, by the side of a tile; 0: one piece."""
    found: dict[int, list[str]] = {}
    text = Path(__file__).resolve().parents[1].joinpath("algorithms/nuclei/algorithm.toml").read_text()
    with hospital(slide) as site:
        folder = site.folder / "algorithms"
        for side in sizes:
            (folder / f"n{side}").mkdir(parents=True)
            changed = text.replace("tile_px = 2048", f"tile_px = {side or 100_000}\nmax_px = 200000000")
            changed = changed.replace('name = "nuclei"', f'name = "n{side}"').replace('"nuclei", ', "")
            changed = changed.replace("[tiling]", "[tiling]\nsurvey_tiles = 10000")
            (folder / f"n{side}" / "algorithm.toml").write_text(changed)
        site.start_worker("-c", "2", DYNSVC_ALGORITHMS=str(folder), DYNSVC_SLIDES=str(site.images.root))
        site.start_bridge()
        for side in sizes:
            order_id = order(site, {"full": "true"}, f"n{side}", f"n{side}")
            site.wait_ended(order_id, limit_s=120)
            job = site.jobs.read(order_id)
            assert job is not None
            assert job.is_done, job.error
            upload = site.uploads()[-1]
            with zipfile.ZipFile(upload.zip_path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("-features.csv"))
                rows = archive.read(name).decode().splitlines()[1:]
            found[side] = sorted(row[row.index("[") :] for row in rows)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = arguments(NAME, __doc__)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--side", type=int, default=10, help="tiles on a side of the region for scaling")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long the program waits for a tile")
    parser.add_argument("--singles", type=int, default=5, help="single regions, idle and beside a slide")
    parser.add_argument("--slide", type=Path, help="a real slide, for the comparison of tile sizes")
    parser.add_argument("--sizes", type=int, nargs="*", default=[0, 2048, 1024, 512])
    given = parser.parse_args(argv)
    facts: dict[str, Any] = {"machine": machine()}
    with TemporaryDirectory(prefix="dynsvc-slides-") as folder:
        big = Path(folder, "big", SLIDE.lstrip("/"))
        big.parent.mkdir(parents=True)
        write_big_slide(big)
        print(f"slide of {WIDTH_PX} x {HEIGHT_PX} px, {big.stat().st_size >> 20} MiB")
        facts["broker"] = broker(big, 15.0)
        print("whole slide:", *(f"{name} {value}" for name, value in facts["broker"].items()), sep="\n  ")
        rates = scaling(big, given.processes, given.side, given.seconds)
        one = rates[given.processes[0]] / given.processes[0]
        table(
            ["processes", "tiles/s", "efficiency"],
            [[n, f"{r:.2f}", f"{r / one / n:.2f}"] for n, r in rates.items()],
        )
        facts["tiles_per_s"] = rates
        idle, busy = beside(big, given.singles, given.seconds)
        ratio = statistics.median(busy) / statistics.median(idle)
        medians = [f"{statistics.median(each):.2f} s" for each in (idle, busy)]
        print(f"single region: idle {medians[0]}, beside a slide {medians[1]}, ratio {ratio:.2f}")
        facts["single"] = {"idle_s": idle, "busy_s": busy, "ratio": ratio}
        if given.slide:
            real = Path(folder, "real", SLIDE.lstrip("/"))
            real.parent.mkdir(parents=True)
            real.write_bytes(given.slide.read_bytes())
            found = invariance(real, given.sizes)
            first = set(found[given.sizes[0]])
            rows = [[side or "one piece", len(o), len(first ^ set(o))] for side, o in found.items()]
            table(["tile px", "objects", "outlines not shared"], rows)
            facts["invariance"] = rows
    written(NAME, given.json, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
