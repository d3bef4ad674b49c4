"""Regions from image servers that are wrong in the known ways, and in others."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dynsvc.errors import PeerRefused, PeerUnavailable, PictureWrong, SlideNotFound
from dynsvc.http import Http, Patience
from dynsvc.regions import Region
from dynsvc.slides import Slide
from dynsvc.sources.iiif import IiifSource
from dynsvc.sources.information import Information, pieces
from dynsvc.standins.server import Reply, Request, Standin, json_reply
from tests.support.misbehaving import endless, misbehaving, reset, stalled, truncated
from tests.support.pyramids import gradient

QUICK = Patience(connect_s=1, read_s=0.3, answer_s=0.6, attempts=2, pause_s=0.001)
SIZE_PX = 500
PIXELS = gradient(SIZE_PX, SIZE_PX)
SLIDE = Slide(case_id="A", origin="iiif", location="/data/images/a b+c%é.svs")
KNOWN = SLIDE.model_copy(update={"width_px": SIZE_PX, "height_px": SIZE_PX})
REGION = Region(x_px=10, y_px=20, width_px=200, height_px=100)
EDGE = Region(x_px=400, y_px=450, width_px=100, height_px=50)


class OddServer(Standin):
    """Serves one picture, with the oddities that are set on it."""

    def __init__(self) -> None:
        super().__init__()
        self.information: Reply = json_reply(200, {"width": str(SIZE_PX), "height": SIZE_PX})
        #: Names of pictures that are served; others are answered with *unserved*.
        self.names = {"default.jpg", "color.jpg"}
        self.unserved = Reply(404)
        #: Longest side; pictures with a longer one are made smaller without a word.
        self.limit_px = 10_000
        #: Columns and rows that are missing at the right and below.
        self.short = (0, 0)
        self.mode = "RGB"
        #: Replaces each picture, where set.
        self.always: Reply | None = None
        self.asked: list[str] = []

    def answer(self, request: Request) -> Reply:
        target = request.target
        if target.endswith("/info.json"):
            return self.information
        if target == "/":
            return Reply(404)
        self.asked.append(target)
        _, region, size, rotation, name = target.rsplit("/", 4)
        assert (size, rotation) == ("full", "0")
        if name not in self.names:
            return self.unserved
        if self.always is not None:
            return self.always
        x, y, width, height = (int(number) for number in region.split(","))
        part = Image.fromarray(PIXELS[y : y + height, x : x + width]).convert(self.mode)
        part = part.crop((0, 0, part.width - self.short[0], part.height - self.short[1]))
        if max(part.size) > self.limit_px:
            part.thumbnail((self.limit_px, self.limit_px))
        body = io.BytesIO()
        if name.endswith("jpg"):
            part.save(body, "JPEG", quality=95, subsampling=0)
            return Reply(200, body.getvalue(), "image/jpeg")
        part.save(body, "PNG")
        return Reply(200, body.getvalue(), "image/png")


@pytest.fixture
def server() -> Iterator[OddServer]:
    with OddServer() as server:
        yield server


@pytest.fixture
def http() -> Iterator[Http]:
    with Http(QUICK) as client:
        yield client


def pixels(path: Path) -> Any:
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture).astype(int)


def test_one_piece_keeps_the_servers_bytes(server: OddServer, http: Http, tmp_path: Path) -> None:
    picture = IiifSource(http, server.url).fetch(KNOWN, REGION, tmp_path, "roi")
    assert picture.path == tmp_path / "roi.jpg"
    assert picture.path.read_bytes() == server.answer(server.requests[-1]).body
    assert server.asked[0] == "/data/images/a%20b%2Bc%25%C3%A9.svs/10,20,200,100/full/0/default.jpg"


def test_a_base_with_a_query_is_only_appended_to(server: OddServer, http: Http, tmp_path: Path) -> None:
    IiifSource(http, f"{server.url}/fcgi-bin/iipsrv.fcgi?IIIF=").fetch(KNOWN, REGION, tmp_path, "roi")
    assert server.asked[0].startswith("/fcgi-bin/iipsrv.fcgi?IIIF=/data/images/a%20b%2Bc%25%C3%A9.svs/10,20")


def test_a_location_without_a_slash_gets_one_after_a_path(
    server: OddServer, http: Http, tmp_path: Path
) -> None:
    slide = KNOWN.model_copy(update={"location": "a.svs"})
    IiifSource(http, f"{server.url}/iiif").fetch(slide, REGION, tmp_path, "roi")
    IiifSource(http, f"{server.url}/iip?IIIF=").fetch(slide, REGION, tmp_path, "roi")
    assert [target.partition("/10,")[0] for target in server.asked] == ["/iiif/a.svs", "/iip?IIIF=a.svs"]


def test_no_piece_is_larger_than_the_servers_limit(server: OddServer, http: Http, tmp_path: Path) -> None:
    server.limit_px = 64
    profile = ["level1.json", {"maxWidth": 64, "maxHeight": 90}]
    server.information = json_reply(200, {"width": SIZE_PX, "height": SIZE_PX, "profile": profile})
    picture = IiifSource(http, server.url).fetch(KNOWN, REGION, tmp_path, "roi")
    assert len(server.asked) == 4 * 2
    assert picture.media_type == "image/png"
    assert np.abs(pixels(picture.path) - PIXELS[20:120, 10:210]).mean() < 2


def test_a_picture_made_smaller_in_silence_is_refused(server: OddServer, http: Http, tmp_path: Path) -> None:
    server.limit_px = 100
    with pytest.raises(
        PictureWrong, match="answered a picture of 100 x 50 px, expected a picture of 200 x 100 px"
    ):
        IiifSource(http, server.url).fetch(KNOWN, REGION, tmp_path, "roi")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("short", [(1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("slide", [KNOWN, SLIDE], ids=["size known", "size unknown"])
def test_a_pixel_short_at_the_slides_edge_is_repeated(
    server: OddServer, http: Http, tmp_path: Path, short: tuple[int, int], slide: Slide
) -> None:
    server.short = short
    picture = IiifSource(http, server.url).fetch(slide, EDGE, tmp_path, "roi")
    found = pixels(picture.path)
    assert found.shape == (50, 100, 3)
    assert np.abs(found - PIXELS[450:500, 400:500]).mean() < 3
    if short[0]:
        assert (found[:, -1] == found[:, -2]).all()
    if short[1]:
        assert (found[-1] == found[-2]).all()


@pytest.mark.parametrize(
    ("slide", "region", "short"),
    [
        # not at the edge
        (KNOWN, REGION, (1, 0)),
        (KNOWN, REGION, (0, 1)),
        # at the right edge, but short below
        (KNOWN, Region(x_px=400, y_px=20, width_px=100, height_px=50), (0, 1)),
        # more than rounding can explain
        (KNOWN, EDGE, (2, 0)),
        (SLIDE, EDGE, (0, 2)),
        # too much
        (KNOWN, REGION, (-1, 0)),
    ],
)
def test_any_other_size_is_refused(
    server: OddServer, http: Http, tmp_path: Path, slide: Slide, region: Region, short: tuple[int, int]
) -> None:
    server.short = short
    with pytest.raises(PictureWrong):
        IiifSource(http, server.url).fetch(slide, region, tmp_path, "roi")


def test_only_pieces_at_the_far_edge_may_be_short(server: OddServer, http: Http, tmp_path: Path) -> None:
    server.short = (1, 0)
    with pytest.raises(PictureWrong):
        IiifSource(http, server.url, piece_px=60).fetch(KNOWN, EDGE, tmp_path, "roi")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        # iipsrv outside the slide
        (
            Reply(200, b"<html><h1>400 Bad Request</h1></html>", "image/jpeg"),
            'no picture but "400 Bad Request"',
        ),
        (Reply(200, b"", "image/jpeg"), "no picture but 0 bytes"),
        (Reply(200, b"\x00" * 999, "image/jpeg"), "no picture but 999 bytes"),
        (Reply(200, b"\xff\xd8\xff", "image/jpeg"), "a damaged JPEG picture"),
        (Reply(200, b"\x89PNG\r\n\x1a\n", "image/png"), "a damaged PNG picture"),
        (Reply(200, b"GIF89a", "image/gif"), 'no picture but "GIF89a"'),
    ],
)
def test_what_is_no_picture_is_refused(
    server: OddServer, http: Http, tmp_path: Path, reply: Reply, found: str
) -> None:
    server.always = reply
    with pytest.raises(PictureWrong) as caught:
        IiifSource(http, server.url).fetch(KNOWN, REGION, tmp_path, "roi")
    assert caught.value.found.startswith(found)
    assert not caught.value.transient
    assert len(server.asked) == 1


@pytest.mark.parametrize("name", ["default.jpg", "default.png"])
def test_a_picture_cut_short_by_its_server_is_refused(
    server: OddServer, http: Http, tmp_path: Path, name: str
) -> None:
    server.names.add(name)
    whole = server.answer(Request("GET", f"/a/10,20,200,100/full/0/{name}", {}, b"")).body
    server.always = Reply(200, whole[: len(whole) // 2])
    with pytest.raises(PictureWrong, match="damaged"):
        IiifSource(http, server.url).fetch(KNOWN, REGION, tmp_path, "roi")


def test_a_picture_that_claims_to_be_huge_is_not_unpacked(
    server: OddServer, http: Http, tmp_path: Path
) -> None:
    body = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(body, "PNG")
    server.always = Reply(200, body.getvalue())
    with pytest.raises(PictureWrong):
        IiifSource(http, server.url).fetch(KNOWN, REGION, tmp_path, "roi")


@pytest.mark.parametrize("behaviour", [truncated(b"\xff\xd8\xff"), endless(every_s=0.05), stalled(), reset()])
def test_no_complete_picture_is_transient(http: Http, tmp_path: Path, behaviour: Any) -> None:
    information = Reply(200, json.dumps({"width": SIZE_PX, "height": SIZE_PX}).encode())
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(information.body)}\r\nConnection: close\r\n\r\n".encode()

    def described(connection: Any, _: Any) -> None:
        connection.sendall(head + information.body)

    with misbehaving(described, behaviour) as server, pytest.raises(PeerUnavailable):
        IiifSource(http, server.url).fetch(KNOWN, REGION, tmp_path, "roi")
    assert list(tmp_path.iterdir()) == []


def test_an_endless_picture_is_refused(http: Http, tmp_path: Path) -> None:
    with misbehaving(endless()) as server, pytest.raises((PeerRefused, PeerUnavailable)):
        IiifSource(http, server.url).fetch(KNOWN, REGION, tmp_path, "roi")
    assert list(tmp_path.iterdir()) == []


def test_one_piece_that_fails_ends_the_region_and_leaves_nothing(
    server: OddServer, http: Http, tmp_path: Path
) -> None:
    whole = server.answer

    def one_fails(request: Request) -> Reply:
        return Reply(410, b"gone") if "/110,20," in request.target else whole(request)

    server.answer = one_fails  # type: ignore[method-assign]
    with pytest.raises(PeerRefused, match="answered 410"):
        IiifSource(http, server.url, piece_px=50).fetch(KNOWN, REGION, tmp_path, "roi")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("format_name", "names", "unserved", "asked", "suffix"),
    [
        ("JPEG", {"default.jpg", "color.jpg"}, 404, ["default.jpg"], ".jpg"),
        # oss-lite with a Pillow that refuses to write an alpha channel as JPEG
        ("JPEG", {"color.jpg"}, 404, ["default.jpg", "color.jpg"], ".jpg"),
        ("PNG", {"default.png", "default.jpg"}, 400, ["default.png"], ".png"),
        # iipsrv
        ("png", {"default.jpg"}, 400, ["default.png", "color.png", "default.jpg"], ".jpg"),
        ("PNG", {"default.jpg"}, 501, ["default.png", "color.png", "default.jpg"], ".jpg"),
        # a word of the configuration that is no format here
        ("TIFF", {"default.jpg"}, 400, ["default.jpg"], ".jpg"),
    ],
)
def test_names_are_tried_until_one_is_served_and_it_is_remembered(
    server: OddServer,
    http: Http,
    tmp_path: Path,
    format_name: str,
    names: set[str],
    unserved: int,
    asked: list[str],
    suffix: str,
) -> None:
    server.names, server.unserved = names, Reply(unserved)
    source = IiifSource(http, server.url, format=format_name)
    assert source.fetch(KNOWN, REGION, tmp_path, "first").path.name == f"first{suffix}"
    assert [target.rpartition("/")[2] for target in server.asked] == asked
    source.fetch(KNOWN, REGION, tmp_path, "second")
    assert [target.rpartition("/")[2] for target in server.asked[len(asked) :]] == asked[-1:]


@pytest.mark.parametrize(
    ("mode", "format_name"),
    # an alpha channel and a palette, as oss-lite's default.png; grey, as of a grey slide
    [("RGBA", "PNG"), ("P", "PNG"), ("L", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG")],
)
def test_other_pixels_become_rgb(
    server: OddServer, http: Http, tmp_path: Path, mode: str, format_name: str
) -> None:
    server.mode = mode
    server.names.add("default.png")
    picture = IiifSource(http, server.url, format=format_name).fetch(KNOWN, REGION, tmp_path, "roi")
    assert picture.media_type == "image/png"
    assert pixels(picture.path).shape == (100, 200, 3)


def test_a_slide_that_is_not_there_is_not_found(server: OddServer, http: Http, tmp_path: Path) -> None:
    server.information, server.names = Reply(404), set()
    with pytest.raises(SlideNotFound):
        IiifSource(http, server.url).describe(SLIDE)
    with pytest.raises(SlideNotFound):
        IiifSource(http, server.url).fetch(SLIDE, REGION, tmp_path, "roi")


@pytest.mark.parametrize(
    "information",
    [
        # no such request at this server
        Reply(404),
        Reply(400),
        # oss-lite, for any failure
        Reply(500, b"Internal Server Error"),
        Reply(200, b"<html></html>"),
        json_reply(200, []),
        json_reply(200, {"width": "wide", "height": 7}),
        json_reply(200, {"width": 7}),
    ],
)
def test_a_server_without_information_is_served_from(
    server: OddServer, http: Http, tmp_path: Path, information: Reply
) -> None:
    server.information = information
    source = IiifSource(http, server.url)
    assert source.describe(SLIDE) == SLIDE
    assert source.describe(KNOWN) == KNOWN
    assert source.fetch(SLIDE, REGION, tmp_path, "roi").width_px == 200


def test_a_server_that_is_busy_is_not_taken_for_one_without_information(
    server: OddServer, http: Http
) -> None:
    server.information = Reply(503)
    with pytest.raises(PeerUnavailable):
        IiifSource(http, server.url).describe(SLIDE)


def test_the_servers_size_wins_over_the_record(server: OddServer, http: Http) -> None:
    wrong = SLIDE.model_copy(update={"width_px": 48002, "height_px": 35558})
    assert IiifSource(http, server.url).describe(wrong) == KNOWN


def test_information_is_asked_for_once_for_many_regions(
    server: OddServer, http: Http, tmp_path: Path
) -> None:
    source = IiifSource(http, server.url)
    for number in range(3):
        source.fetch(source.describe(SLIDE), REGION, tmp_path, str(number))
    assert sum("info.json" in request.target for request in server.requests) == 1


def test_information_of_all_versions_is_understood() -> None:
    two = {"width": "10", "height": "20", "profile": ["x", {"maxWidth": 5000, "maxArea": 250_000}]}
    three = {"width": 10, "height": 20, "maxWidth": 4000, "maxHeight": 3000, "profile": "level1"}
    assert Information.from_document(two) == Information(width_px=10, height_px=20, longest_px=500)
    assert Information.from_document(three) == Information(width_px=10, height_px=20, longest_px=3000)
    odd = {
        "width": 10,
        "height": 0,
        "profile": [None, {"maxWidth": "x", "maxArea": "big"}, {"maxArea": True}],
    }
    assert Information.from_document(odd).width_px is None
    assert Information.from_document("text") == Information()


@pytest.mark.parametrize("size", [(1, 1), (2048, 2048), (2049, 1), (5000, 4097)])
def test_pieces_cover_a_region_once(size: tuple[int, int]) -> None:
    region = Region(x_px=7, y_px=9, width_px=size[0], height_px=size[1])
    cover = np.zeros((size[1], size[0]), np.uint8)
    for piece in pieces(region, 2048):
        assert max(piece.width_px, piece.height_px) <= 2048
        left, top = piece.x_px - 7, piece.y_px - 9
        cover[top : top + piece.height_px, left : left + piece.width_px] += 1
    assert (cover == 1).all()


def test_a_check_tells_that_the_server_answers(server: OddServer, http: Http) -> None:
    assert IiifSource(http, server.url).check() == f"image server {server.url} answers"
    with pytest.raises(PeerUnavailable):
        IiifSource(http, "http://127.0.0.1:1").check()
