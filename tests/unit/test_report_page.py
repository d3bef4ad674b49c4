"""The result page, from a result zip to the HTML that a browser shows."""

from __future__ import annotations

import base64
import itertools
import re
import xml.etree.ElementTree as ET
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dynsvc.demo import page as page_module
from dynsvc.demo.drawing import density_cells, histogram_bars, outline_path
from dynsvc.demo.objects import Found, read_objects, simplified
from dynsvc.demo.page import Facts, build_page
from dynsvc.errors import OutputRefused, PictureWrong
from dynsvc.regions import Region

REGION = Region(x_px=1000, y_px=2000, width_px=200, height_px=100)
FACTS = Facts(
    order_id="17",
    slide="TCGA-<b>&1",
    region=REGION,
    mpp_um=0.5,
    algorithm="nuclei 1.0.0",
    parameters={"-r otsu ratio": "1"},
    timings_s={"fetch_order": 0.04, "run_algorithm": 2.5},
    versions={"dynsvc": "0.1.0"},
)
SQUARE = "[1010:2010:1020:2010:1020:2020:1010:2020]"
FAR = "[1100:2050:1104:2050:1104:2054:1100:2054]"


def result_zip(folder: Path, *tables: str, name: str = "A.B_mpp_0.5_x1000_y2000") -> Path:
    path = folder / "result.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-seg.png", b"mask")
        for number, table in enumerate(tables):
            archive.writestr(f"{name}.{number}-features.csv", table)
    return path


def table(*rows: tuple[float, str]) -> str:
    return "AreaInPixels,MajorAxis,Polygon\n" + "".join(f"{area},1.5,{ring}\n" for area, ring in rows)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "roi.jpg"
    Image.new("RGB", (200, 100), "pink").save(path)
    return path


