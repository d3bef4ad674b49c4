"""Tiles against one piece: HistomicsTK's NucleiDetection and dynsvc on the same pictures.

HistomicsTK runs as it is published: its command-line program with its own tiles, overlap and removal of
doubles. Its region is the whole picture, so that its stain statistics are the same for every tile size and it
leaves no tile out: only the tiling differs. dynsvc runs whole slides over its workers. The two find nuclei by
different methods. Each is compared with itself in one piece, never with the other.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import openslide

from algorithms.nuclei.synthetic import scene
from benchmarks.peer import installed, versions
from benchmarks.report import arguments, machine, table, written
from benchmarks.slides import invariance
from tests.support.hospital import SLIDE
from tests.support.pyramids import write_pyramid

__all__ = ["main"]

NAME = "histomicstk"
_MODULE = "histomicstk.cli.NucleiDetection.NucleiDetection"
_MPP_UM = 0.5
_NUCLEI_PER_MPX = 1_000
#: Apart from each other, and in clumps.
_SCENES: dict[str, dict[str, Any]] = {"apart": {}, "clumps": {"overlap": 0.15, "clustered": True}}

#: Not all that it asks for: its tile sources for maps need GDAL's headers, and slides need none of them.
_ALONE = "histomicstk==1.4.0"
_WITH = (
    "numpy<2",
    "dask[dataframe]<2024.11.0",
    "large-image==1.35.6",
    "large-image-source-openslide==1.35.6",
    "girder-slicer-cli-web==5.0.21",
    "girder-client==5.0.21",
    "scikit-image==0.26.0",
    "opencv-python-headless",
    "openslide-bin",
    "ctk-cli",
    "distributed",
    "imageio",
    "matplotlib",
    "nimfa",
    "pandas",
    "pyvips",
    "scikit-learn",
    "scipy",
    "setuptools<81",
    "shapely",
    "sqlalchemy",
)
_VERSIONS = ("histomicstk", "large-image", "scikit-image", "numpy", "scipy", "shapely", "dask")


def peer(
    python: Path, slide: Path, side: int, folder: Path
) -> tuple[int, set[frozenset[tuple[float, float]]], int]:
    """Run NucleiDetection; 0: one piece.

    Returns
    -------
    tuple
        Number of tiles, the outlines, and how many there were before it removed doubles.
    """
    with openslide.OpenSlide(slide) as opened:
        width_px, height_px = opened.dimensions
    out = folder / f"{side}.anot"
    argv = [
        *(str(python), "-m", _MODULE, str(slide), str(out)),
        *("--analysis_roi", f"0,0,{width_px},{height_px}"),
        *("--analysis_tile_size", str(side or max(width_px, height_px))),
        # Empty: no frame and no style. Left out, it takes the placeholder of its form for a frame.
        *("--frame", "", "--style", "", "--scheduler", "multithreading"),
    ]
    env = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, cwd=folder, timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(f"HistomicsTK ended with {done.returncode}: {done.stderr[-2000:]}")
    numbers = dict(re.findall(r"^(Number of (?:tiles|nuclei)) = (\d+)$", done.stdout, re.MULTILINE))
    elements = json.loads(out.read_text())["elements"]
    outlines = {frozenset((x, y) for x, y, _ in element["points"]) for element in elements}
    if len(outlines) != len(elements):
        raise RuntimeError("HistomicsTK gave the same outline twice")
    return int(numbers["Number of tiles"]), outlines, int(numbers["Number of nuclei"])


def compared(python: Path, slide: Path, sizes: list[int], folder: Path) -> list[dict[str, Any]]:
    """Return a row for every side and tile size; the first row of a side is its run in one piece."""
    rows = []
    whole: set[Any] = set()
    for side in [0, *sizes]:
        tiles, outlines, before = peer(python, slide, side, folder)
        if not side:
            if tiles != 1:
                raise RuntimeError(f"the reference of HistomicsTK has {tiles} tiles")
            whole = outlines
        rows.append(_row("HistomicsTK", side, outlines, whole) | {"before_removal": before, "tiles": tiles})
    found = invariance(slide, [0, *sizes])
    for side, rings in found.items():
        # An outline that is there twice must not pass for one.
        if len(set(rings)) != len(rings):
            raise RuntimeError("dynsvc gave the same outline twice")
        rows.append(_row("dynsvc", side, set(rings), set(found[0])))
    return rows


def _row(name: str, side: int, outlines: set[Any], whole: set[Any]) -> dict[str, Any]:
    return {
        "name": name,
        "tile_px": side,
        "objects": len(outlines),
        "count_error_pct": 100 * (len(outlines) - len(whole)) / len(whole),
        "outlines_not_shared": len(outlines ^ whole),
    }


def main(argv: list[str] | None = None) -> int:
    parser = arguments(NAME, __doc__)
    parser.add_argument("--python", type=Path, help="Python with histomicstk; default: a new environment")
    parser.add_argument("--slide", type=Path, help="a real slide, beside the synthetic ones")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 512], help="sides of a tile in px")
    parser.add_argument("--side", type=int, default=2000, help="side of a synthetic picture in px")
    parser.add_argument("--seed", type=int, default=1, help="of the synthetic pictures")
    given = parser.parse_args(argv)
    if min(given.sizes) < 1:
        parser.error("--sizes: at least 1 px")
    if given.slide and not given.slide.is_file():
        parser.error(f"--slide: no file {given.slide}")
    with TemporaryDirectory(prefix="dynsvc-histomicstk-") as name:
        folder = Path(name)
        # The link of an environment stays a link: what it points to knows nothing of the environment.
        python = (
            given.python.absolute() if given.python else installed(folder / "venv", _WITH, alone=[_ALONE])
        )
        facts: dict[str, Any] = {
            "machine": machine(),
            "peer": versions(python, _VERSIONS),
            "seed": given.seed,
        }
        print(*(f"{name} {version}" for name, version in facts["peer"].items()), sep=", ")
        nuclei = round(_NUCLEI_PER_MPX * given.side**2 / 1e6)
        slides, facts["drawn"] = {}, {}
        for kind, how in _SCENES.items():
            drawn = scene(given.seed, side_px=given.side, mpp_um=_MPP_UM, nuclei=nuclei, **how)
            facts["drawn"][kind] = int(drawn.labels.max())
            slides[kind] = folder / kind / SLIDE.lstrip("/")
            slides[kind].parent.mkdir(parents=True)
            write_pyramid(slides[kind], drawn.rgb, mpp_um=_MPP_UM)
        if given.slide:
            slides["real"] = folder / "real" / SLIDE.lstrip("/")
            slides["real"].parent.mkdir(parents=True)
            slides["real"].write_bytes(given.slide.read_bytes())
        facts["slides"] = {}
        for each, slide in slides.items():
            print(f"{each} picture", file=sys.stderr)
            facts["slides"][each] = compared(python, slide, given.sizes, slide.parent)
        table(
            ["picture", "of", "tile px", "objects", "count error", "outlines not shared", "before removal"],
            [
                [
                    each,
                    row["name"],
                    row["tile_px"] or "one piece",
                    row["objects"],
                    f"{row['count_error_pct']:+.2f} %",
                    row["outlines_not_shared"],
                    row.get("before_removal", ""),
                ]
                for each, rows in facts["slides"].items()
                for row in rows
            ],
        )
    written(NAME, given.json, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
