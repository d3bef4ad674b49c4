"""What the contract of sources leaves to slides on this host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynsvc.errors import PictureWrong, SlideNotFound, SlideUnreadable, StorageUnavailable
from dynsvc.regions import Region
from dynsvc.slides import Slide
from dynsvc.sources.openslide import OpenSlideSource
from tests.support.pyramids import gradient, write_pyramid

WIDTH_PX, HEIGHT_PX = 700, 1300
PIXELS = gradient(WIDTH_PX, HEIGHT_PX)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return write_pyramid(tmp_path / "a.tiff", PIXELS)


@pytest.fixture
def source() -> Iterator[OpenSlideSource]:
    source = OpenSlideSource(None)
    yield source
    source.close()


def slide(path: Path) -> Slide:
    return Slide(case_id="A", origin="file", location=str(path))


def test_more_rows_than_are_read_at_once_fit_together(source: OpenSlideSource, path: Path) -> None:
    region = Region(x_px=3, y_px=5, width_px=600, height_px=1290)
    picture = source.fetch(slide(path), region, path.parent / "out", "roi")
    with Image.open(picture.path) as image:
        assert (np.asarray(image) == PIXELS[5:1295, 3:603]).all()


@pytest.mark.parametrize(
    ("mpp_um", "expected"),
    # 72 dots per inch are 353 micrometres per pixel: a default, no scale
    [(0.25, 0.25), (None, None), (353.0, None)],
)
def test_a_scale_is_believed_only_where_it_makes_sense(
    source: OpenSlideSource, tmp_path: Path, mpp_um: float | None, expected: float | None
) -> None:
    path = write_pyramid(tmp_path / "b.tiff", PIXELS, mpp_um=mpp_um)
    assert source.describe(slide(path)).mpp_um == (pytest.approx(expected) if expected else None)


def test_what_is_no_slide_is_told_apart(source: OpenSlideSource, path: Path) -> None:
    text = path.with_name("text.svs")
    text.write_text("no slide")
    for call in (
        lambda: source.describe(slide(text)),
        lambda: OpenSlideSource(path.parent).describe(slide(text)),
    ):
        with pytest.raises(SlideUnreadable, match="no format that OpenSlide knows"):
            call()
    with pytest.raises(SlideNotFound):
        source.describe(slide(path.with_name("none.svs")))
    with pytest.raises(SlideNotFound):
        source.describe(slide(path.parent))
    with pytest.raises(SlideNotFound):
        OpenSlideSource(path.parent / "out").describe(slide(path))


def test_a_damaged_slide_is_unreadable_and_repaired_is_readable(source: OpenSlideSource, path: Path) -> None:
    whole = path.read_bytes()
    region = Region(x_px=0, y_px=0, width_px=WIDTH_PX, height_px=HEIGHT_PX)
    # The compressed tiles lie between the header and the directories.
    path.write_bytes(whole[:64] + bytes(len(whole) // 4) + whole[64 + len(whole) // 4 :])
    with pytest.raises(SlideUnreadable):
        source.fetch(slide(path), region, path.parent / "out", "roi")
    assert list((path.parent / "out").iterdir()) == []
    path.write_bytes(whole)
    os.utime(path, ns=(1, 1))
    source.fetch(slide(path), region, path.parent / "out", "roi")


def test_few_slides_are_kept_open(source: OpenSlideSource, tmp_path: Path) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    paths = [write_pyramid(tmp_path / f"{number}.tiff", PIXELS[:300, :300]) for number in range(8)]
    before = open_files()
    for path in paths * 2:
        source.describe(slide(path))
    assert len(source._open) <= 4
    source.close()
    assert len(source._open) == 0
    assert open_files() <= before


def test_a_replaced_slide_is_read_anew(source: OpenSlideSource, path: Path) -> None:
    assert source.describe(slide(path)).width_px == WIDTH_PX
    write_pyramid(path.with_name("new.tiff"), PIXELS[:300, :400]).replace(path)
    assert source.describe(slide(path)).width_px == 400


def test_errors_of_the_folder_and_the_region_are_told_apart(source: OpenSlideSource, path: Path) -> None:
    region = Region(x_px=0, y_px=0, width_px=9, height_px=9)
    with pytest.raises(StorageUnavailable):
        source.fetch(slide(path), region, path.parent / "none", "roi")
    with pytest.raises(PictureWrong):
        source.fetch(slide(path), region.model_copy(update={"x_px": WIDTH_PX}), path.parent / "out", "roi")
