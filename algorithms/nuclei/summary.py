"""``result.json``: what was found, in numbers, and what the user should know about it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from . import __version__
from .tiles import Survey

__all__ = ["document", "notes", "plausibility", "summary"]

#: The median nucleus is larger than the first, even where all are lymphocytes or spindles seen end on. Half
#: of all nuclear area lies in nuclei larger than the second, and smaller than the third, even in tumours.
#: That median by area is the surer one: scraps of chromatin and dirt are many, but have little area.
_SMALLEST_UM2, _SMALLEST_LARGE_UM2, _LARGEST_LARGE_UM2 = 10.0, 15.0, 125.0
#: What both usually are, to say which scale is likely.
_USUAL_UM2, _USUAL_LARGE_UM2 = 40.0, 60.0
#: Fewer nuclei than this have no reliable median.
_ENOUGH = 30
_NOTABLE_INK = 0.005


def plausibility(areas_um2: list[float], mpp_um: float) -> str | None:
    """Return a warning where the nuclei have a size that nuclei do not have: then mpp is wrong."""
    if len(areas_um2) < _ENOUGH:
        return None
    areas = np.sort(np.array(areas_um2))
    below = np.cumsum(areas)
    median, large = float(np.median(areas)), float(areas[np.searchsorted(below, below[-1] / 2)])
    if median < _SMALLEST_UM2:
        what, usual, found = f"half of the nuclei have less than {median:.3g} um2", _USUAL_UM2, median
    elif not _SMALLEST_LARGE_UM2 < large < _LARGEST_LARGE_UM2:
        side = "less" if large < _LARGEST_LARGE_UM2 else "more"
        what = f"half of all nuclear area is in objects of {side} than {large:.3g} um2"
        usual, found = _USUAL_LARGE_UM2, large
    else:
        return None
    return (
        f"{what}, which is not the size of nuclei: {mpp_um:.4g} um per pixel may be wrong "
        f"(usual nuclei would mean {mpp_um * math.sqrt(usual / found):.2g})"
    )


def notes(found: Survey) -> list[str]:
    """Return warnings that concern the region as a whole. Of what was told from outside there are none."""
    texts = []
    if found.ink > _NOTABLE_INK:
        texts.append(
            f"{100 * found.ink:.3g} % of the region is covered by ink, pigment or folds and was left out"
        )
    if found.threshold is None and not found.told:
        texts.append("nothing in the region stands out as stained nuclei")
    return texts


def summary(
    areas_um2: list[float],
    found: Survey,
    *,
    mpp_um: float,
    region_um2: float,
    files: list[str],
    warnings: list[str],
) -> dict[str, Any]:
    """Return the document. It holds nothing that differs between two runs on the same input."""
    areas = np.array(areas_um2)
    texts = [*warnings, *notes(found)]
    if wrong := plausibility(areas_um2, mpp_um):
        texts.append(wrong)
    tissue = None if found.told else found.tissue_um2
    return {
        "algorithm": "nuclei",
        "version": __version__,
        "count": len(areas_um2),
        "area_um2": _statistics(areas) if len(areas) else None,
        "tissue_um2": _rounded(tissue),
        "region_um2": _rounded(region_um2),
        "density_per_mm2": _rounded(len(areas) / tissue * 1e6 if tissue else None),
        "mpp": mpp_um,
        "working_grid_um": _rounded(found.grid.um),
        "threshold": None if found.threshold is None else str(found.threshold),
        "warnings": texts,
        "files": sorted(files),
    }


def document(values: dict[str, Any]) -> bytes:
    """Return the summary as a file."""
    return (json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _statistics(areas: Any) -> dict[str, float | None]:
    words = {"min": 0, "p5": 5, "median": 50, "p95": 95, "max": 100}
    values: dict[str, float | None] = {k: _rounded(float(np.percentile(areas, p))) for k, p in words.items()}
    values["mean"], values["total"] = _rounded(float(areas.mean())), _rounded(float(areas.sum()))
    return values


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
