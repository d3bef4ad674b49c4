"""Tiles: the result does not depend on how a region is cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from algorithms.nuclei import tiles as module
from algorithms.nuclei.arguments import Parameters
from algorithms.nuclei.pictures import Picture, opened
from algorithms.nuclei.region import label
from algorithms.nuclei.scores import scores
from algorithms.nuclei.stain import Grid
from algorithms.nuclei.synthetic import scene
from algorithms.nuclei.tiles import Box, cut, nuclei_in, survey

SLIDE = Path(__file__).parents[2].parent / "shared" / "data" / "sample.svs"


@pytest.mark.parametrize("mpp_um", [0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (700, 3000), (2221, 2967)])
def test_cores_cover_a_region_exactly_once(mpp_um: float, size: tuple[int, int]) -> None:
    whole = Box(0, 0, *size)
    covered = np.zeros(size[::-1], np.uint8)
    for tile in cut(whole, whole, Grid.of(mpp_um)):
        core = tile.core
        covered[core.top : core.bottom, core.left : core.right] += 1
        assert tile.whole.left <= core.left
        assert tile.whole.bottom >= core.bottom
    assert (covered == 1).all()


@pytest.mark.parametrize(("mpp_um", "side"), [(0.25, 1400), (0.5, 900)])
def test_tiles_give_the_nuclei_of_the_whole_region(mpp_um: float, side: int) -> None:
    rgb = scene(4, side_px=side, mpp_um=mpp_um, nuclei=900, overlap=0.1).rgb
    whole = label(rgb, mpp_um, tile_px=100_000)
    for tile_px in (256, 512):
        tiled = label(rgb, mpp_um, tile_px=tile_px)
        result = scores(whole, tiled)
        assert result.pq > 0.98
        assert abs(result.found / result.true - 1) <= 0.005


@pytest.mark.skipif(not SLIDE.exists(), reason="the sample slide is not on this machine")
def test_tiles_give_the_nuclei_of_the_whole_slide() -> None:
    with opened(SLIDE, slide=True) as slide:
        rgb = slide.read(0, 0, slide.width_px, slide.height_px)
    whole = label(rgb, 0.499, tile_px=100_000)
    result = scores(whole, label(rgb, 0.499, tile_px=512))
    assert result.pq >= 0.98
    assert abs(result.found / result.true - 1) <= 0.005


def test_tiles_can_be_done_in_any_order() -> None:
    rgb = scene(6, side_px=900, nuclei=300).rgb
    source, grid, box = Picture(rgb), Grid.of(0.25), Box(0, 0, 900, 900)
    tiles = cut(box, box, grid, tile_px=128)
    found = survey(source, tiles, grid, None)
    seen = []
    for order in (tiles, tiles[::-1]):
        results = [(tile.core, nuclei_in(source, tile, found, Parameters(), 0.25)) for tile in order]
        seen.append({core: result[1].area.tolist() for core, result in results if result})
    assert seen[0] == seen[1]


def test_a_large_region_is_surveyed_on_some_of_its_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SURVEYED", 9)
    rgb = scene(8, side_px=1200, nuclei=500).rgb
    source, grid, box = Picture(rgb), Grid.of(0.25), Box(0, 0, 1200, 1200)
    some = survey(source, cut(box, box, grid, tile_px=100), grid, None)
    monkeypatch.undo()
    everything = survey(source, cut(box, box, grid, tile_px=100), grid, None)
    assert some.threshold is not None
    assert everything.threshold is not None
    assert some.threshold != everything.threshold
    assert some.threshold.od == pytest.approx(everything.threshold.od, rel=0.1)


def test_no_tile_keeps_what_only_touches_its_halo(tmp_path: Path) -> None:
    rgb = np.full((256, 600, 3), 243, np.uint8)
    rgb[100:124, 100:124] = rgb[100:124, 300:324] = (90, 40, 130)
    Image.fromarray(rgb).save(tmp_path / "two.png")
    assert label(rgb, 0.25, tile_px=150).max() == label(rgb, 0.25).max() == 2
