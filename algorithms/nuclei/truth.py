"""Pictures with known nuclei, from a folder: ``NAME.png`` beside ``NAME.labels.png`` or ``NAME-mask.png``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .failures import InputUnreadable
from .pictures import opened

__all__ = ["Case", "cases", "mpp_from_area"]

_ENDINGS = (".labels.png", "-mask.png")
#: The median nucleus of mixed tissue. It stands in for a scale that nobody published.
_MEDIAN_UM2 = 40.0
_MPP_UM = (0.15, 0.6)


@dataclass(frozen=True, slots=True)
class Case:
    """One picture, its nuclei, and what is known of it."""

    name: str
    #: The name's first word.
    kind: str
    #: 0 or 1: every second picture of its kind.
    half: int
    rgb: NDArray[np.uint8]
    labels: NDArray[np.int32]


def cases(folder: Path) -> list[Case]:
    """Read all pictures of a folder that have a truth.

    Raises
    ------
    InputUnreadable
        There are none, or one cannot be read.
    """
    found: list[Case] = []
    seen: dict[str, int] = {}
    truths = sorted(path for ending in _ENDINGS for path in folder.glob(f"*{ending}"))
    for path in truths:
        name = next(path.name.removesuffix(ending) for ending in _ENDINGS if path.name.endswith(ending))
        kind = name.split("_")[0]
        with opened(folder / f"{name}.png", slide=False) as source:
            rgb = source.read(0, 0, source.width_px, source.height_px)
        values = np.asarray(Image.open(path))
        labels = (values if values.ndim == 2 else values[..., 0]).astype(np.int32)
        if labels.shape != rgb.shape[:2]:
            raise InputUnreadable(f"{path.name} has another size than its picture")
        found.append(Case(name, kind, seen.get(kind, 0) % 2, rgb, labels))
        seen[kind] = seen.get(kind, 0) + 1
    if not found:
        raise InputUnreadable(f"{str(folder)!r} has no picture with a truth beside it")
    return found


def mpp_from_area(case: Case) -> float:
    """Estimate the scale of a picture from its true nuclei: their median area is taken to be 40 um2."""
    areas = np.bincount(case.labels.ravel())[1:]
    areas = areas[areas > 0]
    if not areas.size:
        return 0.25
    return float(np.clip(math.sqrt(_MEDIAN_UM2 / float(np.median(areas))), *_MPP_UM))
