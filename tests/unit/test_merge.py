"""Merging tiles gives what the algorithm gives without tiles."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from dynsvc.errors import ArtifactCorrupt, OutputMissing, OutputRefused
from dynsvc.merge import joining, merge, part_of
from dynsvc.merge.outlines import Outlines
from dynsvc.merge.pixels import Pixels, rings_of
from dynsvc.tiles import Grid
from tests.support import tiled
from tests.support.tiled import Labels, file, region, wanted

SIDES = st.integers(8, 48)
SHAPES = st.lists(
    st.tuples(
        st.sampled_from(["disc", "ring", "box", "cross"]),
        st.integers(0, 47),
        st.integers(0, 47),
        st.integers(1, 22),
        st.integers(1, 22),
    ),
    max_size=10,
)


def drawn(height: int, width: int, shapes: list[tuple[str, int, int, int, int]], *, apart: bool) -> Labels:
    """Objects, later ones over earlier ones. What is cut in two that way is two objects."""
    labels = np.zeros((height, width), np.int32)
    y, x = np.mgrid[:height, :width]
    for number, (kind, left, top, wide, high) in enumerate(shapes, 1):
        far = ((x - left) / wide) ** 2 + ((y - top) / high) ** 2
        mask = {
            "disc": far <= 1,
            "ring": (far <= 1) & (far > 0.4),
            "box": (abs(x - left) <= wide) & (abs(y - top) <= high),
            "cross": (abs(x - left) <= wide) & (y == top) | (abs(y - top) <= high) & (x == left),
        }[kind]
        if not apart or not (ndimage.binary_dilation(mask, np.ones((3, 3))) & (labels > 0)).any():
            labels[mask] = number
    pieces = np.zeros_like(labels)
    for number, mask in enumerate(tiled.objects_of(labels), 1):
        pieces[mask] = number
    return pieces


def check_same(labels: Labels, grid: Grid, columns: tuple[str, ...] = tiled.COLUMNS) -> None:
    """Merged is untiled: the same outlines, each once, the same features and the same mask."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        whole = tiled.run(labels, region(0, 0, grid.width_px, grid.height_px), folder / "whole")
        result = tiled.merged(labels, grid, folder, marks=False)
        table = next((path for name, path in result.files.items() if name.endswith("features.csv")), None)
        expected, found = (tiled.rows(path) for path in (whole.get("t-features.csv"), table))
        known = {tiled.canonical(row): row for row in expected}
        assert tiled.outlines(table) == tiled.outlines(whole.get("t-features.csv"))
        assert result.summary["objects"] == len(expected)
        for row in found:
            for column in columns:
                value = row[column]
                assert value == known[tiled.canonical(row)][column] or (column, value) == ("Odd", "nan")
        mask = tifffile.imread(file(result, "-seg.ome.tif"))
        assert np.array_equal(mask, (labels > 0).astype(np.uint8))


@settings(max_examples=70, deadline=None)
@given(SIDES, SIDES, SHAPES, st.integers(4, 30), st.integers(1, 14))
def test_merged_is_untiled(
    height: int, width: int, shapes: list[tuple[str, int, int, int, int]], tile_px: int, halo_px: int
) -> None:
    labels = drawn(height, width, shapes, apart=False)
    check_same(labels, Grid(width_px=width, height_px=height, tile_px=tile_px, halo_px=halo_px))


@settings(max_examples=25, deadline=None)
@given(SIDES, SIDES, SHAPES, st.integers(4, 30))
def test_without_halo_objects_that_lie_apart_are_joined(
    height: int, width: int, shapes: list[tuple[str, int, int, int, int]], tile_px: int
) -> None:
    # Steps from corner to corner would not be seen across a border without halo. Nor is it seen whether an
    # object that ends at a tile's edge goes on; alone, it keeps the number of its pixels there.
    labels = drawn(height, width, [s for s in shapes if s[0] in {"box", "cross"}], apart=True)
    columns = tuple(column for column in tiled.COLUMNS if column != "NumberOfPixelsOnBorder")
    check_same(labels, Grid(width_px=width, height_px=height, tile_px=tile_px, halo_px=0), columns)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**63), st.integers(1, 7), st.integers(1, 9))
def test_outline_and_pixels_say_the_same(bits: int, height: int, width: int) -> None:
    mask = np.array([bits >> n & 1 for n in range(height * width)], bool).reshape(height, width)
    for piece in tiled.objects_of(mask.astype(np.int32)):
        pixels = Pixels(3, 5, piece).trimmed()
        outline = np.concatenate(pixels.rings())
        again = Pixels.inside(outline, float(piece.sum()))
        assert (again.left, again.top) == (pixels.left, pixels.top)
        assert np.array_equal(again.mask, pixels.mask)
        assert len(rings_of(outline, float(piece.sum()))) == len(pixels.rings())
        traced = np.concatenate(tiled.outline_of(piece)) / 2 + (3, 5)
        assert np.array_equal(np.sort(traced, axis=0), np.sort(outline, axis=0))


