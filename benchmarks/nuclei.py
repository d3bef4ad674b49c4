# ruff: noqa: PLC0415, SLF001 - imports of one pipeline; the stages of the other are private
"""Where the time of the nucleus segmenter goes, and how it compares with a textbook pipeline.

``python benchmarks/nuclei.py [--slide sample.svs]``. One thread. Both pipelines run on the same pixels in the
same process, so ratios hold on a busy machine too. Nothing here is a test.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
from PIL import Image

from algorithms.nuclei import segmentation as method
from algorithms.nuclei.arguments import Parameters
from algorithms.nuclei.candidates import candidates
from algorithms.nuclei.nuclei import nuclei_of
from algorithms.nuclei.pictures import opened
from algorithms.nuclei.polygons import doubled_polygons
from algorithms.nuclei.stain import Grid, Histogram, field_of
from algorithms.nuclei.synthetic import scene
from algorithms.nuclei.table import measured, rows

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
SLIDE = ROOT.parent / "shared" / "data" / "sample.svs"


def best(call: Callable[[], T], rounds: int = 15) -> tuple[float, T]:
    """Return the shortest time of *call* in seconds, and its result."""
    shortest, result = float("inf"), call()
    for _ in range(rounds):
        begin = time.perf_counter()
        result = call()
        shortest = min(shortest, time.perf_counter() - begin)
    return shortest, result


def textbook(rgb: np.ndarray, mpp_um: float) -> np.ndarray:
    """Segment as the tutorials do: rgb2hed, Otsu, peak_local_max, watershed, at full resolution."""
    from scipy import ndimage
    from skimage.color import rgb2hed
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian, threshold_otsu
    from skimage.measure import label
    from skimage.morphology import remove_small_objects
    from skimage.segmentation import watershed

    stain = gaussian(rgb2hed(rgb)[..., 0], 0.5 / mpp_um)
    mask = remove_small_objects(
        ndimage.binary_fill_holes(stain > threshold_otsu(stain)), max_size=round(10 / mpp_um**2)
    )
    distance = gaussian(ndimage.distance_transform_edt(mask), 0.7 / mpp_um)
    peaks = peak_local_max(distance, min_distance=round(2.5 / mpp_um), labels=label(mask))
    markers = np.zeros(mask.shape, int)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-distance, markers, mask=mask)


def stages(rgb: np.ndarray, mpp_um: float) -> None:
    """Print the time of each stage on one tile."""
    grid, parameters = Grid.of(mpp_um), Parameters()
    height, width = rgb.shape[:2]
    mpx = height * width / 1e6 / grid.shrink**2 * grid.enlarge**2
    times: list[tuple[str, float]] = []

    def stage(name: str, call: Callable[[], T]) -> T:
        seconds, result = best(call)
        times.append((name, seconds))
        return result

    field = stage("grid, stain, tissue, ink", lambda: field_of(rgb, grid))

    def threshold() -> Any:
        histogram = Histogram()
        histogram.add(field, 0, 0, width, height)
        return histogram.threshold()

    found = stage("threshold", threshold)
    limit, mask = stage("candidates", lambda: candidates(field, found, parameters))
    parts = stage("split", lambda: method._objects(field, found, (limit, mask), parameters, mpp_um))
    opened_ = stage("open", lambda: method._opened(parts, 1))
    outlined, margin = stage("outlines", lambda: method._outlined(opened_, field, found, mask, limit))
    smooth = stage("open again", lambda: method._opened(outlined, 1))
    labels = stage("to picture", lambda: method._enlarged(smooth, margin, grid, (height, width)))
    total = sum(seconds for _, seconds in times)
    print(f"\nsegmentation of {mpx:.2f} Mpx on a grid of {grid.um:.3f} um: {mpx / total:.1f} Mpx/s")
    for name, seconds in times:
        print(f"  {name:28} {1000 * seconds / mpx:7.2f} ms/Mpx {100 * seconds / total:5.1f} %")
    seconds, reference = best(lambda: textbook(rgb, mpp_um), rounds=1)
    print(f"  textbook scikit-image pipeline: {mpx / seconds:.2f} Mpx/s; ratio {seconds / total:.0f}")

    times.clear()
    nuclei = stage("nuclei and outlines", lambda: nuclei_of(labels.copy(), min_size_px=3 / mpp_um**2))
    numbers = stage("87 columns", lambda: measured(nuclei, rgb, mpp_um))
    polygons = stage("polygons", lambda: doubled_polygons(nuclei.outlines))
    values = numbers.tolist()
    stage("lines of text", lambda: rows(values, polygons, 0, 0))
    total = sum(seconds for _, seconds in times)
    per_10k = 1e4 * total / len(nuclei)
    print(f"table of {len(nuclei)} nuclei ({reference.max()} in the textbook): {per_10k:.2f} s for 10 000")
    for name, seconds in times:
        print(f"  {name:28} {1e7 * seconds / len(nuclei):7.0f} ms/10 000 {100 * seconds / total:5.1f} %")


def processes(slide: Path | None) -> None:
    """Print the times of whole runs: a small region cold and warm, and a slide."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "roi.png"
        Image.fromarray(scene(1, side_px=256, nuclei=40).rgb[:141, :207]).save(picture)
        ids = ["-c", "C", "-p", "P", "-a", "A", "-o", folder]
        program = [sys.executable, "-m", "algorithms.nuclei"]

        def cold(*argv: str) -> None:
            subprocess.run([*program, *argv, *ids], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)

        seconds, _ = best(lambda: cold("-t", "img", "-i", str(picture), "-m", "0.25"))
        print(f"\n207 x 141 px as a fresh process: {seconds:.2f} s")
        with subprocess.Popen(
            [*program, "--serve"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as warm:
            assert warm.stdin is not None
            assert warm.stdout is not None
            warm.stdout.readline()
            line = json.dumps({"id": 1, "input": str(picture), "output_dir": folder, "mpp": 0.25}) + "\n"

            def ask() -> None:
                assert warm.stdin is not None
                assert warm.stdout is not None
                warm.stdin.write(line)
                warm.stdin.flush()
                while json.loads(warm.stdout.readline()).get("type") == "progress":
                    pass

            seconds, _ = best(ask, rounds=20)
            warm.stdin.close()
        print(f"207 x 141 px warm: {1000 * seconds:.1f} ms")
        if slide:
            seconds, _ = best(lambda: cold("-t", "wsi", "-i", str(slide)), rounds=3)
            print(f"whole slide {slide.name}, fresh process: {seconds:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmark of the nucleus segmenter")
    parser.add_argument("--slide", type=Path, default=SLIDE if SLIDE.exists() else None)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    print("dense synthetic tissue, 40x")
    stages(scene(1, side_px=2048, nuclei=2600, overlap=0.1).rgb, 0.25)
    if options.slide:
        print(f"\npart of {options.slide.name}, dense epidermis")
        with opened(options.slide, slide=True) as slide:
            stages(slide.read(900, 400, 1000, 1000), slide.mpp_um or 0.5)
    processes(options.slide)


if __name__ == "__main__":
    main()