class Page(HTMLParser):
    """What a test asks of a page: its tags with attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_draws_every_polygon_in_one_path_relative_to_the_region(
    tmp_path: Path, picture: Path
) -> None:
    page = Page(build_page(result_zip(tmp_path, table((100, SQUARE), (16, FAR))), picture, FACTS))
    (path,) = page.all("path")
    assert path["d"] == "M10,10 20,10 20,20 10,20ZM100,50 104,50 104,54 100,54Z"
    overlay = next(svg for svg in page.all("svg") if svg.get("class") == "overlay")
    assert overlay["viewbox"] == "0 0 200 100"


def test_the_page_counts_and_measures_in_micrometres(tmp_path: Path, picture: Path) -> None:
    page = Page(build_page(result_zip(tmp_path, table((100, SQUARE), (16, FAR))), picture, FACTS))
    # 200 x 100 px at 0.5 um are 5000 um2: 2 nuclei are 400 per mm2; their areas are 25 and 4 um2.
    assert "nuclei2per" in re.sub(r"\s", "", page.text)
    for shown in ("400", "14.5 µm²", "0.6 %", "100 \u00d7 50 µm", "2.50 s", "< 0.1 s"):
        assert shown in page.text


def test_tables_of_several_tiles_are_shown_together(tmp_path: Path, picture: Path) -> None:
    page = Page(build_page(result_zip(tmp_path, table((100, SQUARE)), table((16, FAR))), picture, FACTS))
    assert str(page.all("path")[0]["d"]).count("M") == 2


@pytest.mark.parametrize("tables", [(), ("AreaInPixels,Polygon\n",)], ids=["no table", "only its header"])
def test_nothing_found_is_said_and_is_no_error(
    tmp_path: Path, picture: Path, tables: tuple[str, ...]
) -> None:
    page = Page(build_page(result_zip(tmp_path, *tables), picture, FACTS))
    assert "No nuclei were found in this region" in page.text
    assert page.all("path")[0]["d"] == ""


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path, picture: Path) -> None:
    html = build_page(result_zip(tmp_path, table((100, SQUARE))), picture, FACTS)
    page = Page(html)
    assert not page.all("script")
    assert not page.all("link")
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert all(str(image["src"]).startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert re.findall(r"(?:src|href)=\"(?!data:|file:)([^\"]*)", html) == []
    assert "default-src 'none'" in html


def test_the_picture_in_the_page_is_the_file_byte_for_byte(tmp_path: Path, picture: Path) -> None:
    page = Page(build_page(result_zip(tmp_path), picture, FACTS))
    encoded = str(page.all("img")[0]["src"]).partition(",")[2]
    assert base64.b64decode(encoded) == picture.read_bytes()


def test_text_from_orders_cannot_become_markup(tmp_path: Path, picture: Path) -> None:
    html = build_page(result_zip(tmp_path, table(), name="A.<img src=x>"), picture, FACTS)
    assert "<b>" not in html
    assert "<img src=x>" not in html
    assert "TCGA-&lt;b&gt;&amp;1" in html


def test_outlines_are_toggled_by_a_checkbox_before_the_stage(tmp_path: Path, picture: Path) -> None:
    html = build_page(result_zip(tmp_path), picture, FACTS)
    assert html.index('id="outlines"') < html.index('class="stage"')
    assert "#outlines:not(:checked) ~ .stage .overlay" in html


def test_beyond_the_limit_a_density_grid_takes_the_place_of_outlines(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "OUTLINES_LIMIT", 1)
    page = Page(build_page(result_zip(tmp_path, table((100, SQUARE), (16, FAR))), picture, FACTS))
    assert not page.all("path")
    assert [g.get("class") for g in page.all("g")] == ["density"]
    assert "Density" in page.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("AreaInPixels,Shape\n1,2\n", "no column Polygon"),  # a table of another program
        ("AreaInPixels,Polygon\n1,[1:2:3]\n", "expected pairs"),  # an odd number of coordinates
        ("AreaInPixels,Polygon\n1,[1:2:x:4]\n", "line 2"),  # no number
        ("AreaInPixels,Polygon\nmany,[1:2:3:4]\n", "line 2"),  # no area
        ("AreaInPixels,Polygon\n1,[1:2:nan:4]\n", "finite"),  # a coordinate that no browser draws
    ],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path: Path, picture: Path, text: str, words: str) -> None:
    with pytest.raises(OutputRefused, match=words) as caught:
        build_page(result_zip(tmp_path, text), picture, FACTS)
    assert caught.value.name.endswith("-features.csv")


def test_an_object_without_an_area_is_drawn_but_not_measured(tmp_path: Path, picture: Path) -> None:
    path = result_zip(tmp_path, f"AreaInPixels,Polygon\nnan,{SQUARE}\n16,{FAR}\n")
    page = Page(build_page(path, picture, FACTS))
    assert str(page.all("path")[0]["d"]).count("M") == 2
    assert "4.0 µm²" in page.text


def test_what_is_no_zip_is_refused(tmp_path: Path, picture: Path) -> None:
    path = tmp_path / "result.zip"
    path.write_bytes(b"<html>502</html>")
    with pytest.raises(OutputRefused):
        build_page(path, picture, FACTS)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "roi.jpg"
    path.write_bytes(b"<html>")
    with pytest.raises(PictureWrong):
        build_page(result_zip(tmp_path), path, FACTS)


def test_one_object_may_have_more_vertices_than_csv_reads_by_default(tmp_path: Path) -> None:
    ring = "[" + ":".join(f"{1000 + i % 190}:{2000 + i % 90}" for i in range(20_000)) + "]"
    assert len(ring) > 131_072
    (found,) = read_objects(result_zip(tmp_path, table((5, ring))))
    assert len(found.ring) == 20_000


def test_straight_runs_of_vertices_are_dropped() -> None:
    ring = tuple((float(x), 0.0) for x in range(50)) + tuple((float(x), 30.0) for x in range(49, -1, -1))
    assert set(simplified(ring, 0.75)) == {(0.0, 0.0), (49.0, 0.0), (49.0, 30.0), (0.0, 30.0)}


coordinate = st.integers(0, 400).map(float)


@given(ring=st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=60).map(tuple))
def test_no_dropped_vertex_lies_farther_from_the_outline_than_allowed(
    ring: tuple[tuple[float, float], ...],
) -> None:
    kept = simplified(ring, 0.75)
    assert set(kept) <= set(ring)
    closed = [*kept, kept[0]]
    for point in ring:
        assert min(_distance(point, a, b) for a, b in itertools.pairwise(closed)) <= 0.75 + 1e-9


def _distance(p: tuple[float, float], a: tuple[float, float], b: tuple[float, float]) -> float:
    """From a point to the infinite line through a and b, or to a where they are one point."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = (dx * dx + dy * dy) ** 0.5
    x, y = p[0] - a[0], p[1] - a[1]
    return abs(dx * y - dy * x) / length if length else (x * x + y * y) ** 0.5


@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_the_bars_of_the_histogram_hold_every_value_once(values: list[float]) -> None:
    svg = ET.fromstring(histogram_bars(values, "µm²"))
    titles = [title.text or "" for title in svg.iter("title")]
    assert sum(int(title.rpartition(": ")[2]) for title in titles) == len(values)


def test_the_density_grid_counts_each_object_once() -> None:
    ring = ((1010.0, 2010.0), (1011.0, 2011.0))
    cells = ET.fromstring(f"<g>{density_cells([Found(area_px=1, ring=ring)] * 3, REGION)}</g>")
    assert [title.text for title in cells.iter("title")] == ["3 nuclei"]


def test_coordinates_keep_a_tenth_of_a_pixel() -> None:
    ring = ((1000.25, 2000.5), (1010.04, 2000.0), (1010.0, 2010.0))
    assert outline_path([ring], REGION) == "M0.2,0.5 10,0 10,10Z"
