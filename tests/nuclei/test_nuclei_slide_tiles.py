"""Tiles of a slide, each a picture and a run of its own: together the objects of the whole slide."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from algorithms.nuclei.pictures import opened
from algorithms.nuclei.program import main
from algorithms.nuclei.synthetic import scene

SLIDE = Path(__file__).parents[2].parent / "shared" / "data" / "sample.svs"
IDS = ["-c", "C", "-p", "P", "-a", "A"]


def survey(pictures: dict[str, np.ndarray], folder: Path, mpp: float) -> str:
    """Return the threshold that a survey of pictures finds."""
    (folder / "sampled").mkdir(parents=True)
    for name, rgb in pictures.items():
        Image.fromarray(rgb).save(folder / "sampled" / f"{name}.png")
    assert main(["--survey", "-i", str(folder / "sampled"), "-o", str(folder), "-m", str(mpp)]) == 0
    threshold = json.loads((folder / "survey.json").read_text())["threshold"]
    assert isinstance(threshold, str)
    return threshold


def rows_of(rgb: np.ndarray, x: int, y: int, threshold: str, folder: Path, mpp: float) -> list[str]:
    """Run the program on one picture that begins at (x, y) of the slide; return its rows."""
    folder.mkdir(parents=True)
    Image.fromarray(rgb).save(folder / "tile.png", compress_level=0)
    places = ["-i", str(folder / "tile.png"), "-o", str(folder), "-s", f"{x},{y}", "-m", str(mpp)]
    assert main(["-t", "img", *places, *IDS, "--threshold", threshold]) == 0
    (table,) = folder.glob("*-features.csv")
    return table.read_text().splitlines()[1:]


def centre(row: str) -> tuple[float, float]:
    """Return the centroid of a row's polygon (shoelace formula)."""
    points = np.array([float(word) for word in row[row.index("[") + 1 : -1].split(":")]).reshape(-1, 2)
    first, second = points, np.roll(points, -1, axis=0)
    cross = first[:, 0] * second[:, 1] - second[:, 0] * first[:, 1]
    middle = ((first + second) * cross[:, None]).sum(axis=0) / (3 * cross.sum())
    return float(middle[0]), float(middle[1])


def tiled(
    rgb: np.ndarray, side: int, start: tuple[int, int], threshold: str, folder: Path, mpp: float
) -> list[str]:
    """Run the program on each tile with its halo, and keep the rows whose centre lies in its core."""
    halo = math.ceil(40 / mpp)
    height, width = rgb.shape[:2]
    kept = []
    for top in range(start[1], height, side):
        for left in range(start[0], width, side):
            x, y = max(0, left - halo), max(0, top - halo)
            part = rgb[y : top + side + halo, x : left + side + halo]
            for row in rows_of(part, x, y, threshold, folder / f"{left},{top}", mpp):
                column, line = centre(row)
                if left <= column + 0.5 < left + side and top <= line + 0.5 < top + side:
                    kept.append(row)
    return kept


@pytest.mark.parametrize("mpp", [0.1667, 0.22, 0.25, 0.5, 1.0])
def test_a_nucleus_does_not_depend_on_the_tile_it_was_found_in(mpp: float, tmp_path: Path) -> None:
    side = min(round(320 / mpp), 1400)
    rgb = scene(4, side_px=side, mpp_um=mpp, nuclei=round((side * mpp) ** 2 / 140), overlap=0.1).rgb
    threshold = survey({"all": rgb}, tmp_path, mpp)
    whole = rows_of(rgb, 0, 0, threshold, tmp_path / "whole", mpp)
    assert len(whole) > 250
    for tile_px, start in ((256, (0, 0)), (512, (-101, -77))):
        found = tiled(rgb, tile_px, start, threshold, tmp_path / str(tile_px), mpp)
        assert sorted(found) == sorted(whole)


@pytest.mark.skipif(not SLIDE.exists(), reason="the sample slide is not on this machine")
def test_tiles_of_any_size_give_the_rows_of_the_whole_slide(tmp_path: Path) -> None:
    with opened(SLIDE, slide=True) as slide:
        rgb = slide.read(0, 0, slide.width_px, slide.height_px)
    samples = {f"{y},{x}": rgb[y : y + 512, x : x + 512] for y in (512, 1536) for x in (512, 1536)}
    threshold = survey(samples, tmp_path, 0.499)
    assert main(["-t", "wsi", "-i", str(SLIDE), "-o", str(tmp_path), *IDS, "--threshold", threshold]) == 0
    (table,) = tmp_path.glob("*-features.csv")
    whole = table.read_text().splitlines()[1:]
    assert len(whole) > 3000
    for tile_px in (256, 512, 1024):
        found = tiled(rgb, tile_px, (0, 0), threshold, tmp_path / str(tile_px), 0.499)
        assert sorted(found) == sorted(whole)


def test_a_survey_of_parts_has_the_threshold_of_their_sum(tmp_path: Path) -> None:
    rgb = scene(3, side_px=512, nuclei=120).rgb
    whole = survey({"all": rgb}, tmp_path / "a", 0.25)
    # 256 px are whole cells, so that only the blur at their edges differs.
    parts = {f"{y}{x}": rgb[y : y + 256, x : x + 256] for y in (0, 256) for x in (0, 256)}
    told = [float(word) for word in survey(parts, tmp_path / "b", 0.25).split(":")]
    assert told == pytest.approx([float(word) for word in whole.split(":")], rel=0.02)


def test_a_survey_of_glass_says_that_there_is_nothing_and_no_tile_finds_any(tmp_path: Path) -> None:
    glass = np.full((300, 300, 3), 243, np.uint8)
    threshold = survey({"a": glass, "b": glass}, tmp_path, 0.25)
    assert threshold == "none"
    assert json.loads((tmp_path / "survey.json").read_text())["warnings"] == [
        "nothing in the region stands out as stained nuclei"
    ]
    rgb = scene(1, nuclei=40, side_px=300).rgb
    assert rows_of(rgb, 0, 0, threshold, tmp_path / "tile", 0.25) == []
    values = json.loads((tmp_path / "tile" / "result.json").read_text())
    assert (values["count"], values["warnings"]) == (0, [])


def test_a_survey_that_cannot_be_made_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    assert main(["--survey", "-i", str(tmp_path), "-o", str(tmp_path), "-m", "0.25"]) == 3
    assert "holds no picture" in capsys.readouterr().err
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    assert main(["--survey", "-i", str(tmp_path), "-o", str(tmp_path), "-m", "0.25"]) == 3
    assert "torn.png" in capsys.readouterr().err
    assert main(["--survey", "-o", str(tmp_path)]) == 2
    assert not (tmp_path / "survey.json").exists()


def test_a_survey_without_a_scale_says_which_one_it_took(tmp_path: Path) -> None:
    picture = tmp_path / "tile.png"
    Image.fromarray(scene(1, nuclei=40, side_px=300).rgb).save(picture)
    assert main(["--survey", "-i", str(picture), "-o", str(tmp_path)]) == 0
    assert "0.25 was assumed" in json.loads((tmp_path / "survey.json").read_text())["warnings"][0]
