"""Regions of a real slide from a real iipsrv, measured against OpenSlide."""

from __future__ import annotations

import io
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from dynsvc.errors import DynsvcError, PeerRefused, PeerUnavailable, PictureWrong, SlideNotFound
from dynsvc.http import Http
from dynsvc.regions import Region
from dynsvc.slides import Slide
from dynsvc.sources.iiif import IiifSource
from dynsvc.sources.openslide import OpenSlideSource
from tests.support.iipsrv import Iipsrv, iipsrv_missing, running_iipsrv
from tests.support.pyramids import gradient, misplaced, write_pyramid
from tests.support.services import missing

pytestmark = pytest.mark.services

SAMPLE = Path(__file__).parents[2] / "../shared/data/sample.svs"
WIDTH_PX, HEIGHT_PX = 2220, 2967
PYRAMID = gradient(2300, 1800)


@pytest.fixture(scope="module")
def sample() -> Path:
    if not SAMPLE.exists():
        missing("the test slide sample.svs")
    return SAMPLE


@pytest.fixture(scope="module")
def iipsrv(sample: Path) -> Iterator[Iipsrv]:
    if absent := iipsrv_missing():
        missing(absent)
    # pytest's own folders have paths too long for a Unix socket.
    with (
        tempfile.TemporaryDirectory(prefix="iipsrv-") as name,
        running_iipsrv(Path(name), {"sample.svs": sample, "a slide, é.svs": sample}) as server,
    ):
        yield server


@pytest.fixture
def source(iipsrv: Iipsrv) -> Iterator[IiifSource]:
    with Http() as http:
        yield IiifSource(http, iipsrv.url)


@contextmanager
def limited_to_1000_px(folder: Path, *, hides_information: bool = False) -> Iterator[Iipsrv]:
    """Serve a pyramid: of the sample's single level, iipsrv has nothing smaller to send."""
    if absent := iipsrv_missing():
        missing(absent)
    pyramid = write_pyramid(folder / "pyramid.tif", PYRAMID)
    with (
        tempfile.TemporaryDirectory(prefix="iipsrv-") as name,
        running_iipsrv(
            Path(name), {"pyramid.tif": pyramid}, hides_information=hides_information, MAX_CVT="1000"
        ) as server,
    ):
        yield server


def slide(iipsrv: Iipsrv, name: str = "sample.svs") -> Slide:
    return Slide(case_id="A", origin="iiif", location=iipsrv.location(name))


def region(x_px: int, y_px: int, width_px: int, height_px: int) -> Region:
    return Region(x_px=x_px, y_px=y_px, width_px=width_px, height_px=height_px)


def pixels(path: Path) -> Any:
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture)


def raw(iipsrv: Iipsrv, tail: str, name: str = "sample.svs") -> requests.Response:
    return requests.get(f"{iipsrv.url}{iipsrv.location(name)}/{tail}", timeout=30)


def size_of(response: requests.Response) -> tuple[int, int]:
    with Image.open(io.BytesIO(response.content)) as picture:
        return picture.size


def test_the_slides_size_is_told(iipsrv: Iipsrv, source: IiifSource) -> None:
    described = source.describe(slide(iipsrv))
    assert (described.width_px, described.height_px) == (WIDTH_PX, HEIGHT_PX)
    assert described.mpp_um is None


@pytest.mark.parametrize(
    "wanted",
    [
        # one piece inside, as the original asked for it
        region(1000, 600, 1024, 1024),
        region(777, 1301, 207, 141),
        # the largest piece
        region(100, 500, 2048, 2048),
        # touching the right and lower edges
        region(WIDTH_PX - 300, HEIGHT_PX - 200, 300, 200),
        # several pieces: everything
        region(0, 0, WIDTH_PX, HEIGHT_PX),
    ],
    ids=str,
)
def test_regions_lie_exactly_where_openslide_reads_them(
    iipsrv: Iipsrv, source: IiifSource, sample: Path, tmp_path: Path, wanted: Region
) -> None:
    over_http = source.fetch(source.describe(slide(iipsrv)), wanted, tmp_path, "http")
    local = OpenSlideSource(sample.resolve().parent)
    own = local.fetch(Slide(case_id="A", origin="file", location="sample.svs"), wanted, tmp_path, "own")
    local.close()
    found, expected = pixels(over_http.path), pixels(own.path)
    assert found.shape == expected.shape == (wanted.height_px, wanted.width_px, 3)
    assert misplaced(found, expected) == (0, 0)
    # JPEG once more, with colour at half the resolution.
    assert np.abs(found.astype(int) - expected).mean() < 5


def test_a_hundred_random_regions_have_their_size(iipsrv: Iipsrv, source: IiifSource, tmp_path: Path) -> None:
    chance = random.Random(7)
    known = source.describe(slide(iipsrv))
    for number in range(100):
        width_px, height_px = chance.randint(1, 90), chance.randint(1, 90)
        # Every third one touches an edge.
        x_px = WIDTH_PX - width_px if number % 3 == 0 else chance.randint(0, WIDTH_PX - width_px)
        y_px = HEIGHT_PX - height_px if number % 3 == 1 else chance.randint(0, HEIGHT_PX - height_px)
        picture = source.fetch(known, region(x_px, y_px, width_px, height_px), tmp_path, str(number))
        assert (picture.width_px, picture.height_px) == (width_px, height_px)


