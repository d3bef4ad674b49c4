from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dynsvc.errors import RegionOutsideSlide, RegionTooLarge, SlideSizeUnknown
from dynsvc.regions import Region, RegionRequest, check_size, resolve

W, H = 48002, 35558


def pixels(x: float, y: float, width: float, height: float) -> RegionRequest:
    return RegionRequest(kind="pixels", x=x, y=y, width=width, height=height)


def pct(x: float, y: float, width: float, height: float) -> RegionRequest:
    return RegionRequest(kind="pct", x=x, y=y, width=width, height=height)


@pytest.mark.parametrize(
    ("request_", "region", "clipped"),
    [
        # inside, to the last pixel
        (pixels(100, 200, 30, 40), "100,200,30,40", False),
        (pixels(0, 0, W, H), "0,0,48002,35558", False),
        (pixels(W - 1, H - 1, 1, 1), "48001,35557,1,1", False),
        # over each edge
        (pixels(-5, 0, 10, 10), "0,0,5,10", True),
        (pixels(0, -9, 10, 10), "0,0,10,1", True),
        (pixels(W - 2, 0, 10, 10), "48000,0,2,10", True),
        (pixels(0, H - 1, 10, 10), "0,35557,10,1", True),
        (pixels(-(2**31), -(2**31), 2**32, 2**32), "0,0,48002,35558", True),
        # halves go up, as in the viewer; the largest number below one half goes down
        (pixels(0.5, 1.5, 10, 10), "1,2,10,10", False),
        (pixels(0.49999999999999994, 0, 10, 10), "0,0,10,10", False),
        # relative to the slide
        (pct(0, 0, 100, 100), "0,0,48002,35558", False),
        (pct(25, 50, 50, 25), "12001,17779,24001,8890", False),
        (pct(90, 90, 20, 20), "43202,32002,4800,3556", True),
        (pct(0, 0, 0.0001, 0.0001), "0,0,1,1", False),
        (pct(99.99999, 99.99999, 0.0001, 0.0001), "48001,35557,1,1", True),
        (RegionRequest(kind="full"), "0,0,48002,35558", False),
        (RegionRequest(kind="square"), "6222,0,35558,35558", False),
    ],
)
def test_a_request_becomes_pixels_of_the_slide(request_, region, clipped):
    resolved = resolve(request_, W, H)
    assert (str(resolved.region), resolved.clipped) == (region, clipped)


def test_the_square_of_a_tall_slide_is_centred_too():
    assert str(resolve(RegionRequest(kind="square"), 10, 15).region) == "0,2,10,10"


@pytest.mark.parametrize(
    "request_",
    [
        pixels(W, 0, 10, 10),
        pixels(0, H, 10, 10),
        pixels(-10, 0, 10, 10),
        pixels(0, -11, 10, 10),
        pixels(5, 5, 0, 10),
        pixels(5, 5, 10, -3),
        pixels(1e300, 0, 1e300, 10),
        pct(100, 0, 10, 10),
        pct(-20, 0, 20, 10),
        pct(10, 10, 0, 10),
    ],
)
def test_a_region_without_a_pixel_on_the_slide_is_refused(request_):
    with pytest.raises(RegionOutsideSlide) as caught:
        resolve(request_, W, H)
    assert (caught.value.slide_width_px, caught.value.slide_height_px) == (W, H)


def test_with_an_unknown_size_pixels_are_clipped_only_at_zero():
    assert resolve(pixels(100_000, 7, 10, 10), None, None) == (
        Region(x_px=100_000, y_px=7, width_px=10, height_px=10),
        False,
    )
    assert resolve(pixels(-3, -4, 10, 10), None, None) == (
        Region(x_px=0, y_px=0, width_px=7, height_px=6),
        True,
    )
    with pytest.raises(RegionOutsideSlide):
        resolve(pixels(-10, 0, 10, 10), None, None)


@pytest.mark.parametrize("size", [(None, None), (W, None), (None, H)])
@pytest.mark.parametrize(
    "request_", [pct(0, 0, 10, 10), RegionRequest(kind="full"), RegionRequest(kind="square")]
)
def test_what_is_relative_to_the_slide_needs_its_size(request_, size):
    with pytest.raises(SlideSizeUnknown):
        resolve(request_, *size)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_request_has_finite_numbers(number):
    with pytest.raises(ValidationError):
        pixels(number, 0, 1, 1)


def test_the_limit_itself_is_allowed():
    region = Region(x_px=0, y_px=0, width_px=1000, height_px=1000)
    check_size(region, 1_000_000)
    with pytest.raises(RegionTooLarge):
        check_size(region, 999_999)


sizes = st.integers(1, 300_000)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-400_000, 400_000)


@given(
    kind=st.sampled_from(["pixels", "pct", "full", "square"]),
    x=numbers,
    y=numbers,
    width=numbers,
    height=numbers,
    slide=st.tuples(sizes, sizes),
)
def test_whatever_is_asked_lies_on_the_slide_or_is_refused(kind, x, y, width, height, slide):
    try:
        region, _ = resolve(RegionRequest(kind=kind, x=x, y=y, width=width, height=height), *slide)
    except RegionOutsideSlide:
        assert kind in ("pixels", "pct")
    else:
        assert region.x_px + region.width_px <= slide[0]
        assert region.y_px + region.height_px <= slide[1]


@given(x=st.integers(0, 299_999), width=sizes, slide=sizes)
def test_pixels_on_the_slide_are_kept_and_others_are_not_invented(x, width, slide):
    request = pixels(x, 0, width, 1)
    if x >= slide:
        with pytest.raises(RegionOutsideSlide):
            resolve(request, slide, 1)
    else:
        region, clipped = resolve(request, slide, 1)
        assert region.x_px == x
        assert region.width_px == min(width, slide - x)
        assert clipped == (x + width > slide)


@given(cuts=st.lists(st.integers(1, 99), min_size=1, unique=True), slide=st.integers(1000, 300_000))
def test_neighbouring_percent_regions_share_their_edge(cuts, slide):
    edges = [0, *sorted(cuts), 100]
    found = [resolve(pct(a, 0, b - a, 100), slide, 1).region for a, b in itertools.pairwise(edges)]
    assert found[0].x_px == 0
    assert all(a.x_px + a.width_px == b.x_px for a, b in itertools.pairwise(found))
    assert found[-1].x_px + found[-1].width_px == slide


@given(limit=st.integers(1, 10**12), width=st.integers(1, 2**31), height=st.integers(1, 2**31))
def test_the_size_check_never_overflows(limit, width, height):
    region = Region(x_px=0, y_px=0, width_px=width, height_px=height)
    if width * height > limit:
        with pytest.raises(RegionTooLarge):
            check_size(region, limit)
    else:
        check_size(region, limit)
