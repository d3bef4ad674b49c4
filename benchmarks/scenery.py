"""The files of the hospital that benchmarks run in: picture, result, programs, algorithms, config.json."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy
from PIL import Image

from tests.support.hospital import API_KEY

__all__ = ["MS", "SIDE_PX", "TILE_PX", "environment", "make_files"]

_HERE = Path(__file__).resolve().parent
SIDE_PX = 512
TILE_PX = 512
#: The programs sleep so long, in milliseconds.
MS = (0, 200, 5000)
ZIP_BYTES = 100_000

_LIMITS = """\
[limits]
timeout_s = 60
memory_mib = 16
cpus = 0.05
pids = 8
"""
_DESCRIPTOR = """
schema = 1
name = "copy{ms}"
title = "Copies a ready zip after {ms} ms"
version = "1"
command = ["{program}", "{ready}", "{ms}", "{{output_dir}}/output.zip"]
default_mpp = 0.25
{limits}[outputs]
required = ["output.zip"]
archive = "output.zip"
include_input = false
"""
_TILES = """
schema = 1
name = "tiles"
title = "Copies a ready mask for each tile"
version = "1"
command = ["{program}", "{mask}", "0", "{{output_dir}}/x-seg.png"]
default_mpp = 0.25
[input]
format = "any"
tile_px = {tile_px}
{limits}[outputs]
required = ["*-seg.png"]
mask = "*-seg.png"
"""


def make_files(folder: Path) -> list[str]:
    """Make picture, result, program and algorithms, and return the program's arguments but the last."""
    noise = numpy.random.default_rng(7).integers(150, 230, (64, 64, 3), dtype=numpy.uint8)
    picture = Image.fromarray(noise).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    picture.save(folder / "picture.jpg", quality=90)
    ready = folder / "ready.zip"
    with zipfile.ZipFile(ready, "w") as archive:
        archive.writestr("mask.png", numpy.random.default_rng(8).bytes(ZIP_BYTES))
    program = folder / "copy"
    subprocess.run(["gcc", "-O2", "-o", str(program), str(_HERE / "program.c")], check=True)
    algorithms = folder / "algorithms"
    mask = folder / "mask.png"
    Image.new("L", (TILE_PX, TILE_PX)).save(mask)
    texts = {
        f"copy{ms}": _DESCRIPTOR.format(limits=_LIMITS, program=program, ready=ready, ms=ms) for ms in MS
    }
    texts["tiles"] = _TILES.format(limits=_LIMITS, program=program, mask=mask, tile_px=TILE_PX)
    for name, text in texts.items():
        (algorithms / name).mkdir(parents=True)
        (algorithms / name / "algorithm.toml").write_text(text)
    return [str(program), str(ready)]


def environment(folder: Path, redis_port: int, kue_port: int, peers_url: str) -> dict[str, str]:
    """Write the hospital's config.json, and return the environment of dynsvc's processes."""
    port = peers_url.rpartition(":")[2]
    server = {"host": "127.0.0.1", "port": port}
    document = {
        "orders": {
            "redis": {"host": "127.0.0.1", "port": str(redis_port)},
            "kue": {"host": "127.0.0.1", "port": str(kue_port), "path": "/job/"},
        },
        "images": {
            "location": {**server, "path": "/query/getFileLocationByIID"},
            "imageServer": {"url": peers_url, "format": "JPEG"},
            "api_key": API_KEY,
        },
        # Its Redis is left out: an order ends with its upload, as in the native worker.
        "annotations": {"server": {**server, "path": "/submitZipOrder"}},
    }
    (folder / "config.json").write_text(json.dumps(document))
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(_HERE.parent),
        "TMPDIR": str(folder / "tmp"),
        "DYNSVC_CONFIG": str(folder / "config.json"),
        "DYNSVC_RUNTIME": "process",
        "DYNSVC_ALGORITHMS": str(folder / "algorithms"),
        "DYNSVC_BROKER_URL": f"redis://127.0.0.1:{redis_port}/1",
        # What is measured is the way of an order; the programs need hardly anything.
        "DYNSVC_HOST_CPUS": "64",
        "DYNSVC_HOST_MEMORY_MIB": "65536",
        "DYNSVC_WINDOW": "64",
    }
