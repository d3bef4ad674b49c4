"""What every image source does, run over each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from dynsvc.errors import PictureWrong, SlideNotFound, SlideUnreadable
from dynsvc.http import Http
from dynsvc.regions import Region
from dynsvc.slides import Picture, Slide
from dynsvc.sources import ImageSource
from dynsvc.sources.iiif import IiifSource
from dynsvc.sources.openslide import OpenSlideSource
from dynsvc.standins.imageserver import ImageServerStandin
from tests.support.pyramids import gradient, misplaced, write_pyramid

WIDTH_PX, HEIGHT_PX = 1500, 1100
PIXELS = gradient(WIDTH_PX, HEIGHT_PX)


@dataclass(frozen=True)
class Subject:
    """A source, and how far its pixels may be from the slide's."""

    source: ImageSource
    #: Largest mean difference; JPEG loses something.
    tolerance: float
    knows_mpp: bool

    def slide(self, location: str = "case/slide 1.tiff") -> Slide:
        return Slide(case_id="A", origin="iiif", location=location)

    def fetched(
        self, region: Region, folder: Path, stem: str = "roi"
    ) -> tuple[Picture, npt.NDArray[np.uint8]]:
        picture = self.source.fetch(self.source.describe(self.slide()), region, folder, stem)
        with Image.open(picture.path) as image:
            assert image.mode == "RGB"
            return picture, np.asarray(image)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("slides")
    (root / "case").mkdir()
    write_pyramid(root / "case" / "slide 1.tiff", PIXELS)
    (root / "case" / "broken.svs").write_bytes(b"II*\x00 this is no slide")
    return root


@pytest.fixture(
    params=["openslide", "iiif jpeg", "iiif png", "iiif png pieces", "iiif jpeg pieces", "iiif jpeg only"]
)
def subject(request: pytest.FixtureRequest, root: Path) -> Iterator[Subject]:
    kind: str = request.param
    if kind == "openslide":
        source = OpenSlideSource(root)
        yield Subject(source, tolerance=0, knows_mpp=True)
        source.close()
        return
    png = "png" in kind
    formats = ("jpg",) if kind.endswith("only") else ("jpg", "png")
    with ImageServerStandin(root, formats=formats) as server, Http() as http:
        yield Subject(
            IiifSource(
                http,
                server.url,
                format="PNG" if png or kind.endswith("only") else "JPEG",
                piece_px=300 if "pieces" in kind else 2048,
            ),
            tolerance=0 if png else 3,
            knows_mpp=False,
        )


REGIONS = [
    # inside, not aligned to anything
    Region(x_px=101, y_px=203, width_px=517, height_px=311),
    # a single pixel
    Region(x_px=700, y_px=500, width_px=1, height_px=1),
    # touches the right and lower edge
    Region(x_px=WIDTH_PX - 333, y_px=HEIGHT_PX - 301, width_px=333, height_px=301),
    # everything
    Region(x_px=0, y_px=0, width_px=WIDTH_PX, height_px=HEIGHT_PX),
]


@pytest.mark.parametrize("region", REGIONS, ids=str)
def test_a_region_has_the_slides_pixels(subject: Subject, region: Region, tmp_path: Path) -> None:
    picture, found = subject.fetched(region, tmp_path)
    rows, columns = (
        slice(region.y_px, region.y_px + region.height_px),
        slice(region.x_px, region.x_px + region.width_px),
    )
    expected = PIXELS[rows, columns]
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() <= subject.tolerance
    if min(found.shape[:2]) > 2:
        assert misplaced(found, expected) == (0, 0)
    assert (picture.width_px, picture.height_px) == (region.width_px, region.height_px)


