"""What is measured of nuclei, against scikit-image and against formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import find_contours, regionprops
from skimage.measure._regionprops import RegionProperties

from algorithms.nuclei.columns import COLUMNS
from algorithms.nuclei.nuclei import Nuclei, nuclei_of
from algorithms.nuclei.polygons import doubled_polygons
from algorithms.nuclei.region import label
from algorithms.nuclei.synthetic import scene
from algorithms.nuclei.table import measured, rows

# The header as the loader's documentation lists it.
TEXTURE = [
    f"{place}{name}"
    for place in ("", "cyto")
    for name in [
        "IntensityMean",
        "IntensityMax",
        "IntensityMin",
        "IntensityStd",
        "IntensityEntropy",
        "IntensityEnergy",
        "IntensitySkewness",
        "IntensityKurtosis",
        "GradientMean",
        "GradientStd",
        "GradientEntropy",
        "GradientEnergy",
        "GradientSkewness",
        "GradientKurtosis",
        "CannyNonZero",
        "CannyMean",
    ]
]
CONTRACT = [
    *["AreaInPixels", "MajorAxis", "MinorAxis", "Eccentricity", "ExtentRatio", "Circularity"],
    *(f"r_{name}" for name in TEXTURE),
    *(f"b_{name}" for name in TEXTURE),
    *[
        "PhysicalSize",
        "NumberOfPixelsOnBorder",
        "PrincipalMoments0",
        "PrincipalMoments1",
        "Elongation",
        "Roundness",
    ],
    *["EquivalentSphericalRadius", "EquivalentSphericalPerimeter", "EquivalentEllipsoidDiameter0"],
    *[
        "EquivalentEllipsoidDiameter1",
        "Flatness",
        "MeanR",
        "MeanG",
        "MeanB",
        "StdR",
        "StdG",
        "StdB",
        "Polygon",
    ],
]


class Tissue:
    """A thousand nuclei, found and measured once."""

    def __init__(self) -> None:
        drawn = scene(11, side_px=1500, nuclei=1150, mpp_um=0.25)
        self.rgb = drawn.rgb
        labels = label(drawn.rgb, 0.25).astype(np.uint16)
        self.nuclei: Nuclei = nuclei_of(labels, min_size_px=1)
        numbers = measured(self.nuclei, self.rgb, 0.25)
        self.column = {name: numbers[:, place] for place, name in enumerate(COLUMNS[:-1])}
        self.truth: list[RegionProperties] = regionprops(self.nuclei.labels)


@pytest.fixture(scope="module")
def tissue() -> Tissue:
    return Tissue()


def test_there_are_the_originals_88_columns_in_its_order() -> None:
    assert list(COLUMNS) == CONTRACT
    assert len(CONTRACT) == 88


@pytest.mark.parametrize(
    ("column", "name", "tolerance"),
    [
        ("AreaInPixels", "area", 0.0),
        ("ExtentRatio", "extent", 1e-12),
        ("MajorAxis", "axis_major_length", 0.004),  # theirs is without the pixel's own 1/12
        ("MinorAxis", "axis_minor_length", 0.012),
    ],
)
def test_sizes_are_those_of_scikit_image(tissue: Tissue, column: str, name: str, tolerance: float) -> None:
    assert len(tissue.nuclei) >= 1000
    expected = np.array([getattr(nucleus, name) for nucleus in tissue.truth])
    np.testing.assert_allclose(tissue.column[column], expected, rtol=tolerance)


def test_eccentricities_are_those_of_scikit_image(tissue: Tissue) -> None:
    expected = np.array([nucleus.eccentricity for nucleus in tissue.truth])
    # Near a circle the root is steep: the pixel's own moment counts most there.
    np.testing.assert_allclose(tissue.column["Eccentricity"], expected, atol=0.01)


def test_moments_are_those_of_scikit_image(tissue: Tissue) -> None:
    expected = np.array([nucleus.inertia_tensor_eigvals for nucleus in tissue.truth])
    np.testing.assert_allclose(tissue.column["PrincipalMoments1"], expected[:, 0], rtol=1e-9)
    np.testing.assert_allclose(tissue.column["PrincipalMoments0"], expected[:, 1], rtol=1e-9)
    np.testing.assert_allclose(
        tissue.column["Elongation"], np.sqrt(expected[:, 0] / expected[:, 1]), rtol=1e-9
    )


def test_perimeters_are_those_of_scikit_image(tissue: Tissue) -> None:
    expected = np.array([nucleus.perimeter_crofton for nucleus in tissue.truth])
    inside = np.array(
        [min(*nucleus.bbox[:2]) > 0 and max(nucleus.bbox[2:]) < 1500 for nucleus in tissue.truth]
    )
    perimeter = 2 * math.pi * tissue.column["EquivalentSphericalRadius"] / tissue.column["Roundness"]
    np.testing.assert_allclose(perimeter[inside], expected[inside], rtol=1e-9)
    np.testing.assert_allclose(
        tissue.column["Circularity"], 4 * math.pi * tissue.column["AreaInPixels"] / perimeter**2, rtol=1e-9
    )


def test_the_equivalent_ellipse_has_the_nucleus_area(tissue: Tissue) -> None:
    first, second = (tissue.column[f"EquivalentEllipsoidDiameter{axis}"] for axis in (0, 1))
    np.testing.assert_allclose(math.pi / 4 * first * second, tissue.column["AreaInPixels"], rtol=1e-9)
    np.testing.assert_allclose(tissue.column["PhysicalSize"], tissue.column["AreaInPixels"] / 16, rtol=1e-12)


def test_pixels_on_the_border_are_those_on_the_pictures_edge(tissue: Tissue) -> None:
    frame = np.ones((1500, 1500), bool)
    frame[1:-1, 1:-1] = False
    expected = [int((frame & (tissue.nuclei.labels == n)).sum()) for n in (1, 2, 500)]
    assert tissue.column["NumberOfPixelsOnBorder"][[0, 1, 499]].tolist() == expected
    assert tissue.column["NumberOfPixelsOnBorder"].max() > 0


@pytest.mark.parametrize("number", [1, 77, 400, 900])
def test_colours_and_textures_follow_their_formulas(tissue: Tissue, number: int) -> None:
    mask = tissue.nuclei.labels == number
    square = np.add.outer(np.arange(-8, 9) ** 2, np.arange(-8, 9) ** 2) <= 64
    ring = ndimage.binary_dilation(mask, square) & ~mask
    for letter, channel in (("r", 0), ("b", 2)):
        grey = tissue.rgb[..., channel].astype(float)
        slope = np.floor(np.hypot(*np.gradient(grey)) + 0.5).clip(0, 255)
        for place, inside in (("", mask), ("cyto", ring)):
            for group, picture in (("Intensity", grey), ("Gradient", slope)):
                values = picture[inside]
                share = np.bincount(values.astype(int)) / values.size
                share = share[share > 0]
                centred = values - values.mean()
                expected = {
                    "Mean": values.mean(),
                    "Std": values.std(),
                    "Entropy": -(share * np.log2(share)).sum(),
                    "Energy": (share**2).sum(),
                    "Skewness": (centred**3).mean() / values.std() ** 3,
                    "Kurtosis": (centred**4).mean() / values.std() ** 4,
                }
                if group == "Intensity":
                    expected |= {"Max": values.max(), "Min": values.min()}
                for word, value in expected.items():
                    found = tissue.column[f"{letter}_{place}{group}{word}"][number - 1]
                    assert found == pytest.approx(value, rel=1e-6, abs=1e-9), f"{letter}_{place}{group}{word}"
    for position, name in enumerate("RGB"):
        values = tissue.rgb[..., position][mask]
        assert tissue.column[f"Mean{name}"][number - 1] == pytest.approx(values.mean())
        assert tissue.column[f"Std{name}"][number - 1] == pytest.approx(values.std())


def test_edges_are_counted_and_averaged(tissue: Tissue) -> None:
    number = tissue.column["r_CannyNonZero"]
    assert 0 < number.max() < tissue.column["AreaInPixels"].max()
    np.testing.assert_allclose(tissue.column["r_CannyMean"], 255 * number / tissue.column["AreaInPixels"])


def test_every_value_of_an_ordinary_nucleus_is_a_number(tissue: Tissue) -> None:
    assert all(np.isfinite(values).all() for values in tissue.column.values())


def inside(ring: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Even-odd rule, written out."""
    x1, y1 = ring[:, 0, None, None], ring[:, 1, None, None]
    x2, y2 = np.roll(ring[:, 0], -1)[:, None, None], np.roll(ring[:, 1], -1)[:, None, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        crosses = ((y1 > y) != (y2 > y)) & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    return np.asarray(crosses.sum(axis=0) % 2 == 1)


def test_a_polygon_holds_the_centres_of_exactly_its_nucleus_pixels(tissue: Tissue) -> None:
    polygons = doubled_polygons(tissue.nuclei.outlines)
    for number in range(1, len(tissue.nuclei) + 1, 5):
        nucleus = tissue.truth[number - 1]
        top, left, bottom, right = nucleus.bbox
        y, x = np.mgrid[top - 1 : bottom + 1, left - 1 : right + 1]
        found = inside(polygons[number - 1] / 2, x, y)
        assert np.array_equal(found[1:-1, 1:-1], nucleus.image)
        assert not found[[0, -1]].any()
        assert not found[:, [0, -1]].any()


def test_a_polygon_is_the_line_at_half_height(tissue: Tissue) -> None:
    polygon = doubled_polygons(tissue.nuclei.outlines[:1])[0] / 2
    nucleus = tissue.truth[0]
    (contour,) = find_contours(np.pad(nucleus.image, 1).astype(float), 0.5)
    expected = {tuple(p) for p in contour[:, ::-1] + (nucleus.bbox[1] - 1, nucleus.bbox[0] - 1)}
    # Ours leaves out what lies on a straight line.
    assert {tuple(p) for p in polygon} <= expected


SHAPES = {
    "pixel": ["#"],
    "line": ["###"],
    "diagonal": ["#..", ".#.", "..#"],
    "cross": [".#.", "###", ".#."],
    "hook": ["###", "#..", "#.."],
    "spur": ["####", "##..", "##.."],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_polygons_of_odd_shapes_hold_their_pixels(shape: str) -> None:
    image = np.array([[c == "#" for c in line] for line in SHAPES[shape]])
    labels = np.pad(image, 2).astype(np.uint16)
    listed = nuclei_of(labels.copy(), min_size_px=1)
    # Lines and hooks are no nuclei; their outlines are tried all the same.
    from algorithms.nuclei.nuclei import _listed, _outlines  # noqa: PLC0415

    outlines, repaired = _outlines(_listed(labels))
    assert not repaired
    (polygon,) = doubled_polygons(outlines)
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]]
    assert np.array_equal(inside(polygon / 2, x, y), labels > 0)
    assert len(listed) <= 1