def test_an_object_over_four_tiles_is_one(tmp_path: Path) -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[5:35, 4:36] = 1
    result = tiled.merged(labels, Grid(width_px=40, height_px=40, tile_px=20, halo_px=2), tmp_path)
    (row,) = tiled.rows(file(result, "features.csv"))
    assert (result.summary["objects"], result.summary["joined"]) == (1, 1)
    assert result.summary["area_um2"] == 30 * 32 * 0.25
    assert (row["AreaInPixels"], row["MeanR"], row["Odd"]) == ("960", "120", "nan")


def test_a_formula_that_the_table_does_not_follow_is_not_used(tmp_path: Path) -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[5:35, 4:36] = 1
    grid = Grid(width_px=40, height_px=40, tile_px=20, halo_px=2)
    paths = []
    for tile in grid.tiles():
        files = tiled.run(labels, tile.whole, tmp_path / "run")
        table = files["t-features.csv"]
        table.write_text(table.read_text().replace("MajorAxis", "Elongation"))
        path = tmp_path / f"{tile}.part"
        part_of(path, grid=grid, tile=tile, files=files, outputs=tiled.OUTPUTS, algorithm="lookup")
        paths.append(path)
    result = merge(tmp_path, paths, grid=grid, wanted=wanted(grid))
    (row,) = tiled.rows(file(result, "features.csv"))
    assert (row["AreaInPixels"], row["Elongation"]) == ("960", "nan")


#: Two tiles side by side that see 8 pixels of each other.
PAIR = Grid(width_px=40, height_px=20, tile_px=20, halo_px=8)


def box(left: int, top: int, right: int, bottom: int) -> Labels:
    labels = np.zeros((20, 40), np.int32)
    labels[top:bottom, left:right] = 1
    return labels


def pair(folder: Path, left: Labels, right: Labels) -> tuple[dict[str, object], list[dict[str, str]]]:
    """Merge two tiles that do not see the same, as with an algorithm that is not local."""
    tiles = list(PAIR.tiles())
    paths = [
        tiled.part(labels, PAIR, tile, folder)[0] for labels, tile in zip((left, right), tiles, strict=True)
    ]
    result = merge(folder, paths, grid=PAIR, wanted=wanted(PAIR))
    table = next((path for name, path in result.files.items() if name.endswith("features.csv")), None)
    return result.summary, tiled.rows(table)


def test_pieces_vanish_where_another_tile_has_the_object_complete(tmp_path: Path) -> None:
    # Its centroid is right of the border, but the right tile sees it only from column 12 on.
    labels = box(20, 3, 27, 17)
    labels[10, 10:20] = 1
    summary, rows = pair(tmp_path, labels, labels)
    assert (summary["objects"], summary["joined"]) == (1, 0)
    assert rows[0]["AreaInPixels"] == str(int(labels.sum()))
    assert rows[0]["Odd"] == "7"


def test_an_object_that_two_tiles_see_a_little_differently_counts_once(tmp_path: Path) -> None:
    # Each has the centroid in its own core; then each in the other's.
    for name, left, right in (
        ("own", box(14, 5, 25, 15), box(15, 5, 26, 15)),
        ("foreign", box(15, 5, 26, 15), box(14, 5, 25, 15)),
    ):
        folder = tmp_path / name
        folder.mkdir()
        summary, rows = pair(folder, left, right)
        assert summary["objects"] == 1
        # What the first tile saw.
        assert tiled.points(rows[0])[:, 0].min() == left.nonzero()[1].min() - 0.5


def test_different_objects_that_overlap_a_little_stay_two(tmp_path: Path) -> None:
    summary, _ = pair(tmp_path, box(10, 5, 22, 15), box(19, 5, 30, 15))
    assert summary["objects"] == 2


def test_what_the_owning_tile_does_not_find_is_dropped(tmp_path: Path) -> None:
    nothing = np.zeros((20, 40), np.int32)
    summary, rows = pair(tmp_path, box(17, 5, 26, 15), nothing)
    assert (summary["objects"], summary["dropped"], rows) == (0, 1, [])


