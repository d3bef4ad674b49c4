"""Marks and heatmap as caMicroscope 3 takes them: positions are fractions of the slide's width and height."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynsvc.merge.batches import Batch, Words, interleaved, json_number
from dynsvc.merge.density import Density

__all__ = ["Marks", "heatmap"]

#: A document has less than 16 MB, and a body of several should be moderate.
_FILE_BYTES = 8_000_000
_STYLE = '{"color":"#00ffff","lineJoin":"round","lineCap":"round","isFill":false}'
#: Features that a mark shows, by column.
_SHOWN = ("AreaInPixels", "PhysicalSize", "Eccentricity", "Circularity")


class Marks:
    """Writes marks into numbered files, each an array that can be posted as it is.

    Parameters
    ----------
    folder, prefix
        The files are ``<prefix>-marks-0001.json`` and so on.
    provenance
        The same in every mark of a run: caMicroscope makes a layer of each different one.
    scale
        Level-0 pixels in a pixel of the plane.
    width_px, height_px
        Size of level 0.
    """

    def __init__(
        self,
        folder: Path,
        prefix: str,
        *,
        provenance: dict[str, Any],
        scale: float,
        width_px: int,
        height_px: int,
    ) -> None:
        self.paths: list[Path] = []
        self._folder, self._prefix, self._scale = folder, prefix, scale
        self._size = np.array([width_px, height_px], float)
        shift = (scale - 1) / 2
        self._x = Words(scale / width_px, shift / width_px, "[%.9g")
        self._y = Words(scale / height_px, shift / height_px, "%.9g]")
        self._begin = (
            f'{{"provenance":{json.dumps(provenance)},"object_type":"nucleus","parent_id":"self",'
            '"normalized":"true",'
        )
        self._waiting: list[str] = []
        self._bytes = 0

    def add(self, batch: Batch, columns: Sequence[str]) -> None:
        """Write objects."""
        points = batch.outlines.points
        words = interleaved(self._x.of(points[:, 0].tolist()), self._y.of(points[:, 1].tolist()))
        bounds = (2 * batch.outlines.starts).tolist()
        boxes = batch.outlines.boxes() * self._scale + (self._scale - 1) / 2
        fractions = (boxes / np.tile(self._size, 2)).tolist()
        footprints = (batch.areas_px * self._scale**2).tolist()
        spread = np.random.default_rng(len(batch)).random(len(batch)).tolist()
        places = [(name, columns.index(name)) for name in _SHOWN if name in columns]
        last = max((place for _, place in places), default=0) + 1
        for number, row in enumerate(batch.rows):
            # Only the outer ring of the largest piece is drawn.
            begin, end = bounds[number], bounds[number + 1]
            if number in batch.rings:
                end = begin + 2 * len(batch.rings[number][0])
            ring = ",".join([*words[begin:end], *words[begin : begin + 2]])
            left, top, right, bottom = (f"{value:.9g}" for value in fractions[number])
            x, y = (fractions[number][side] + fractions[number][side + 2] for side in (0, 1))
            values = row.split(",", last)
            shown = [(name, value) for name, place in places if (value := json_number(values[place]))]
            listed = ",".join(f'{{"name":"{name}","value":{value}}}' for name, value in shown)
            named = ",".join(f'"{name}":{value}' for name, value in shown)
            self._put(
                f'{self._begin}"properties":{{"scalar_features":[{{"ns":"dynsvc","nv":[{listed}]}}],'
                f'"annotations":{{{named}}}}},"geometries":{{"type":"FeatureCollection","features":[{{'
                f'"type":"Feature","properties":{{"style":{_STYLE}}},'
                f'"geometry":{{"type":"Polygon","coordinates":[[{ring}]]}},'
                f'"bound":{{"type":"Polygon","coordinates":[[[{left},{top}],[{right},{top}],[{right},{bottom}],'
                f'[{left},{bottom}],[{left},{top}]]]}}}}]}},"bbox":[{left},{top},{right},{bottom}],'
                f'"x":{x / 2:.9g},"y":{y / 2:.9g},"footprint":{footprints[number]:.6g},'
                f'"randval":{spread[number]:.6g}}}'
            )

    def close(self) -> None:
        """Write what waits."""
        if self._waiting:
            path = self._folder / f"{self._prefix}-marks-{len(self.paths) + 1:04}.json"
            path.write_text("[" + ",\n".join(self._waiting) + "]\n", encoding="ascii")
            self.paths.append(path)
            self._waiting, self._bytes = [], 0

    def _put(self, mark: str) -> None:
        if self._bytes + len(mark) > _FILE_BYTES:
            self.close()
        self._waiting.append(mark)
        self._bytes += len(mark) + 2


def heatmap(density: Density, image: dict[str, str], execution_id: str) -> str:
    """Return the document of one heatmap: how dense objects are, and how much of each cell they cover."""
    width, height = density.cell_of_slide
    rows = list(_cells(density))
    most = [max((row[field] for row in rows), default=0.0) for field in (2, 3)]
    document = {
        "provenance": {
            "image": {"specimen": "", "study": "", **image},
            "analysis": {
                "execution_id": execution_id,
                "study_id": "",
                "source": "computer",
                "computation": "heatmap",
                "type": "heatmap",
                "coordinateSystem": "image",
                "size": [width, height],
                "fields": [
                    {"name": name, "range": [0, top], "value": [0, top]}
                    for name, top in zip((density.unit, "covered"), most, strict=True)
                ],
                "setting": {"mode": "gradient", "field": density.unit},
            },
        },
        "data": rows,
    }
    return json.dumps(document, separators=(",", ":"))


def _cells(density: Density) -> Iterator[list[float]]:
    width, height = density.cell_of_slide
    values, covered = density.values(), density.covered()
    for row, column in np.argwhere(density.counts > 0).tolist():
        numbers = column * width, row * height, values[row, column], covered[row, column]
        yield [float(f"{number:.7g}") for number in numbers]
