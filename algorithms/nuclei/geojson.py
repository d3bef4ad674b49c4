"""Nuclei as detections for QuPath: closed rings in level-0 pixels, whose corner (not centre) is at (0, 0)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["feature", "feature_collection"]

_COLOUR = "[0,255,255]"


def feature(
    doubled: NDArray[np.int32], x_px: int, y_px: int, measurements: Sequence[tuple[str, float]]
) -> str:
    """Return the GeoJSON text of one nucleus.

    Parameters
    ----------
    doubled
        Its polygon in half pixels of the tile, from pixel centres.
    x_px, y_px
        Place of the tile's first pixel on the slide.
    measurements
        Names and values.
    """
    ring = (doubled + np.array([2 * x_px + 1, 2 * y_px + 1])) / 2
    points = [f"[{x:.10g},{y:.10g}]" for x, y in ring.tolist()]
    geometry = ",".join([*points, points[0]])
    # The same nucleus has the same id on every run.
    name = uuid.uuid5(uuid.NAMESPACE_OID, geometry)
    values = json.dumps({word: float(f"{value:.6g}") for word, value in measurements})
    return (
        f'{{"type":"Feature","id":"{name}","geometry":{{"type":"Polygon","coordinates":[[{geometry}]]}},'
        f'"properties":{{"objectType":"detection","classification":{{"name":"Nucleus","color":{_COLOUR}}},'
        f'"measurements":{values}}}}}'
    )


def feature_collection(features: Iterable[bytes]) -> Iterator[bytes]:
    """Return the whole document from features that commas and line ends separate already."""
    yield b'{"type":"FeatureCollection","features":[\n'
    yield from features
    yield b"\n]}\n"
