"""The part of a region whose results go into one set of files, filled tile by tile."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import chain
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from .arguments import Request
from .columns import COLUMNS
from .drawing import draw_outlines, jpeg, labels_file, mask_png, stamped, strip_rows
from .failures import OutputFailed
from .geojson import feature, feature_collection
from .pictures import Bytes, Source
from .polygons import doubled_polygons
from .raster import Raster
from .results import Results, algmeta, prefix
from .table import HEADER, measured, rows
from .tiles import Box, Survey, Tile, nuclei_in

__all__ = ["Patch"]

#: Measurements that QuPath gets, by column.
_FOR_QUPATH = ("PhysicalSize", "Eccentricity", "Circularity", "MeanR", "MeanG", "MeanB")
_QUPATH = [(name, COLUMNS.index(name)) for name in _FOR_QUPATH]
_AREA = COLUMNS.index("PhysicalSize")
_Join = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
#: More text than this lies in a file.
_TEXT_BYTES = 2**23


class Patch:
    """The part of the region whose results go into one set of files.

    What is large lies in files without a name, in the output folder, until the patch is closed.
    """

    def __init__(self, request: Request, source: Source, region: Box, box: Box, mpp_um: float) -> None:
        self.request, self.source, self.region, self.box, self.mpp_um = request, source, region, box, mpp_um
        # In img mode the source begins at the tile's origin, otherwise at the slide's.
        picture = request.input_type == "img"
        self.x_px, self.y_px = (request.tile_x_px, request.tile_y_px) if picture else (0, 0)
        self.count = 0
        shape, folder = (box.height, box.width), request.output_dir
        self.mask = Raster(shape, np.uint8, folder)
        self.labels = Raster(shape, np.int32, folder) if "labels" in request.levels else None
        self.table, self.features = (
            tempfile.SpooledTemporaryFile(_TEXT_BYTES, dir=str(folder))  # noqa: SIM115 - closed by __exit__
            for _ in range(2)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for part in (self.mask, self.labels, self.table, self.features):
            if part is not None:
                part.close()

    def add(self, tile: Tile, found: Survey) -> list[float]:
        """Segment one tile and return the areas of its nuclei in um2."""
        result = nuclei_in(self.source, tile, found, self.request.parameters, self.mpp_um)
        if result is None:
            return []
        rgb, nuclei = result
        x_px, y_px = self.x_px + tile.whole.left, self.y_px + tile.whole.top
        numbers = measured(nuclei, rgb, self.mpp_um).tolist()
        polygons = doubled_polygons(nuclei.outlines)
        try:
            self.table.writelines(f"{line}\n".encode() for line in rows(numbers, polygons, x_px, y_px))
            if "geojson" in self.request.levels:
                for values, polygon in zip(numbers, polygons, strict=True):
                    measurements = [(name, values[column]) for name, column in _QUPATH]
                    self.features.write(b",\n" if self.features.tell() else b"")
                    self.features.write(feature(polygon, x_px, y_px, measurements).encode())
        except OSError as error:
            raise OutputFailed(f"the table cannot be put on the disk: {error.strerror}") from error
        self._draw(self.mask, tile.whole, stamped(nuclei), np.maximum)
        if self.labels is not None:
            named = np.where(nuclei.labels, nuclei.labels + np.int32(self.count), np.int32(0))
            self._draw(self.labels, tile.whole, named, lambda there, new: np.where(there, there, new))
        self.count += len(nuclei)
        return [values[_AREA] for values in numbers]

    def _draw(self, raster: Raster, place: Box, part: NDArray[Any], join: _Join) -> None:
        """Join *part* at *place* with what is there."""
        box = self.box
        left, top = max(box.left, place.left), max(box.top, place.top)
        right, bottom = min(box.right, place.right), min(box.bottom, place.bottom)
        new = part[top - place.top : bottom - place.top, left - place.left : right - place.left]
        there = raster.read(left - box.left, top - box.top, right - left, bottom - top)
        raster.write(left - box.left, top - box.top, join(there, new))

    def write(self, results: Results) -> None:
        """Write the patch's files. They are written without nuclei, too."""
        request, box = self.request, self.box
        tile = Box(
            self.x_px + self.region.left, self.y_px + self.region.top, self.region.width, self.region.height
        )
        patch = Box(self.x_px + box.left, self.y_px + box.top, box.width, box.height)
        name = prefix(request, self.mpp_um, patch.left, patch.top)
        results.write(f"{name}-seg.png", mask_png(self.mask))
        if "img" in request.levels:
            results.write(f"{name}-tile.jpg", jpeg(self._rgb(), box.height))
        if "overlay" in request.levels:
            drawn = map(draw_outlines, self._rgb(), self.mask.strips(strip_rows(box.width)))
            results.write(f"{name}-overlay.jpg", jpeg(drawn, box.height))
        if self.labels is not None:
            ending, content = labels_file(self.labels, self.count)
            results.write(f"{name}-labels{ending}", content)
        if "geojson" in request.levels:
            results.write(f"{name}.geojson", feature_collection(_pieces(self.features)))
        results.write(f"{name}-features.csv", chain([f"{HEADER}\n".encode()], _pieces(self.table)))
        image_px = self.source.width_px, self.source.height_px
        results.write_metadata(
            algmeta(request, mpp_um=self.mpp_um, image_px=image_px, tile=tile, patch=patch)
        )

    def _rgb(self) -> Iterator[Bytes]:
        """Return the patch's pixels in strips."""
        step = strip_rows(self.box.width)
        for top in range(0, self.box.height, step):
            rows = min(step, self.box.height - top)
            yield self.source.read(self.box.left, self.box.top + top, self.box.width, rows)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(_TEXT_BYTES):
        yield piece
