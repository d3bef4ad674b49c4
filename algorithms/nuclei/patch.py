"""The part of a region whose results go into one set of files, filled tile by tile."""

from __future__ import annotations

import numpy as np

from .arguments import Request
from .columns import COLUMNS
from .drawing import draw_outlines, jpeg, labels_file, mask_png, stamped
from .geojson import feature, feature_collection
from .pictures import Picture, Source
from .polygons import doubled_polygons
from .results import Results, algmeta, prefix
from .table import HEADER, measured, rows
from .tiles import Box, Survey, Tile, nuclei_in

__all__ = ["Patch"]

#: Measurements that QuPath gets, by column.
_FOR_QUPATH = ("PhysicalSize", "Eccentricity", "Circularity", "MeanR", "MeanG", "MeanB")
_QUPATH = [(name, COLUMNS.index(name)) for name in _FOR_QUPATH]
_AREA = COLUMNS.index("PhysicalSize")


class Patch:
    """The part of the region whose results go into one set of files."""

    def __init__(self, request: Request, source: Source, region: Box, box: Box, mpp_um: float) -> None:
        self.request, self.source, self.region, self.box, self.mpp_um = request, source, region, box, mpp_um
        # In img mode the source begins at the tile's origin, otherwise at the slide's.
        picture = isinstance(source, Picture)
        self.x_px, self.y_px = (request.tile_x_px, request.tile_y_px) if picture else (0, 0)
        self.mask = np.zeros((box.height, box.width), np.uint8)
        wants_labels = "labels" in request.levels
        self.labels = np.zeros((box.height, box.width), np.int32) if wants_labels else None
        self.rows: list[str] = []
        self.features: list[str] = []

    def add(self, tile: Tile, found: Survey) -> list[float]:
        """Segment one tile and return the areas of its nuclei in um2."""
        result = nuclei_in(self.source, tile, found, self.request.parameters, self.mpp_um)
        if result is None:
            return []
        rgb, nuclei = result
        x_px, y_px = self.x_px + tile.whole.left, self.y_px + tile.whole.top
        numbers = measured(nuclei, rgb, self.mpp_um).tolist()
        polygons = doubled_polygons(nuclei.outlines)
        if self.labels is not None:
            view, part = _overlap(self.labels, self.box, nuclei.labels, tile.whole)
            free = (part != 0) & (view == 0)
            view[free] = part[free].astype(np.int32) + len(self.rows)
        self.rows += rows(numbers, polygons, x_px, y_px)
        if "geojson" in self.request.levels:
            self.features += [
                feature(polygon, x_px, y_px, [(name, values[column]) for name, column in _QUPATH])
                for values, polygon in zip(numbers, polygons, strict=True)
            ]
        view, part = _overlap(self.mask, self.box, stamped(nuclei), tile.whole)
        np.maximum(view, part, out=view)
        return [values[_AREA] for values in numbers]

    def write(self, results: Results) -> None:
        """Write the patch's files. They are written without nuclei, too."""
        request, box = self.request, self.box
        tile = Box(
            self.x_px + self.region.left, self.y_px + self.region.top, self.region.width, self.region.height
        )
        patch = Box(self.x_px + box.left, self.y_px + box.top, box.width, box.height)
        name = prefix(request, self.mpp_um, patch.left, patch.top)
        results.write(f"{name}-seg.png", mask_png(self.mask))
        if request.levels & {"img", "overlay"}:
            rgb = self.source.read(box.left, box.top, box.width, box.height)
            if "img" in request.levels:
                results.write(f"{name}-tile.jpg", jpeg(rgb))
            if "overlay" in request.levels:
                # A picture's pixels are the source's own; a slide's were read for this.
                rgb = rgb.copy() if isinstance(self.source, Picture) else rgb
                draw_outlines(rgb, self.mask)
                results.write(f"{name}-overlay.jpg", jpeg(rgb))
        if self.labels is not None:
            ending, content = labels_file(self.labels)
            results.write(f"{name}-labels{ending}", content)
        if "geojson" in request.levels:
            results.write(f"{name}.geojson", feature_collection(self.features))
        results.write(f"{name}-features.csv", "\n".join([HEADER, *self.rows, ""]).encode())
        image_px = self.source.width_px, self.source.height_px
        results.write_metadata(
            algmeta(request, mpp_um=self.mpp_um, image_px=image_px, tile=tile, patch=patch)
        )


def _overlap(whole: np.ndarray, box: Box, part: np.ndarray, place: Box) -> tuple[np.ndarray, np.ndarray]:
    """Return views of where *part* at *place* lies on *whole* at *box*."""
    left, top = max(box.left, place.left), max(box.top, place.top)
    right, bottom = min(box.right, place.right), min(box.bottom, place.bottom)
    return (
        whole[top - box.top : bottom - box.top, left - box.left : right - box.left],
        part[top - place.top : bottom - place.top, left - place.left : right - place.left],
    )
