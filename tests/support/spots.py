"""Dark discs on a white slide, and the program that finds them: one connected piece, one object.

The program is local: with and without tiles it finds the same. What it does beyond that is told by files in
one folder: ``fail-X-Y`` has it fail on the picture at that place, ``wait`` holds it up while it is there,
``seconds`` says how long it takes. It writes the places that it was run at into ``log``.
"""

from __future__ import annotations

import csv
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tests.support.hospital import Hospital
from tests.support.pyramids import write_pyramid

__all__ = ["DISCS", "HEIGHT_PX", "WIDTH_PX", "expected", "install", "places_run", "rows", "write_slide"]

WIDTH_PX, HEIGHT_PX = 1500, 1100
#: Centre and radius; some lie on the borders of tiles of 256 px, one is larger than the halo.
DISCS = (*((x, y, 6 + x * y % 7) for x in range(40, 1000, 96) for y in range(40, 700, 88)), (256, 512, 60))

DESCRIPTOR = """
schema = 1
name = "spots"
title = "Spots"
version = "1"
command = ["spots", "{{input}}", "{{output_dir}}", "{{x}},{{y}}", "{{mpp}}"]
default_mpp = 0.5

[input]
format = "png"
tile_px = {tile_px}
halo_px = 32

[tiling]
survey = ["spots", "--survey", "{{input_dir}}", "{{output_dir}}"]
arguments = ["{{survey.darker_than}}"]
on_failure = "{on_failure}"

[limits]
memory_mib = 512

[outputs]
required = ["*-seg.png"]
mask = "*-seg.png"
table = "*-features.csv"
metadata = "*-algmeta.json"
"""

PROGRAM = """#!{python}
import json, os, sys, time
from pathlib import Path
import cv2, numpy as np
from algorithms.nuclei.polygons import doubled_polygons
told = Path("{told}")
if sys.argv[1] == "--survey":
    assert list(Path(sys.argv[2]).iterdir())
    Path(sys.argv[3], "survey.json").write_text(json.dumps({{"darker_than": 128, "warnings": ["surveyed"]}}))
    sys.exit(0)
picture, output, place, mpp = sys.argv[1], Path(sys.argv[2]), sys.argv[3], float(sys.argv[4])
darker_than = int(sys.argv[5]) if len(sys.argv) > 5 else 128
x, y = map(int, place.split(","))
with (told / "log").open("a") as log:
    log.write(place + "\\n")
if (told / f"fail-{{x}}-{{y}}").exists():
    sys.exit("told to fail")
while (told / "wait").exists():
    time.sleep(0.02)
if (told / "seconds").exists():
    time.sleep(float((told / "seconds").read_text()))
mask = (cv2.imread(picture, cv2.IMREAD_GRAYSCALE) < darker_than).astype(np.uint8)
cv2.imwrite(str(output / "spots-seg.png"), mask)
framed = np.pad(mask, 1)
rings, _ = cv2.findContours(framed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(-1, -1))
_, labels = cv2.connectedComponents(mask)
areas = np.bincount(labels.ravel())
rows = ["AreaInPixels,PhysicalSize,Polygon"]
for ring in rings:
    points = ring.reshape(-1, 2)
    area = areas[labels[points[0][1], points[0][0]]]
    polygon = doubled_polygons([points])[0] / 2 + (x, y)
    numbers = ":".join(f"{{v:.10g}}" for v in polygon.ravel().tolist())
    rows.append(f"{{area}},{{area * mpp * mpp:.10g}},[{{numbers}}]")
if len(rows) > 1:
    (output / "spots-features.csv").write_text("\\n".join(rows) + "\\n")
    meta = {{"input_type": "img", "mpp": mpp, "image_width": mask.shape[1], "image_height": mask.shape[0],
            "out_file_prefix": "spots", "subject_id": "s", "case_id": "c", "analysis_id": "a",
            "analysis_desc": ""}}
    (output / "spots-algmeta.json").write_text(json.dumps(meta))
"""


def write_slide(path: Path) -> None:
    """Discs in the left upper part; the right third and the lower part are glass."""
    y, x = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX]
    pixels: npt.NDArray[np.uint8] = np.full((HEIGHT_PX, WIDTH_PX, 3), 245, np.uint8)
    for centre_x, centre_y, radius in DISCS:
        pixels[(x - centre_x) ** 2 + (y - centre_y) ** 2 <= radius**2] = (90, 40, 120)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pyramid(path, pixels)


def expected() -> int:
    """Number of pieces: discs that meet are one."""
    y, x = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX]
    mask = np.zeros((HEIGHT_PX, WIDTH_PX), bool)
    for centre_x, centre_y, radius in DISCS:
        mask |= (x - centre_x) ** 2 + (y - centre_y) ** 2 <= radius**2
    return int(ndimage.label(mask, np.ones((3, 3)))[1])


def install(site: Hospital, *, tile_px: int = 256, on_failure: str = "fail") -> dict[str, str]:
    """Install program and descriptor, and return the variables that workers need."""
    told = site.folder / "spots"
    told.mkdir(exist_ok=True)
    site.install("spots", PROGRAM.format(python=sys.executable, told=told))
    folder = site.folder / "algorithms" / "spots"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "algorithm.toml").write_text(DESCRIPTOR.format(tile_px=tile_px, on_failure=on_failure))
    return {"DYNSVC_ALGORITHMS": str(folder.parent), "DYNSVC_SLIDES": str(site.images.root)}


def places_run(site: Hospital) -> list[str]:
    """Where the program was run, in the order of time."""
    log = site.folder / "spots" / "log"
    return log.read_text().split() if log.exists() else []


def rows(zip_path: Path) -> list[dict[str, str]]:
    """The table of a result."""
    with zipfile.ZipFile(zip_path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("-features.csv"))
        return list(csv.DictReader(io.StringIO(archive.read(name).decode())))
