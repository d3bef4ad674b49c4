"""The files of a merged result are what their readers expect."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from dynsvc.merge import Merged, Wanted
from dynsvc.merge.mask import MaskPyramid
from dynsvc.tiles import Grid
from tests.support import tiled
from tests.support.tiled import Labels, file, region

#: 4 x 3 tiles on a slide with two level-0 pixels in a pixel of the plane.
GRID = Grid(width_px=120, height_px=80, tile_px=32, halo_px=6, scale=2.0)


def scene() -> Labels:
    """Discs, a large ring over several tiles, and two pieces of one thing that touch at a corner."""
    labels = np.zeros((80, 120), np.int32)
    y, x = np.mgrid[:80, :120]
    far = np.hypot(x - 70, y - 40)
    labels[(far < 35) & (far > 28)] = 1
    for number, (left, top) in enumerate([(10, 10), (31, 30), (70, 40), (100, 8), (32, 64), (12, 50)], 2):
        labels[np.hypot(x - left, y - top) < 6] = number
    return labels


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Merged:
    return tiled.merged(scene(), GRID, tmp_path_factory.mktemp("merge"), slide_id="5f3e")


def table(result: Merged) -> list[dict[str, str]]:
    return tiled.rows(file(result, "-features.csv"))


def document(result: Merged, ending: str) -> Any:
    return json.loads(file(result, ending).read_text())


def test_the_loader_finds_what_it_needs(result: Merged) -> None:
    # As ProcessQuipCSVFile reads a zip: algmeta on the first line, the table by its prefix.
    metadata = [path for name, path in result.files.items() if name.endswith("-algmeta.json")]
    assert len(metadata) == 1
    values = json.loads(metadata[0].read_text().splitlines()[0])
    assert {"case_id", "subject_id", "analysis_id", "analysis_desc", "out_file_prefix"} <= set(values)
    assert values["out_file_prefix"] == "subject_1.case_1_mpp_0.25_x0_y0"
    assert (values["image_width"], values["image_height"], values["mpp"]) == (240, 160, 0.25)
    assert (values["case_id"], values["analysis_id"], values["otsu_ratio"]) == ("case/1", "run:1", 1)
    lines = result.files[f"{values['out_file_prefix']}-features.csv"].read_text().splitlines()
    columns = lines[0].split(",")
    assert (columns[0], columns[-1]) == ("AreaInPixels", "Polygon")
    for line in lines[1:]:
        cells = line.split(",")
        assert len(cells) == len(columns)
        assert cells[-1][0] + cells[-1][-1] == "[]"
        ring = [float(word) for word in cells[-1][1:-1].split(":")]
        assert len(ring) % 2 == 0
        assert min(ring) >= -1
        assert max(ring[::2]) <= 240
        assert max(ring[1::2]) <= 160
    assert len(lines) - 1 == result.summary["objects"] == 7
    assert file(result, "-algmeta.csv").read_text().splitlines()[0].split(",") == list(values)


def test_every_object_lies_where_it_is_on_the_slide(result: Merged) -> None:
    areas = {1 + number: int((scene() == 1 + number).sum()) for number in range(7)}
    assert sorted(int(row["AreaInPixels"]) for row in table(result)) == sorted(areas.values())
    disc = next(
        row
        for row in table(result)
        if tiled.points(row)[:, 0].max() < 40 and tiled.points(row)[:, 1].max() < 40
    )
    # Its centre is pixel 10 of the plane: level-0 pixels 20 and 21.
    assert tiled.points(disc).mean(axis=0) == pytest.approx([20.5, 20.5])


def test_qupath_reads_the_collection(result: Merged) -> None:
    collection = document(result, ".geojson")
    assert collection["type"] == "FeatureCollection"
    features = collection["features"]
    assert len({uuid.UUID(feature["id"]) for feature in features}) == len(features) == 7
    for feature, row in zip(features, table(result), strict=True):
        assert feature["type"] == "Feature"
        assert feature["geometry"]["type"] == "Polygon"
        rings = feature["geometry"]["coordinates"]
        assert all(ring[0] == ring[-1] and len(ring) >= 4 for ring in rings)
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert properties["classification"] == {"name": "Nucleus", "color": [0, 255, 255]}
        assert all(isinstance(value, int | float) for value in properties["measurements"].values())
        # From the slide's corner, not from the centre of its first pixel.
        points = np.concatenate([np.array(ring[:-1]) for ring in rings])
        assert np.array_equal(points, tiled.points(row) + 0.5)
    assert sorted(len(feature["geometry"]["coordinates"]) for feature in features) == [1] * 6 + [2]
    lines = file(result, ".geojsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == features


def test_two_runs_give_the_same_bytes(result: Merged, tmp_path: Path) -> None:
    again = tiled.merged(scene(), GRID, tmp_path, slide_id="5f3e")
    assert {name: path.read_bytes() for name, path in again.files.items()} == {
        name: path.read_bytes() for name, path in result.files.items()
    }


def test_marks_have_what_the_viewer_asks_for(result: Merged) -> None:
    marks = document(result, "-marks-0001.json")
    assert file(result, "-marks-0001.json").read_bytes().isascii()
    assert len(marks) == 7
    assert len({json.dumps(mark["provenance"], sort_keys=True) for mark in marks}) == 1
    assert marks[0]["provenance"]["image"]["slide"] == "5f3e"
    assert marks[0]["provenance"]["analysis"] == {
        "source": "computer", "computation": "segmentation", "execution_id": "run:1"
    }  # fmt: skip
    for mark, row in zip(marks, table(result), strict=True):
        feature = mark["geometries"]["features"][0]
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        outer = tiled.rings_of((tiled.points(row) - 0.5) / 2, float(row["AreaInPixels"]))[0]
        assert np.allclose(np.array(ring[:-1]) * (240, 160), outer * 2 + 0.5)
        left, top, right, bottom = mark["bbox"]
        assert feature["bound"]["coordinates"][0][2] == [right, bottom]
        assert (mark["x"], mark["y"]) == pytest.approx(((left + right) / 2, (top + bottom) / 2))
        assert mark["footprint"] == 4 * float(row["AreaInPixels"])
        assert feature["properties"]["style"]["color"] == "#00ffff"
        assert {"name": "AreaInPixels", "value": int(row["AreaInPixels"])} in mark["properties"][
            "scalar_features"
        ][0]["nv"]


def test_marks_are_split_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynsvc.merge.camicroscope._FILE_BYTES", 5000)
    result = tiled.merged(scene(), GRID, tmp_path)
    paths = [path for name, path in result.files.items() if "-marks-" in name]
    assert len(paths) > 1
    assert all(path.stat().st_size <= 5000 + 3 for path in paths if len(json.loads(path.read_text())) > 1)
    assert sum(len(json.loads(path.read_text())) for path in paths) == 7


def test_the_heatmap_counts_every_object(result: Merged) -> None:
    heatmap = document(result, "-heatmap.json")
    analysis = heatmap["provenance"]["analysis"]
    assert analysis["execution_id"] == "run:1 density"
    assert (analysis["computation"], analysis["type"]) == ("heatmap", "heatmap")
    width, height = analysis["size"]
    assert (width, height) == (64 / 240, 64 / 160)
    cell_mm2 = (64 * 0.25 / 1000) ** 2
    assert sum(row[2] for row in heatmap["data"]) * cell_mm2 == pytest.approx(7, rel=1e-5)
    (name, top), covered = [(field["name"], field["range"][1]) for field in analysis["fields"]]
    assert name == "objects per mm2"
    assert top == max(row[2] for row in heatmap["data"])
    assert 0 < covered[1] <= 1


def test_the_overview_shows_the_thumbnail_and_where_objects_are(tmp_path: Path) -> None:
    thumbnail = tmp_path / "thumbnail.png"
    Image.new("RGB", (60, 40), (200, 180, 210)).save(thumbnail)
    paths = tiled.parts(scene(), GRID, tmp_path)
    result = tiled.merge(tmp_path, paths, grid=GRID, wanted=tiled.wanted(GRID), thumbnail=thumbnail)
    picture = np.asarray(Image.open(file(result, "-overview.png")))
    assert picture.shape == (683, 1024, 3)
    plain = (picture == (200, 180, 210)).all(axis=2)
    assert 0.05 < plain.mean() < 0.95


def test_the_mask_opens_with_all_its_levels(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    expected = (rng.random((45, 60)) > 0.6).repeat(40, axis=0).repeat(40, axis=1)[:1777, :2345]
    expected[600:1100, 500:1700] = False
    path = tmp_path / "mask.ome.tif"
    with MaskPyramid(tmp_path, 2345, 1777) as pyramid:
        # Cores that fit neither into the file's tiles nor, at first, into the region.
        for top in range(-100, 1777, 300):
            for left in range(-200, 2345, 500):
                core = np.zeros((300, 500), bool)
                part = expected[max(0, top) : top + 300, max(0, left) : left + 500]
                core[
                    max(0, -top) : max(0, -top) + part.shape[0], max(0, -left) : max(0, -left) + part.shape[1]
                ] = part
                pyramid.paste(left, top, core)
            pyramid.complete_above(top + 300)
        pyramid.write(path, mpp_um=0.5, x_px=10, y_px=20)
    with tifffile.TiffFile(path) as tiff:
        (series,) = tiff.series
        assert tiff.is_ome
        assert [level.shape for level in series.levels] == [(1777, 2345), (889, 1173), (445, 587), (223, 294)]
        assert all(page.is_tiled and page.compression == 8 for page in series.levels[0].pages)
        assert np.array_equal(series.asarray(), expected)
        assert series.levels[3].asarray().mean() == pytest.approx(expected.mean(), abs=0.02)
        assert 'PhysicalSizeX="0.5"' in tiff.ome_metadata
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((2345, 1777), (1173, 889), (587, 445), (294, 223))
        pixels = np.asarray(slide.read_region((0, 0), 0, (2345, 1777)))[:, :, 0]
        assert np.array_equal(pixels, expected)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mask.ome.tif"]


def test_a_large_mask_has_large_offsets(tmp_path: Path) -> None:
    path = tmp_path / "mask.ome.tif"
    with MaskPyramid(tmp_path, 60_000, 40_000) as pyramid:
        pyramid.paste(59_000, 39_000, np.ones((1000, 1000), bool))
        pyramid.write(path, mpp_um=None, x_px=0, y_px=0)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff
    with openslide.OpenSlide(path) as slide:
        assert slide.level_count == 8
        assert np.asarray(slide.read_region((58_999, 39_500), 0, (2, 1)))[0, :, 0].tolist() == [0, 1]


def centres(result: Merged) -> set[tuple[int, int]]:
    """Middles of the outlines, in pixels of the plane."""
    if "features.csv" not in "".join(result.files):
        return set()
    middles = ((tiled.points(row) - 0.5) / 2 for row in table(result))
    return {
        (round((p[:, 0].min() + p[:, 0].max()) / 2), round((p[:, 1].min() + p[:, 1].max()) / 2))
        for p in middles
    }


def test_only_what_lies_in_the_ordered_region_counts(tmp_path: Path) -> None:
    # Level-0 pixels 21 to 139: the disc at 10 in the plane has its middle at 21, the one at 70 at 141.
    inside = region(21, 21, 120, 139)
    result = tiled.merged(scene(), GRID, tmp_path, region=inside)
    assert centres(result) == {(10, 10), (31, 30), (32, 64), (12, 50)}
    values = document(result, "-algmeta.json")
    for part in ("tile", "patch"):
        place = [values[f"{part}_{key}"] for key in ("minx", "miny", "width", "height")]
        assert place == [21, 21, 120, 139]
    mask = tifffile.imread(file(result, "-seg.ome.tif"))
    assert np.array_equal(mask, scene()[10:80, 10:71] > 0)


def test_a_polygon_narrows_the_region_down(tmp_path: Path) -> None:
    result = tiled.merged(scene(), GRID, tmp_path, polygon=((0, 0), (100, 0), (0, 100)))
    assert centres(result) == {(10, 10)}


def test_nothing_found_has_no_table_as_with_the_original(tmp_path: Path) -> None:
    result = tiled.merged(np.zeros((80, 120), np.int32), GRID, tmp_path)
    endings = {name.removeprefix("subject_1.case_1_mpp_0.25_x0_y0") for name in result.files}
    assert endings == {"-seg.ome.tif", ".geojson", ".geojsonl", "-overview.png", "-heatmap.json"}
    assert document(result, ".geojson")["features"] == []
    assert result.summary == {
        "objects": 0, "joined": 0, "dropped": 0, "area_um2": 0.0, "tiles": 12, "holes": []
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "merged").iterdir()} == set(result.files)


def test_names_are_safe() -> None:
    grid = Grid(width_px=9, height_px=9, tile_px=9, halo_px=0)
    names: Wanted = tiled.wanted(grid, subject_id="../a b", case_id="x" * 300, mpp_um=None)
    assert names.prefix.startswith("_._a_b.xxx")
    assert len(names.prefix) < 200
