"""Merging tiles gives what the algorithm gives without tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from dynsvc.merge import Wanted, merge
from dynsvc.regions import Region
from dynsvc.tiles import Grid
from tests.support.tiled import parts_of


def test_an_object_over_four_tiles_is_one(tmp_path: Path) -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[5:35, 4:36] = 1
    grid = Grid(width_px=40, height_px=40, tile_px=20, halo_px=2)
    wanted = Wanted(
        subject_id="s",
        case_id="c",
        analysis_id="a",
        slide_width_px=40,
        slide_height_px=40,
        mpp_um=0.5,
        region=Region(x_px=0, y_px=0, width_px=40, height_px=40),
    )
    merged = merge(tmp_path, parts_of(labels, grid, tmp_path), grid=grid, wanted=wanted)
    assert (merged.summary["objects"], merged.summary["joined"]) == (1, 1)
    assert merged.summary["area_um2"] == 30 * 32 * 0.25
    mask = tifffile.imread(merged.files[f"{wanted.prefix}-seg.ome.tif"])
    assert np.array_equal(mask, labels)
