"""Objects as QuPath reads them: closed rings in level-0 pixels, with the slide's corner at (0, 0)."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dynsvc.merge.batches import Batch, Words, interleaved, json_number
from dynsvc.merge.outlines import Doubles

__all__ = ["GeoJson"]

#: Measurements that QuPath gets, by column.
_MEASURED = ("PhysicalSize", "Eccentricity", "Circularity", "MeanR", "MeanG", "MeanB")
_NUMBERS = re.compile(r"(?:-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?,)*")
_BEGIN, _END = b'{"type":"FeatureCollection","features":[\n', b"\n]}\n"


class GeoJson:
    """Writes one collection, and the same features one a line.

    Parameters
    ----------
    scale
        Level-0 pixels in a pixel of the plane.
    label
        Class of the objects.
    """

    def __init__(self, collection: Path, lines: Path, *, scale: float, label: str) -> None:
        self._collection: BinaryIO = collection.open("wb")
        self._lines: BinaryIO = lines.open("wb")
        self._collection.write(_BEGIN)
        self._first = True
        self._x, self._y = Words(scale, scale / 2, "[%.10g"), Words(scale, scale / 2, "%.10g]")
        name = json.dumps(label)
        self._class = f'"objectType":"detection","classification":{{"name":{name},"color":[0,255,255]}}'

    def add(self, batch: Batch, columns: Sequence[str]) -> None:
        """Write objects."""
        if not len(batch):
            return
        points = batch.outlines.points
        words = interleaved(self._x.of(points[:, 0].tolist()), self._y.of(points[:, 1].tolist()))
        bounds = (2 * batch.outlines.starts).tolist()
        places = [(name, columns.index(name)) for name in _MEASURED if name in columns]
        last = max((place for _, place in places), default=0) + 1
        features = []
        for number, row in enumerate(batch.rows):
            begin, end = bounds[number], bounds[number + 1]
            if number in batch.rings:
                geometry = self._geometry(batch.rings[number])
            else:
                ring = ",".join(words[begin:end])
                geometry = f'"Polygon","coordinates":[[{ring},{words[begin]},{words[begin + 1]}]]'
            values = row.split(",", last)
            measured = _measured([(name, values[place]) for name, place in places])
            features.append(
                f'{{"type":"Feature","id":"{_name(geometry)}","geometry":{{"type":{geometry}}},'
                f'"properties":{{{self._class},"measurements":{{{measured}}}}}}}'
            )
        self._lines.write(("\n".join(features) + "\n").encode())
        self._collection.write((("" if self._first else ",\n") + ",\n".join(features)).encode())
        self._first = False

    def close(self) -> None:
        """Complete the files. A second time does nothing."""
        if not self._collection.closed:
            self._collection.write(_END)
            self._collection.close()
        self._lines.close()

    def _geometry(self, rings: list[Doubles]) -> str:
        polygons: list[list[str]] = []
        for outer in grouped(rings):
            texts = []
            for ring in outer:
                words = interleaved(self._x.of(ring[:, 0].tolist()), self._y.of(ring[:, 1].tolist()))
                texts.append(f"[{','.join([*words, *words[:2]])}]")
            polygons.append(texts)
        listed = [f"[{','.join(texts)}]" for texts in polygons]
        if len(listed) == 1:
            return f'"Polygon","coordinates":{listed[0]}'
        return f'"MultiPolygon","coordinates":[{",".join(listed)}]'


def grouped(rings: list[Doubles]) -> list[list[Doubles]]:
    """Return the rings as polygons, each an outer ring and its holes; the largest first."""
    turned = [_turned(ring) for ring in rings]
    # Whatever the direction is, the first ring is an outer one.
    outer = [[ring] for ring, turn in zip(rings, turned, strict=True) if turn * turned[0] > 0]
    outer.sort(key=lambda polygon: -abs(_turned(polygon[0])))
    for ring, turn in zip(rings, turned, strict=True):
        if turn * turned[0] <= 0:
            # The smallest that holds it.
            holders = [polygon for polygon in outer if _holds(polygon[0], ring)] or outer
            holders[-1].append(ring)
    return outer


def _turned(ring: Doubles) -> float:
    here = ring - ring[0]
    ahead = np.roll(here, -1, axis=0)
    return float((here[:, 0] * ahead[:, 1] - ahead[:, 0] * here[:, 1]).sum())


def _holds(ring: Doubles, inner: Doubles) -> bool:
    x, y = inner[int(np.argmin(inner[:, 1]))] + (0, 0.25)
    here, ahead = ring, np.roll(ring, -1, axis=0)
    crosses = (here[:, 1] > y) != (ahead[:, 1] > y)
    here, ahead = here[crosses], ahead[crosses]
    at = here[:, 0] + (y - here[:, 1]) * (ahead[:, 0] - here[:, 0]) / (ahead[:, 1] - here[:, 1])
    return bool((at > x).sum() % 2)


def _measured(values: list[tuple[str, str]]) -> str:
    if not _NUMBERS.fullmatch("".join(f"{value}," for _, value in values)):
        values = [(name, text) for name, value in values if (text := json_number(value))]
    return ",".join([f'"{name}":{value}' for name, value in values])


def _name(geometry: str) -> str:
    """Return a UUID that the same outline gets on every run."""
    ring = geometry.partition("[[")[2].removesuffix("]]")
    word = hashlib.sha1(_NAMESPACE + ring.encode(), usedforsecurity=False).hexdigest()
    return f"{word[:8]}-{word[8:12]}-5{word[13:16]}-{_VARIANT[word[16]]}{word[17:20]}-{word[20:32]}"


_NAMESPACE = uuid.NAMESPACE_OID.bytes
_VARIANT = {f"{digit:x}": "89ab"[digit % 4] for digit in range(16)}