def test_locations_are_percent_encoded(iipsrv: Iipsrv, source: IiifSource, tmp_path: Path) -> None:
    odd = source.describe(slide(iipsrv, "a slide, é.svs"))
    assert odd.width_px == WIDTH_PX
    assert source.fetch(odd, region(10, 10, 20, 20), tmp_path, "roi").width_px == 20


def test_the_query_form_of_the_address_is_served(iipsrv: Iipsrv, tmp_path: Path) -> None:
    with Http() as http:
        source = IiifSource(http, f"{iipsrv.url}/fcgi-bin/iipsrv.fcgi?IIIF=")
        known = source.describe(slide(iipsrv))
        assert known.width_px == WIDTH_PX
        assert source.fetch(known, region(10, 10, 20, 20), tmp_path, "roi").height_px == 20


def test_a_missing_slide_is_not_found(iipsrv: Iipsrv, source: IiifSource) -> None:
    assert raw(iipsrv, "info.json", "none.svs").status_code == 404
    with pytest.raises(SlideNotFound):
        source.describe(slide(iipsrv, "none.svs"))


def test_trap_a_picture_over_the_limit_comes_smaller_with_success(tmp_path: Path) -> None:
    wanted = region(100, 200, 2000, 1500)
    (tmp_path / "out").mkdir()
    with limited_to_1000_px(tmp_path) as iipsrv, Http() as http:
        trap = raw(iipsrv, f"{wanted}/full/0/default.jpg", "pyramid.tif")
        assert trap.status_code == 200
        assert size_of(trap) == (1000, 750)
        source = IiifSource(http, iipsrv.url)
        picture = source.fetch(source.describe(slide(iipsrv, "pyramid.tif")), wanted, tmp_path / "out", "roi")
    assert (picture.width_px, picture.height_px) == (2000, 1500)
    expected = PYRAMID[200:1700, 100:2100]
    assert misplaced(pixels(picture.path), expected) == (0, 0)


def test_trap_a_smaller_picture_is_noticed_where_nothing_told_the_limit(tmp_path: Path) -> None:
    with limited_to_1000_px(tmp_path, hides_information=True) as iipsrv, Http() as http:
        assert raw(iipsrv, "info.json", "pyramid.tif").status_code == 404
        source = IiifSource(http, iipsrv.url)
        described = source.describe(slide(iipsrv, "pyramid.tif"))
        assert described == slide(iipsrv, "pyramid.tif")
        with pytest.raises(PictureWrong, match="answered a picture of 1000 x 750 px"):
            source.fetch(described, region(100, 200, 2000, 1500), tmp_path, "wrong")
        assert source.fetch(described, region(100, 200, 900, 800), tmp_path, "right").height_px == 800


def test_trap_a_region_outside_comes_as_text_that_claims_to_be_a_picture(
    iipsrv: Iipsrv, source: IiifSource, tmp_path: Path
) -> None:
    trap = raw(iipsrv, "5000,5000,10,10/full/0/default.jpg")
    assert (trap.status_code, trap.headers["Content-Type"]) == (200, "image/jpeg")
    assert not trap.content.startswith(b"\xff\xd8")
    outside = region(5000, 5000, 10, 10)
    with pytest.raises(PictureWrong, match="no picture but"):
        source.fetch(slide(iipsrv), outside, tmp_path, "roi")
    with pytest.raises(PictureWrong, match="a slide of"):
        source.fetch(source.describe(slide(iipsrv)), outside, tmp_path, "roi")
    assert list(tmp_path.iterdir()) == []


def test_trap_a_region_over_the_edge_comes_cropped_and_is_refused(
    iipsrv: Iipsrv, source: IiifSource, tmp_path: Path
) -> None:
    trap = raw(iipsrv, "2120,100,200,200/full/0/default.jpg")
    assert trap.status_code == 200
    assert size_of(trap) == (100, 200)
    over = region(2120, 100, 200, 200)
    with pytest.raises(PictureWrong, match="a picture of 100 x 200 px"):
        source.fetch(slide(iipsrv), over, tmp_path, "roi")
    with pytest.raises(PictureWrong, match="a slide of"):
        source.fetch(source.describe(slide(iipsrv)), over, tmp_path, "roi")


def test_trap_only_jpeg_is_served(iipsrv: Iipsrv, tmp_path: Path) -> None:
    assert raw(iipsrv, "0,0,10,10/full/0/default.png").status_code == 400
    with Http() as http:
        picture = IiifSource(http, iipsrv.url, format="PNG").fetch(
            slide(iipsrv), region(0, 0, 10, 10), tmp_path, "roi"
        )
    assert picture.media_type == "image/jpeg"


def test_a_region_over_the_corner_ends_iipsrv_and_later_ones_are_served(
    iipsrv: Iipsrv, source: IiifSource, tmp_path: Path
) -> None:
    # Debian's iipsrv 1.1 dies of some regions over the lower right corner; lighttpd starts it again.
    with pytest.raises((PeerUnavailable, PictureWrong, PeerRefused)) as caught:
        source.fetch(slide(iipsrv), region(2200, 2900, 200, 200), tmp_path, "over")
    assert isinstance(caught.value, DynsvcError)
    deadline = time.monotonic() + 20
    while True:
        try:
            picture = source.fetch(slide(iipsrv), region(0, 0, 10, 10), tmp_path, "after")
            break
        except PeerUnavailable:
            assert time.monotonic() < deadline
    assert picture.width_px == 10


def test_ci_does_not_pass_without_the_real_server() -> None:
    if os.environ.get("CI") == "true":
        assert iipsrv_missing() is None
