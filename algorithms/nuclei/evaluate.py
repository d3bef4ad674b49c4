"""Accuracy report: ``python -m algorithms.nuclei.evaluate FOLDER``.

Every picture is segmented with the program's default parameters and compared with its truth.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .drawing import CYAN
from .failures import Failure
from .region import label
from .scores import Scores, mean, scores
from .synthetic import Scene, scene
from .truth import Case, cases, mpp_from_area

__all__ = ["SYNTHETIC", "evaluate", "main"]

_GREEN = (0, 255, 0)
_HEAD = f"{'':34} {'um/px':>6} {'Dice':>6} {'AJI':>6} {'PQ':>6} {'true':>6} {'found':>6}"
#: Synthetic scenes by name: 12 each, half of them at 0.25 and half at 0.5 um per pixel.
SYNTHETIC: dict[str, dict[str, object]] = {
    "apart": {},
    "overlap 15 %": {"overlap": 0.15},
    "clumps": {"overlap": 0.15, "clustered": True},
    "weak stain": {"strength": 0.5},
    "strong stain": {"strength": 1.5},
    "lilac glass": {"white": (200, 185, 225)},
    "JPEG 75": {"jpeg_quality": 75},
}


def main(argv: Sequence[str]) -> int:
    """Print the report and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m algorithms.nuclei.evaluate", description=(__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", help="NAME.png beside NAME.labels.png or NAME-mask.png"
    )
    parser.add_argument(
        "--mpp", type=float, help="um per pixel; default: from each picture's median true area"
    )
    parser.add_argument("--half", type=int, choices=(0, 1), help="only every second picture of each kind")
    parser.add_argument("--synthetic", action="store_true", help="report on synthetic scenes too")
    parser.add_argument("--worst", type=int, default=3, metavar="N", help="how many to draw (default 3)")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="draw the worst: truth green, found cyan")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all scores")
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    report: dict[str, dict[str, float]] = {}
    try:
        if options.folder:
            chosen = [c for c in cases(options.folder) if options.half is None or c.half == options.half]
            report |= _report(chosen, options.mpp, options.draw, options.worst)
        elif not options.synthetic:
            parser.error("a folder or --synthetic is required")
    except Failure as failure:
        print(failure, file=sys.stderr)
        return failure.exit_status
    if options.synthetic:
        print(_HEAD)
        for name, scenes in synthetic_scenes().items():
            result = mean([scores(s.labels, label(s.rgb, s.mpp_um)) for s in scenes])
            print(_line(f"synthetic, {name}", None, result))
            report[f"synthetic, {name}"] = _document(result)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def evaluate(case: Case, mpp_um: float | None = None) -> tuple[Scores, NDArray[np.int32], float]:
    """Return the scores of one picture, the nuclei found, and the scale that was used."""
    used = mpp_um or mpp_from_area(case)
    found = label(case.rgb, used)
    return scores(case.labels, found), found, used


def synthetic_scenes() -> dict[str, list[Scene]]:
    """Return the scenes of the report."""
    sizes = ({"mpp_um": 0.25, "side_px": 512}, {"mpp_um": 0.5, "side_px": 256})
    return {
        name: [
            scene(seed, nuclei=100, **sizes[seed % 2], **options)  # type: ignore[arg-type]
            for seed in range(12)
        ]
        for name, options in SYNTHETIC.items()
    }


def _report(
    chosen: Sequence[Case], mpp_um: float | None, folder: Path | None, worst: int
) -> dict[str, dict[str, float]]:
    """Print the table of a folder's pictures and draw the worst of them."""
    print(_HEAD)
    results: list[tuple[Scores, Case, NDArray[np.int32]]] = []
    report: dict[str, dict[str, float]] = {}
    for case in chosen:
        result, found, used = evaluate(case, mpp_um)
        results.append((result, case, found))
        report[case.name] = _document(result)
        print(_line(case.name, used, result))
    kinds = sorted({case.kind for case in chosen})
    groups: list[tuple[str | None, int | None]] = [(kind, None) for kind in kinds]
    if len({case.half for case in chosen}) > 1:
        groups += [(kind, half) for kind in [*kinds, None] for half in (0, 1)]
    for kind, half in [*groups, (None, None)]:
        members = [r for r, c, _ in results if kind in (None, c.kind) and half in (None, c.half)]
        name = f"mean of {len(members)}, {kind or 'all'}" + ("" if half is None else f", half {half}")
        report[name] = _document(mean(members))
        print(_line(name, None, mean(members)))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for result, case, found in sorted(results, key=lambda item: item[0].pq)[:worst]:
            Image.fromarray(_side_by_side(case, found)).save(folder / f"{case.name}.png")
            print(f"drawn: {folder / case.name}.png (PQ {result.pq:.3f})")
    return report


def _line(name: str, mpp_um: float | None, result: Scores) -> str:
    scale = f"{mpp_um:6.3f}" if mpp_um else " " * 6
    return (
        f"{name[:34]:34} {scale} {result.dice:6.3f} {result.aji:6.3f} {result.pq:6.3f} "
        f"{result.true:6.0f} {result.found:6.0f}"
    )


def _document(result: Scores) -> dict[str, float]:
    return {
        "dice": result.dice, "aji": result.aji, "pq": result.pq, "true": result.true, "found": result.found
    }  # fmt: skip


def _side_by_side(case: Case, found: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Return the picture twice, three times as large, with the true and the found outlines."""
    parts = []
    for labels, colour in ((case.labels, _GREEN), (found, CYAN)):
        large = cv2.resize(case.rgb, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
        names = cv2.resize(labels.astype(np.float32), None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
        square = np.ones((3, 3), np.uint8)
        border = (cv2.erode(names, square) != cv2.dilate(names, square)) & (names > 0)
        large[border] = colour
        parts.append(large)
    return np.concatenate(parts, axis=1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
