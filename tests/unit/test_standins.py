"""The stand-ins as programs, and what the tests of their clients leave open."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from dynsvc.standins.bindaas import PATH, BindaasStandin
from dynsvc.standins.form import FormInvalidError, read_form
from dynsvc.standins.imageserver import ImageServerStandin
from dynsvc.standins.loader import LoaderStandin
from dynsvc.standins.server import Standin
from tests.support.pyramids import gradient, write_pyramid


@contextmanager
def program(*arguments: str) -> Iterator[str]:
    """Run a stand-in and give its URL; it must end by itself when it is asked to."""
    argv = [sys.executable, "-m", *arguments, "--port", "0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found
            yield found[0]
        except BaseException:
            process.kill()
            raise
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


def test_each_standin_runs_as_a_program(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tiff", gradient(300, 200))
    records = tmp_path / "records.json"
    records.write_text(json.dumps([{"case_id": "A", "file-location": "/a.tiff"}]))
    with program("dynsvc.standins.imageserver", "--root", str(tmp_path)) as url:
        assert requests.get(f"{url}/a.tiff/info.json", timeout=10).json()["width"] == 300
    with program("dynsvc.standins.bindaas", "--records", str(records), "--api-key", "k") as url:
        query = f"{url}{PATH}getFileLocationByIID?TCGAId=A"
        assert requests.get(query, timeout=10).status_code == 401
        assert requests.get(query, headers={"api_key": "k"}, timeout=10).json() == [
            {"file-location": "/a.tiff"}
        ]
    with program("dynsvc.standins.loader", "--folder", str(tmp_path / "zips"), "--delay", "0") as url:
        answer = requests.post(
            f"{url}/submitZipOrder", data={"case_id": "A"}, files={"zip": ("o.zip", b"PK")}, timeout=10
        )
        assert answer.json()["Job"]["type"] == "ZipOrder"
        assert (tmp_path / "zips" / "1.zip").read_bytes() == b"PK"


@pytest.fixture
def loader(tmp_path: Path) -> Iterator[LoaderStandin]:
    with LoaderStandin(tmp_path / "zips") as loader:
        yield loader


@pytest.mark.parametrize(
    ("data", "files", "status"),
    [
        ({"case_id": "A"}, {"zip": ("o.zip", b"PK")}, 200),
        # what the loader answers to incomplete and foreign forms
        ({}, {"zip": ("o.zip", b"PK")}, 400),
        ({"case_id": "A"}, {"mask": ("o.zip", b"PK")}, 500),
        ({"case_id": "A"}, {"note": (None, b"no file")}, 500),
    ],
)
def test_the_loader_takes_complete_forms_only(
    loader: LoaderStandin, data: dict[str, str], files: dict[str, tuple[str, bytes]], status: int
) -> None:
    answer = requests.post(f"{loader.url}/submitZipOrder", data=data, files=files, timeout=10)
    assert answer.status_code == status
    assert len(loader.jobs) == (status == 200)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain", b""),
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=b", b"--b\r\n"),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx'),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--\r\n"),
    ],
)
def test_an_incomplete_form_is_noticed(content_type: str, body: bytes) -> None:
    with pytest.raises(FormInvalidError):
        read_form(content_type, body)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("a.tiff/full/full/0/default.jpg", 200),
        ("a.tiff/0,0,10,10/max/0/color.png", 200),
        ("a.tiff/290,190,50,50/full/0/default.jpg", 200),
        ("a.tiff/300,0,1,1/full/0/default.jpg", 400),
        ("a.tiff/0,0,0,1/full/0/default.jpg", 400),
        ("a.tiff/-1,0,1,1/full/0/default.jpg", 400),
        ("a.tiff/0,0,10,10/50,/0/default.jpg", 400),
        ("a.tiff/0,0,10,10/full/0/default.webp", 400),
        ("b.tiff/0,0,10,10/full/0/default.jpg", 404),
        ("..%2Fsecret.tiff/info.json", 404),
        ("way-out.tiff/info.json", 404),
        ("text.tiff/info.json", 500),
    ],
)
def test_the_image_server_serves_its_folder_and_nothing_else(
    tmp_path: Path, target: str, status: int
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    write_pyramid(root / "a.tiff", gradient(300, 200))
    write_pyramid(tmp_path / "secret.tiff", gradient(300, 200))
    (root / "way-out.tiff").symlink_to(tmp_path / "secret.tiff")
    (root / "text.tiff").write_text("no slide")
    with ImageServerStandin(root) as server:
        assert requests.get(f"{server.url}/{target}", timeout=10).status_code == status


def test_bindaas_answers_bad_queries_as_the_real_one() -> None:
    with BindaasStandin([]) as server:
        asked = {
            f"{PATH}getFileLocationByIID": 471,
            f"{PATH}noSuchQuery": 500,
            "/elsewhere": 500,
            f"{PATH}getFileLocationByIID?TCGAId=A": 200,
        }
        for target, status in asked.items():
            assert requests.get(f"{server.url}{target}", timeout=10).status_code == status


def test_a_standin_that_is_not_started_has_no_address() -> None:
    with pytest.raises(RuntimeError, match="not started"):
        _ = Standin().url
