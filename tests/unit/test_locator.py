"""Slides are found, or it is told why not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from dynsvc.errors import DynsvcError, PeerRefused, PeerUnavailable, SlideAmbiguous, SlideNotFound
from dynsvc.http import Http, Patience
from dynsvc.locator import BindaasLocator, FileLocator, resolve_local
from dynsvc.records import mean_mpp_um, whole_px
from dynsvc.settings import Endpoint
from dynsvc.standins.bindaas import PATH, BindaasStandin, error_document
from dynsvc.standins.server import Reply, json_reply

QUICK = Patience(connect_s=1, read_s=2, answer_s=2, attempts=2, pause_s=0.001)
RECORD = {
    "case_id": "A",
    "file-location": "/data/images/a.svs",
    "width": 2220,
    "height": "2967",
    "mpp-x": 0.5,
    "mpp-y": "0.498",
}


#: Closed after each test.
HTTP = Http(QUICK)


@pytest.fixture(autouse=True)
def _closed_connections() -> Iterator[None]:
    yield
    HTTP.close()


@pytest.fixture
def bindaas() -> Iterator[BindaasStandin]:
    with BindaasStandin([RECORD], api_key="k3y") as standin:
        yield standin


def locator(
    server: BindaasStandin, key: str | None = "k3y", *, query: str = "getFileLocationByIID"
) -> BindaasLocator:
    endpoint = Endpoint(host="127.0.0.1", port=server.port, path=PATH + query)
    return BindaasLocator(HTTP, endpoint, SecretStr(key) if key else None)


def test_a_slide_is_found_with_the_facts_of_its_record(bindaas: BindaasStandin) -> None:
    slide = locator(bindaas).locate("A")
    assert (slide.case_id, slide.origin, slide.location) == ("A", "iiif", "/data/images/a.svs")
    assert (slide.width_px, slide.height_px) == (2220, 2967)
    assert slide.mpp_um == pytest.approx(0.499)


def test_the_key_travels_in_a_header_only(bindaas: BindaasStandin) -> None:
    with capture_logs() as logs:
        locator(bindaas).locate("A")
    assert {request.headers.get("api_key") for request in bindaas.requests} == {"k3y"}
    assert not any("k3y" in request.target for request in bindaas.requests)
    assert "k3y" not in str(logs)


def test_a_found_slide_is_remembered_and_a_missing_one_is_not(bindaas: BindaasStandin) -> None:
    finder = locator(bindaas)
    with pytest.raises(SlideNotFound):
        finder.locate("B")
    bindaas.records.append({"case_id": "B", "file-location": "/data/images/b.svs"})
    assert finder.locate("B").location == "/data/images/b.svs"
    asked = len(bindaas.requests)
    assert finder.locate("B").location == "/data/images/b.svs"
    assert len(bindaas.requests) == asked


def test_one_slide_named_twice_is_one_slide(bindaas: BindaasStandin) -> None:
    bindaas.records.append(RECORD)
    assert locator(bindaas).locate("A").location == "/data/images/a.svs"


def test_several_slides_of_one_case_are_ambiguous(bindaas: BindaasStandin) -> None:
    bindaas.records.append({"case_id": "A", "file-location": "/data/images/other.svs"})
    with pytest.raises(SlideAmbiguous) as caught:
        locator(bindaas).locate("A")
    assert caught.value.count == 2


@pytest.mark.parametrize("case_id", ['A"', "A'}", "{$gt: 1}", "A\\", "A\n"])
def test_an_id_that_would_change_the_query_is_not_sent(bindaas: BindaasStandin, case_id: str) -> None:
    with pytest.raises(SlideNotFound):
        locator(bindaas).locate(case_id)
    assert bindaas.requests == []


@pytest.mark.parametrize("key", [None, "wrong", "k3y-wrong"])
def test_a_wrong_key_says_what_to_do_and_shows_nothing(bindaas: BindaasStandin, key: str | None) -> None:
    with pytest.raises(PeerRefused, match=r"answered 401, .*check images\.api_key_file") as caught:
        locator(bindaas, key).locate("A")
    assert "wrong" not in str(caught.value).replace("missing or wrong", "")


DESCRIBED = error_document("Mongo says no")


@pytest.mark.parametrize(
    ("reply", "error", "says"),
    [
        # the statuses of Bindaas
        (json_reply(471, DESCRIBED), PeerRefused, 'a variable of the query is missing: "Mongo says no"'),
        (json_reply(571, DESCRIBED), PeerUnavailable, 'the query failed: "Mongo says no"'),
        (json_reply(572, DESCRIBED), PeerRefused, 'content of the query is bad: "Mongo says no"'),
        (json_reply(573, DESCRIBED), PeerUnavailable, 'database cannot be reached: "Mongo says no"'),
        (
            json_reply(500, {"errorMessage": "no provider X"}),
            PeerRefused,
            '500: "no provider X"; check images.location.path',
        ),
        # others
        (json_reply(599, DESCRIBED), PeerUnavailable, 'answered 599: "Mongo says no"'),
        (Reply(500, b"<h1>Proxy Error</h1>", "text/html"), PeerUnavailable, "answered 500 (Proxy Error)"),
        (Reply(503), PeerUnavailable, "answered 503"),
        (Reply(404, b"not here"), PeerRefused, "answered 404 (not here)"),
        (Reply(571, b"[]"), PeerUnavailable, "the query failed ([])"),
        # a success that is none
        (json_reply(200, {"errorDescription": "odd"}), PeerRefused, "answered odd, expected an array"),
        (json_reply(200, {"file-location": "/x"}), PeerRefused, "a JSON dict, expected an array"),
        (json_reply(200, "x"), PeerRefused, "a JSON str, expected an array"),
        (Reply(200, b"<html>Login</html>"), PeerRefused, 'answered 200 "Login", expected JSON'),
        (Reply(200, b""), PeerRefused, "answered 200 without a text, expected JSON"),
    ],
)
def test_each_refusal_is_told_as_what_it_is(
    bindaas: BindaasStandin, reply: Reply, error: type[DynsvcError], says: str
) -> None:
    bindaas.broken = reply
    with pytest.raises(error) as caught:
        locator(bindaas).locate("A")
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"location service {bindaas.url}: ")
    assert len(bindaas.requests) == (2 if caught.value.transient else 1)


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"file-location": None},
        {"file-location": 7},
        {"file-location": ""},
        {"file-location": "/data/../etc/passwd"},
        {"file-location": "/data/./a.svs"},
        {"file-location": "http://elsewhere/a.svs"},
        {"file-location": "//elsewhere/a.svs"},
        {"file-location": "/data/a\u0000.svs"},
        {"file-location": "/data/a\n.svs"},
        {"file-location": "C:\\slides\\a.svs"},
        {"file-location": "/data/folder/"},
        {"file-location": "/" + "a" * 2000},
        "text",
        None,
    ],
)
def test_a_location_that_is_no_plain_path_is_refused(bindaas: BindaasStandin, item: Any) -> None:
    bindaas.broken = json_reply(200, [item])
    with pytest.raises(PeerRefused, match="expected a plain path") as caught:
        locator(bindaas).locate("A")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("location", ["/data/images/a b+c%é.svs", "images/a.svs", "pathdb*123", "/a"])
def test_plain_paths_are_taken_as_they_are(bindaas: BindaasStandin, location: str) -> None:
    bindaas.records[0] = {"case_id": "A", "file-location": location}
    assert locator(bindaas).locate("A").location == location


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        # the record may lack anything, and hold anything
        ({}, (None, None, None)),
        ({"width": "48002", "height": 35558.0, "mpp-x": "0.25"}, (48002, 35558, 0.25)),
        ({"width": "wide", "height": -1, "mpp-x": "nan", "mpp-y": "inf"}, (None, None, None)),
        ({"width": 1.5, "height": True, "mpp-x": None, "mpp-y": []}, (None, None, None)),
        # with underscores, as later loaders write it
        ({"mpp_x": 0.25, "mpp_y": 0.25}, (None, None, 0.25)),
        # pixels per inch in place of micrometres
        ({"mpp-x": 40000, "mpp-y": 0.0}, (None, None, None)),
    ],
)
def test_a_record_is_believed_only_where_it_makes_sense(
    bindaas: BindaasStandin, record: dict[str, Any], expected: tuple[object, ...]
) -> None:
    bindaas.records[0] = {"case_id": "A", "file-location": "/a.svs", **record}
    slide = locator(bindaas).locate("A")
    assert (slide.width_px, slide.height_px, slide.mpp_um) == expected


def test_a_site_with_the_location_query_only_is_served(bindaas: BindaasStandin) -> None:
    whole = bindaas.answer

    def only_the_location(request: Any) -> Reply:
        return (
            whole(request)
            if "getFileLocationByIID" in request.path
            else json_reply(500, {"errorMessage": "none"})
        )

    bindaas.answer = only_the_location  # type: ignore[method-assign]
    slide = locator(bindaas).locate("A")
    assert (slide.location, slide.width_px, slide.mpp_um) == ("/data/images/a.svs", None, None)


def test_other_providers_are_asked_for_the_location_only(bindaas: BindaasStandin) -> None:
    bindaas.broken = json_reply(200, [{"file-location": "/a.svs"}])
    slide = locator(bindaas, query="locate").locate("A")
    assert slide.width_px is None
    assert len(bindaas.requests) == 1


def test_a_check_tells_that_the_service_answers(bindaas: BindaasStandin) -> None:
    assert locator(bindaas).check() == f"location service {bindaas.url} answers, with a key"
    with pytest.raises(PeerRefused):
        locator(bindaas, None).check()
    bindaas.broken = json_reply(200, {})
    with pytest.raises(PeerRefused):
        locator(bindaas).check()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "slides"
    (root / "data" / "images").mkdir(parents=True)
    for name in ("a.svs", "data/images/b c.svs", "twin.svs", "twin.tif", "x.y.svs"):
        (root / name).write_bytes(b"slide")
    (tmp_path / "secret.svs").write_bytes(b"secret")
    (root / "way-out.svs").symlink_to(tmp_path / "secret.svs")
    (root / "way-in.svs").symlink_to(root / "a.svs")
    (root / "loop.svs").symlink_to(root / "loop.svs")
    return root


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("a.svs", "a.svs"),
        ("data/images/b c.svs", "data/images/b c.svs"),
        # the image server's absolute path, mounted elsewhere here
        ("/data/images/b c.svs", "data/images/b c.svs"),
        # links within the folder
        ("way-in.svs", "a.svs"),
    ],
)
def test_a_slide_in_the_folder_is_found(root: Path, location: str, name: str) -> None:
    assert resolve_local(root, location) == (root / name).resolve()
    assert resolve_local(root, str(root / name)) == (root / name).resolve()


@pytest.mark.parametrize(
    "location",
    [
        "../secret.svs",
        "data/../../secret.svs",
        "way-out.svs",
        "loop.svs",
        "/etc/passwd",
        "none.svs",
        "",
        "/",
        "data",
        "a.svs/x",
        "a\x00.svs",
        "~/a.svs",
    ],
)
def test_nothing_outside_the_folder_is_found(root: Path, location: str) -> None:
    with pytest.raises(SlideNotFound) as caught:
        resolve_local(root, location)
    assert str(root) in caught.value.peer


def test_a_case_id_names_a_file_with_or_without_its_suffix(root: Path) -> None:
    finder = FileLocator(root)
    for case_id, name in (("a", "a.svs"), ("a.svs", "a.svs"), ("x.y", "x.y.svs")):
        slide = finder.locate(case_id)
        assert (slide.case_id, slide.origin, slide.location) == (case_id, "file", str(root / name))
    assert finder.locate("case 7", "data/images/b c.svs").location == str(root / "data/images/b c.svs")
    with pytest.raises(SlideAmbiguous):
        finder.locate("twin")
    for case_id, location in (
        ("none", None),
        ("../secret", None),
        ("a", "none.svs"),
        ("way-out", None),
        ("*", None),
    ):
        with pytest.raises(SlideNotFound):
            finder.locate(case_id, location)


def test_a_missing_folder_is_noticed_by_the_check(root: Path) -> None:
    assert FileLocator(root).check().endswith("has 8 entries")
    with pytest.raises(DynsvcError):
        FileLocator(root / "none").check()


def test_numbers_of_records_are_plausible_or_unknown() -> None:
    assert [whole_px(value) for value in (1, "1", "1e3", 0, 1e9, "", None, 10**400)] == [
        1,
        1,
        1000,
        *[None] * 5,
    ]
    assert mean_mpp_um() is None
    assert mean_mpp_um("0.2", 0.3, "x") == pytest.approx(0.25)
    assert json.dumps(mean_mpp_um(0.05, 20)) == "10.025"