def test_what_belongs_to_a_tile_that_was_not_run_is_kept(tmp_path: Path) -> None:
    first, second = PAIR.tiles()
    path, counts = tiled.part(box(17, 5, 26, 15), PAIR, first, tmp_path)
    result = merge(tmp_path, [path], grid=PAIR, wanted=wanted(PAIR), holes=[second])
    assert (counts.foreign, result.summary["objects"]) == (1, 1)
    assert result.summary["holes"] == [[1, 0]]
    # In the mask the tile is empty.
    assert not tifffile.imread(file(result, "-seg.ome.tif"))[:, 20:].any()


@pytest.mark.parametrize(("left", "objects"), [(2, 1), (18, 0)])
def test_a_piece_alone_counts_where_its_centroid_is(left: int, objects: int, tmp_path: Path) -> None:
    # Column 27 is the last that the first tile sees.
    summary, _ = pair(tmp_path, box(left, 5, 28, 15), np.zeros((20, 40), np.int32))
    assert (summary["objects"], summary["dropped"]) == (objects, 1 - objects)


def test_an_object_too_large_for_memory_stays_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "_LARGEST_PX", 100)
    labels = box(1, 5, 39, 15)
    result = tiled.merged(labels, PAIR, tmp_path)
    areas = [row["AreaInPixels"] for row in tiled.rows(file(result, "features.csv"))]
    assert areas == ["190", "190"]


def test_a_centroid_on_the_border_belongs_to_the_right_tile(tmp_path: Path) -> None:
    labels = box(15, 5, 25, 15)
    first, second = PAIR.tiles()
    assert tiled.part(labels, PAIR, first, tmp_path)[1].owned == 0
    assert tiled.part(labels, PAIR, second, tmp_path)[1].owned == 1


def test_a_part_is_the_same_each_time_and_small(tmp_path: Path) -> None:
    labels = box(3, 5, 25, 15)
    tile = next(PAIR.tiles())
    path, _ = tiled.part(labels, PAIR, tile, tmp_path)
    before = path.read_bytes()
    path.unlink()
    assert tiled.part(labels, PAIR, tile, tmp_path)[0].read_bytes() == before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("[", ""), "no row of 8 columns"),
        (("Polygon", "Outline"), "last column"),
        ((",120,", ","), "no row of 8 columns"),
        (("[3:", "[x:"), "could not convert"),
        (("[3:", "["), "odd number"),
        (("[3:", "[nan:"), "no number"),
        (("[3:", "[-9000:"), "outside of the tile"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(
    change: tuple[str, str], expected: str, tmp_path: Path
) -> None:
    tile = next(PAIR.tiles())
    files = tiled.run(box(3, 5, 9, 15), tile.whole, tmp_path / "run")
    table = files["t-features.csv"]
    assert change[0] in table.read_text()
    table.write_text(table.read_text().replace(*change))
    path = tmp_path / "x.part"
    with pytest.raises(OutputRefused, match=expected):
        part_of(path, grid=PAIR, tile=tile, files=files, outputs=tiled.OUTPUTS, algorithm="lookup")
    assert not path.exists()


def test_a_mask_that_is_missing_or_of_another_size_is_refused(tmp_path: Path) -> None:
    first, second = PAIR.tiles()
    small = Grid(width_px=20, height_px=20, tile_px=20, halo_px=0)
    files = tiled.run(box(3, 5, 9, 15), next(small.tiles()).whole, tmp_path / "run")
    with pytest.raises(OutputRefused, match="20 x 20 px, where the tile has 28 x 20"):
        part_of(tmp_path / "x", grid=PAIR, tile=first, files=files, outputs=tiled.OUTPUTS, algorithm="lookup")
    files = {name: path for name, path in files.items() if not name.endswith(".png")}
    with pytest.raises(OutputMissing, match="mask"):
        part_of(
            tmp_path / "x", grid=PAIR, tile=second, files=files, outputs=tiled.OUTPUTS, algorithm="lookup"
        )


def test_a_broken_part_and_a_wrong_order_are_told(tmp_path: Path) -> None:
    paths = tiled.parts(box(3, 5, 9, 15), PAIR, tmp_path)
    with pytest.raises(ValueError, match="tile 0,0 comes after 1,0"):
        merge(tmp_path, paths[::-1], grid=PAIR, wanted=wanted(PAIR))
    paths[1].write_bytes(paths[1].read_bytes()[:-40])
    with pytest.raises(ArtifactCorrupt, match="part of a tile"):
        merge(tmp_path, paths, grid=PAIR, wanted=wanted(PAIR))


def test_two_tiles_compute_the_same_centroid_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    ring = rng.integers(0, 60, (17, 2)) / 2 + (50_000, 70_000)
    alone = Outlines.joined([ring]).centroids()[0]
    others = [rng.random((n, 2)) * 90_000 for n in (5, 12, 33)]
    among = Outlines.joined([*others, ring, *others]).centroids()[3]
    assert alone.tolist() == among.tolist()