def test_holes_are_filled_and_loose_parts_removed() -> None:
    labels = np.zeros((30, 40), np.uint16)
    labels[5:15, 5:15] = 3
    labels[9:11, 9:11] = 0
    labels[5:8, 20:23] = 3
    labels[18:28, 18:28] = 9
    nuclei = nuclei_of(labels, min_size_px=1)
    assert nuclei.area.tolist() == [100, 100]
    assert labels[9, 9] == 1
    assert labels[6, 21] == 0
    assert labels[20, 20] == 2


def test_a_nucleus_belongs_to_the_tile_that_has_its_centre() -> None:
    labels = np.zeros((20, 40), np.uint16)
    labels[5:12, 2:9] = 1
    labels[5:12, 18:25] = 2
    kept = nuclei_of(labels, min_size_px=1, core=(10, 0, 30, 20))
    assert len(kept) == 1
    assert kept.x[0] == pytest.approx(21.0)
    assert set(np.unique(labels)) == {0, 1}


def test_far_away_polygons_keep_their_half_pixels() -> None:
    polygons = [np.array([[1, 2], [3, 4]], np.int32), np.array([[-1, -1]], np.int32)]
    lines = rows([[1.5] * 87] * 2, polygons, 1_000_000, 98_765)
    assert [line.count(",") for line in lines] == [87, 87]
    assert [line.rsplit(",", 1)[1] for line in lines] == [
        "[1000000.5:98766:1000001.5:98767]",
        "[999999.5:98764.5]",
    ]
    assert rows([[1.5] * 87], polygons[1:], 0, 0)[0].endswith(",[-0.5:-0.5]")
    assert rows([], [], 0, 0) == []


def test_a_nucleus_that_fills_the_picture_has_no_ring_and_says_so() -> None:
    labels = np.ones((12, 12), np.uint16)
    numbers = measured(nuclei_of(labels, min_size_px=1), np.full((12, 12, 3), 90, np.uint8), 0.5)
    column = dict(zip(COLUMNS, numbers[0], strict=False))
    assert np.isnan(column["r_cytoIntensityMean"])
    assert column["r_IntensityMean"] == 90
    assert column["r_IntensityStd"] == 0