@pytest.mark.parametrize(("width_px", "height_px"), [(300, 220), (751, 550), (1499, 1099), (1, 1)])
def test_a_region_at_a_smaller_size(subject: Subject, width_px: int, height_px: int, tmp_path: Path) -> None:
    slide = subject.source.describe(subject.slide())
    picture = subject.source.fetch(slide, REGIONS[-1], tmp_path, "small", size_px=(width_px, height_px))
    with Image.open(picture.path) as image:
        found = np.asarray(image).astype(int)
    assert found.shape == (height_px, width_px, 3)
    assert (picture.width_px, picture.height_px) == (width_px, height_px)
    with Image.fromarray(PIXELS) as whole:
        expected = np.asarray(whole.resize((width_px, height_px), Image.Resampling.BOX)).astype(int)
    # Red and green tell the place; the levels of the slide's pyramid are no exact means.
    assert np.abs(found - expected)[..., :2].mean() <= 3
    assert list(tmp_path.iterdir()) == [picture.path]


def test_the_picture_is_the_only_thing_left_in_the_folder(subject: Subject, tmp_path: Path) -> None:
    picture, _ = subject.fetched(REGIONS[0], tmp_path, stem="order.7")
    assert list(tmp_path.iterdir()) == [picture.path]
    assert picture.path.name == f"order.7{picture.suffix}"


def test_the_size_is_described_and_the_rest_is_kept(subject: Subject) -> None:
    before = subject.slide().model_copy(update={"mpp_um": None if subject.knows_mpp else 0.4})
    after = subject.source.describe(before)
    assert (after.width_px, after.height_px) == (WIDTH_PX, HEIGHT_PX)
    assert after.mpp_um == pytest.approx(0.5 if subject.knows_mpp else 0.4)
    assert (after.case_id, after.location) == (before.case_id, before.location)


@pytest.mark.parametrize("call", ["describe", "fetch"])
@pytest.mark.parametrize("location", ["case/none.tiff", "/nowhere/x.svs", "../outside.tiff", "case"])
def test_an_unknown_slide_is_not_found(subject: Subject, call: str, location: str, tmp_path: Path) -> None:
    slide = subject.slide(location)
    with pytest.raises(SlideNotFound) as caught:
        ask(subject, call, slide, tmp_path)()
    assert not caught.value.transient
    assert list(tmp_path.iterdir()) == []


def test_a_region_over_the_edge_is_refused(subject: Subject, tmp_path: Path) -> None:
    slide = subject.source.describe(subject.slide())
    for region in (
        Region(x_px=WIDTH_PX - 10, y_px=0, width_px=11, height_px=10),
        Region(x_px=0, y_px=HEIGHT_PX, width_px=1, height_px=1),
    ):
        with pytest.raises(PictureWrong):
            subject.source.fetch(slide, region, tmp_path, "roi")
    assert list(tmp_path.iterdir()) == []


def test_several_threads_read_at_once(subject: Subject, tmp_path: Path) -> None:
    regions = [Region(x_px=x, y_px=2 * x, width_px=200, height_px=100) for x in range(0, 480, 40)]
    with ThreadPoolExecutor(4) as threads:
        found = list(
            threads.map(lambda region: subject.fetched(region, tmp_path, f"roi {region}")[1], regions)
        )
    for region, pixels in zip(regions, found, strict=True):
        expected = PIXELS[region.y_px : region.y_px + 100, region.x_px : region.x_px + 200]
        assert np.abs(pixels.astype(int) - expected).mean() <= subject.tolerance


def test_a_damaged_slide_is_an_error_of_the_tree(root: Path, tmp_path: Path) -> None:
    source = OpenSlideSource(root)
    slide = Slide(case_id="A", origin="file", location=str(root / "case" / "broken.svs"))
    with pytest.raises(SlideUnreadable):
        source.describe(slide)


def ask(subject: Subject, call: str, slide: Slide, folder: Path) -> Callable[[], object]:
    if call == "describe":
        return lambda: subject.source.describe(slide)
    return lambda: subject.source.fetch(slide, Region(x_px=0, y_px=0, width_px=9, height_px=9), folder, "roi")
