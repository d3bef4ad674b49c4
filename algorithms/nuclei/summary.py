"""``result.json``: what was found, in numbers, and what the user should know about it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from . import __version__
from .tiles import Survey

__all__ = ["document", "notes", "plausibility", "summary"]

#: Between the median areas of lymphocytes and of large tumour nuclei, and half as much again to each side.
_PLAUSIBLE_UM2 = (14.0, 110.0)
#: Fewer nuclei than this have no reliable median.
_ENOUGH = 30
_NOTABLE_INK = 0.005


def plausibility(areas_um2: list[float], mpp_um: float) -> str | None:
    """Return a warning where the nuclei have a size that nuclei do not have: then mpp is wrong."""
    if len(areas_um2) < _ENOUGH:
        return None
    median = float(np.median(areas_um2))
    low, high = _PLAUSIBLE_UM2
    if low <= median <= high:
        return None
    likely = mpp_um * math.sqrt(40.0 / median)
    return (
        f"half of the nuclei have less than {median:.3g} um2, which is not the size of nuclei: "
        f"{mpp_um:.4g} um per pixel may be wrong (nuclei of 40 um2 would mean {likely:.2g})"
    )


def notes(found: Survey) -> list[str]:
    """Return warnings that concern the region as a whole. Of what was told from outside there are none."""
    texts = []
    if found.ink > _NOTABLE_INK:
        texts.append(
            f"{100 * found.ink:.2g} % of the region is covered by ink, pigment or folds and was left out"
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
