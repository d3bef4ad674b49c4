"""The survey of a slide that others cut into tiles: one threshold, from pictures of some of its parts.

Runs on the slide's tiles that are given this threshold find the nuclei of one run on the whole slide with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2

from .arguments import SurveyRequest
from .failures import InputUnreadable
from .pictures import opened
from .results import Results
from .stain import Grid, Histogram
from .summary import document, notes
from .threshold import NOTHING
from .tiles import Box, Survey, cut, look

__all__ = ["sample"]

_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"})


def sample(request: SurveyRequest, mpp_um: float, warnings: list[str]) -> dict[str, Any]:
    """Look at all pictures, write ``survey.json``, and return what is in it.

    The order of the pictures does not matter, and a larger one counts for more.

    Raises
    ------
    InputUnreadable
        There is no picture, or one cannot be used.
    OutputFailed
        The file cannot be written.
    """
    cv2.setNumThreads(1)
    results = Results(request.output_dir)
    grid, histogram = Grid.of(mpp_um), Histogram()
    ink_px, all_px = 0.0, 0
    for path in _pictures(request.input):
        with opened(path, slide=False, folder=request.output_dir) as source:
            whole = Box(0, 0, source.width_px, source.height_px)
            for tile in cut(whole, whole, grid):
                area_px = tile.core.width * tile.core.height
                ink_px += look(source, tile, grid, histogram).ink * area_px
                all_px += area_px
    found = Survey(grid, histogram.threshold(), histogram.tissue_um2, ink_px / all_px, {})
    values = {
        "threshold": NOTHING if found.threshold is None else str(found.threshold),
        "warnings": [*warnings, *notes(found)],
    }
    results.write("survey.json", document(values))
    return values


def _pictures(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]
    found = sorted(p for p in place.iterdir() if p.suffix.lower() in _ENDINGS and p.name[0] != ".")
    if not found:
        raise InputUnreadable(f"folder {str(place)!r} holds no picture ({', '.join(sorted(_ENDINGS))})")
    return found
