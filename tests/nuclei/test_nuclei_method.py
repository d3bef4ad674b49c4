"""The method on pictures whose content is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage.segmentation import watershed

from algorithms.nuclei.arguments import Parameters
from algorithms.nuclei.basins import Rule, split
from algorithms.nuclei.pictures import Picture
from algorithms.nuclei.region import label
from algorithms.nuclei.scores import scores
from algorithms.nuclei.stain import Grid
from algorithms.nuclei.synthetic import Scene, scene
from algorithms.nuclei.threshold import Threshold
from algorithms.nuclei.tiles import Box, cut, survey

PENS = {"green": (20, 120, 90), "blue": (30, 50, 160), "black": (35, 35, 40), "red": (200, 30, 40)}


@pytest.fixture(scope="module")
def tissue() -> Scene:
    return scene(7, nuclei=100)


@pytest.mark.parametrize(
    ("mpp_um", "shrink", "enlarge"),
    [(0.1, 5, 1), (0.25, 2, 1), (0.499, 1, 1), (0.7, 1, 1), (1.0, 1, 2), (2.0, 1, 4)],
)
def test_the_working_grid_is_near_half_a_micrometre(mpp_um: float, shrink: int, enlarge: int) -> None:
    grid = Grid.of(mpp_um)
    assert (grid.shrink, grid.enlarge) == (shrink, enlarge)
    assert 0.33 <= grid.um <= 0.75


@pytest.mark.parametrize("mpp_um", [0.2, 0.25, 0.35, 0.5])
def test_the_same_tissue_gives_the_same_nuclei_at_every_magnification(mpp_um: float) -> None:
    drawn = scene(3, nuclei=80, mpp_um=mpp_um, side_px=round(120 / mpp_um))
    result = scores(drawn.labels, label(drawn.rgb, mpp_um))
    assert result.aji > 0.9
    assert abs(result.found / result.true - 1) < 0.03


@pytest.mark.parametrize(
    "options", [{"strength": 0.4}, {"strength": 1.6}, {"white": (200, 185, 225)}, {"white": (225, 225, 205)}]
)
def test_weak_and_strong_stain_and_coloured_light_change_little(options: dict[str, object]) -> None:
    drawn = scene(7, nuclei=100, **options)  # type: ignore[arg-type]
    assert scores(drawn.labels, label(drawn.rgb, 0.25)).aji > 0.94


@pytest.mark.parametrize("fill", [0, 255, 128, 235])
def test_an_even_picture_has_no_nuclei(fill: int) -> None:
    assert label(np.full((300, 300, 3), fill, np.uint8), 0.25).max() == 0


def test_glass_with_noise_has_no_nuclei() -> None:
    noise = np.random.default_rng(1).normal(238, 4, (400, 400, 3)).clip(0, 255).astype(np.uint8)
    assert label(noise, 0.25).max() == 0


@pytest.mark.parametrize("pen", PENS)
def test_pen_marks_give_no_nuclei_and_do_not_hide_those_beside_them(tissue: Scene, pen: str) -> None:
    rgb = np.vstack([np.full((200, 512, 3), 243, np.uint8), tissue.rgb])
    cv2.line(rgb, (0, 90), (511, 110), PENS[pen], 90, cv2.LINE_AA)
    rgb = cv2.GaussianBlur(rgb, (0, 0), 1.0)
    found = label(rgb, 0.25)
    assert found[:190].max() == 0
    assert scores(tissue.labels, found[200:]).aji > 0.9


def test_more_transmitted_light_means_more_nucleus(tissue: Scene) -> None:
    areas = [(label(tissue.rgb, 0.25, Parameters(otsu_ratio=r)) > 0).sum() for r in (0.6, 1.0, 1.5)]
    assert areas[0] < areas[1] <= areas[2]


def test_a_ratio_that_takes_all_or_nothing_does_no_harm(tissue: Scene) -> None:
    assert label(tissue.rgb, 0.25, Parameters(otsu_ratio=0.1)).max() == 0
    everything = label(np.full((300, 300, 3), (120, 60, 150), np.uint8), 0.25, Parameters(threshold=0.01))
    assert everything.max() <= 1
    assert label(tissue.rgb, 0.25, Parameters(otsu_ratio=10.0)).max() < 200


def test_objects_below_the_smallest_size_are_dropped(tissue: Scene) -> None:
    areas = np.bincount(label(tissue.rgb, 0.25, Parameters(min_size_um2=30.0)).ravel())[1:] / 16
    assert areas.min() >= 30
    assert len(areas) < 100


def test_the_largest_size_never_removes_an_object(tissue: Scene) -> None:
    small = label(tissue.rgb, 0.25, Parameters(max_size_um2=10.0))
    assert np.array_equal(small, label(tissue.rgb, 0.25))


def test_the_kind_of_declumping_decides_what_is_split() -> None:
    drawn = scene(5, nuclei=90, overlap=0.15, clustered=True)
    none, large, all_ = (label(drawn.rgb, 0.25, Parameters(declump=kind)).max() for kind in (0, 1, 2))
    none_too = label(drawn.rgb, 0.25, Parameters(declump=1, max_size_um2=1e6)).max()
    assert none < large <= all_
    assert none <= none_too <= large


def test_a_threshold_from_outside_gives_a_part_the_nuclei_of_the_whole(tissue: Scene) -> None:
    source, grid = Picture(tissue.rgb), Grid.of(0.25)
    box = Box(0, 0, 512, 512)
    threshold = survey(source, cut(box, box, grid), grid, None).threshold
    assert isinstance(threshold, Threshold)
    whole = label(tissue.rgb, 0.25)
    part = label(tissue.rgb[:256], 0.25, Parameters(threshold=threshold))
    assert scores(whole[:216], part[:216]).pq > 0.98


RULE = Rule(ratio=0.9, depth=0.5, large=1e9, large_ratio=1.0, large_depth=0.0)


def disks(*circles: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros((80, 120), np.uint8)
    for x, y, radius in circles:
        cv2.circle(mask, (x, y), radius, 1, -1)
    return mask


@pytest.mark.parametrize(
    ("circles", "parts"),
    [
        ([(30, 40, 15)], 1),  # one
        ([(30, 40, 15), (80, 40, 15)], 2),  # apart
        ([(40, 40, 15), (64, 40, 15)], 2),  # touching
        ([(40, 40, 15), (46, 40, 15)], 1),  # nearly the same
        ([(28, 28, 13), (52, 28, 13), (40, 50, 13)], 3),  # a heap
    ],
)
def test_a_clump_is_split_at_its_necks(circles: list[tuple[int, int, int]], parts: int) -> None:
    mask = disks(*circles)
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    labels, count = split(distance, mask, RULE)
    assert count == parts == labels.max()
    assert np.array_equal(labels > 0, mask > 0)


def test_a_plateau_is_one_summit() -> None:
    mask = np.ones((40, 50), np.uint8)
    assert split(np.full(mask.shape, 3.0, np.float32), mask, RULE)[1] == 1


def test_nothing_to_split_gives_nothing() -> None:
    empty = np.zeros((5, 7), np.uint8)
    labels, count = split(np.zeros((5, 7), np.float32), empty, RULE)
    assert (labels.max(), count) == (0, 0)


def test_basins_agree_with_a_watershed_that_floods_pixel_by_pixel() -> None:
    random = np.random.default_rng(2)
    mask = np.zeros((300, 300), np.uint8)
    for x, y, radius in random.integers((10, 10, 6), (290, 290, 14), (150, 3)).tolist():
        cv2.circle(mask, (x, y), radius, 1, -1)
    height = cv2.GaussianBlur(cv2.distanceTransform(mask, cv2.DIST_L2, 5), (0, 0), 1.5)
    labels, count = split(height, mask, RULE)
    # The same markers: the highest pixel of each part.
    markers = np.zeros(mask.shape, np.int32)
    for number in range(1, count + 1):
        inside = np.where(labels == number, height, -1)
        markers[np.unravel_index(inside.argmax(), mask.shape)] = number
    flooded = watershed(-height, markers, mask=mask > 0)
    assert (flooded == labels)[mask > 0].mean() > 0.97
