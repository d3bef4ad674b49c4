"""The input folder of a run, and what counts as progress in an algorithm's output."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dynsvc.algorithms import Algorithm
from dynsvc.errors import PictureWrong
from dynsvc.inputs import place
from dynsvc.pipeline import ALGORITHM_FROM, ALGORITHM_TO, _ProgressLines
from tests.support.places import PLACES


def algorithm(**picture: Any) -> Algorithm:
    return Algorithm.model_validate(
        {
            "schema": 1,
            "name": "seg",
            "title": "Segmentation",
            "version": "1",
            "command": ["seg", "{parameters.n}"],
            "parameters": {"n": {"type": "integer", "default": "2"}},
            "input": picture,
            "outputs": {"required": ["*"]},
        }
    )


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "tile.png"
    pixels = Image.frombytes("RGB", (16, 9), bytes(range(16 * 9)) * 3)
    pixels.save(path)
    return path


def placed(picture: Path, declared: Algorithm, *, link: bool = True, **changes: Any) -> Path:
    folder = picture.parent / "input"
    folder.mkdir()
    return place(declared, picture, folder, replace(PLACES, **changes), {"n": "7"}, link=link)


def test_without_a_wish_the_picture_is_the_one_that_was_fetched(picture: Path) -> None:
    found = placed(picture, algorithm())
    assert found == picture.parent / "input" / "tile.png"
    assert found.read_bytes() == picture.read_bytes()


def test_an_algorithm_that_changes_its_input_changes_a_copy(picture: Path) -> None:
    before = picture.read_bytes()
    placed(picture, algorithm(), link=False).write_bytes(b"changed")
    assert picture.read_bytes() == before


@pytest.mark.parametrize(
    ("wanted", "name", "kind"), [("tiff", "tile.tif", "TIFF"), ("jpeg", "tile.jpg", "JPEG")]
)
def test_the_picture_is_converted(picture: Path, wanted: str, name: str, kind: str) -> None:
    before = picture.read_bytes()
    found = placed(picture, algorithm(format=wanted))
    assert found.name == name
    with Image.open(found) as converted, Image.open(picture) as original:
        assert (converted.format, converted.mode, converted.size) == (kind, "RGB", (16, 9))
        if kind == "TIFF":
            assert converted.tobytes() == original.tobytes()
    assert picture.read_bytes() == before


def test_a_jpeg_becomes_png_where_that_is_wanted(picture: Path) -> None:
    with Image.open(picture) as pixels:
        pixels.save(picture.with_suffix(".jpg"))
    with Image.open(placed(picture.with_suffix(".jpg"), algorithm(format="png"))) as converted:
        assert converted.format == "PNG"


def test_a_tiff_tells_the_pixel_size(picture: Path) -> None:
    with Image.open(placed(picture, algorithm(format="tiff"), mpp=0.5)) as converted:
        tags = converted.tag_v2  # type: ignore[attr-defined]
        assert (float(tags[282]), float(tags[283]), tags[296]) == (20000, 20000, 3)


def test_the_picture_gets_its_name_and_further_files_their_values(picture: Path) -> None:
    declared = algorithm(
        format="png",
        name="images/slide/a.png",
        files={"deep/values.json": {"n": "{parameters.n}", "at": ["{x}", "{mpp}"], "as is": "{x} {y}"}},
    )
    found = placed(picture, declared)
    assert found == picture.parent / "input" / "images" / "slide" / "a.png"
    values = json.loads((picture.parent / "input" / "deep" / "values.json").read_text())
    assert values == {"n": 7, "at": [1, 0.25], "as is": "{x} {y}"}


def test_a_damaged_picture_is_no_bug_of_ours(picture: Path) -> None:
    picture.write_bytes(picture.read_bytes()[:20])
    with pytest.raises(PictureWrong):
        placed(picture, algorithm(format="tiff"))


class Reports:
    """An attempt that only notes percentages."""

    def __init__(self) -> None:
        self.percents: list[int] = []

    def report(self, percent: int, *lines: str) -> None:
        self.percents.append(percent)


@pytest.mark.parametrize(
    ("line", "fraction"),
    [
        ('{"type":"progress","fraction":0.4}', 0.4),
        (' {"type": "progress", "id": "7", "fraction": 1} ', 1),
        ("<filter-progress>0.4</filter-progress>", 0.4),
        ("40% done", 0.4),
        ('{"type":"progress","fraction":"0.4"}', None),
        ('{"type":"progress","fraction":7}', None),
        ('{"type":"progress"}', None),
        ('{"type":"log","text":"progress","fraction":0.4}', None),
        ('{"fraction":0.4, "type" "progress"}', None),
        ('{"a": ' + "[" * 900 + '"progress"' + "]" * 900 + "}", None),
        ("progress 0.4", None),
    ],
)
def test_progress_is_understood_in_each_form(line: str, fraction: float | None) -> None:
    attempt = Reports()
    _ProgressLines(attempt)(line)  # type: ignore[arg-type]
    expected = [] if fraction is None else [ALGORITHM_FROM + int((ALGORITHM_TO - ALGORITHM_FROM) * fraction)]
    assert attempt.percents == [ALGORITHM_FROM, *expected]
