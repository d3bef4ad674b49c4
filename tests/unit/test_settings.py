"""Settings: the original's file unchanged, variables over it, and nothing secret in a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dynsvc.errors import SettingsInvalid
from dynsvc.settings import Settings

#: As the original ships it: ports are texts, the image server has no scheme.
ORIGINAL: dict[str, Any] = {
    "orders": {
        "redis": {"host": "quip-jobs", "port": "6379", "channel": "q:events"},
        "kue": {"host": "quip-jobs", "port": "3000", "path": "/job/"},
    },
    "images": {
        "location": {
            "host": "quip-data",
            "port": "9099",
            "path": "/services/Camicroscope_DataLoader/DataLoader/query/getFileLocationByIID",
        },
        "imageServer": {"url": "quip-oss:5000", "format": "JPEG"},
        "api_key_file": "apikey.json",
    },
    "annotations": {
        "server": {"host": "quip-loader", "port": "3001", "path": "/submitZipOrder"},
        "redis": {"host": "quip-loader", "port": "6379", "channel": "q:events"},
    },
}


def write(folder: Path, document: Any) -> dict[str, str]:
    path = folder / "config.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return {"DYNSVC_CONFIG": str(path)}


def test_the_originals_file_is_read_unchanged(tmp_path: Path) -> None:
    (tmp_path / "apikey.json").write_text('{"api_key": "k-1"}')
    settings = Settings.load(write(tmp_path, ORIGINAL))
    assert str(settings.orders.redis) == "redis://quip-jobs:6379/0"
    assert settings.orders.kue is not None
    assert settings.orders.kue.url == "http://quip-jobs:3000/job/"
    assert settings.images.image_server is not None
    assert settings.images.image_server.base == "http://quip-oss:5000"
    assert settings.annotations.server is not None
    assert settings.annotations.server.url == "http://quip-loader:3001/submitZipOrder"
    # The key file's path is relative to the file that names it.
    key = settings.api_key()
    assert key is not None
    assert key.get_secret_value() == "k-1"
    assert settings.broker == "redis://quip-jobs:6379/1"
    assert settings.sink_kind == "loader"


def test_numbers_and_schemes_are_taken_where_sites_wrote_them(tmp_path: Path) -> None:
    document = json.loads(json.dumps(ORIGINAL))
    document["orders"]["redis"] = {"host": "http://quip-jobs/", "port": 6379}
    document["images"]["imageServer"]["url"] = "https://images.example/iip/"
    document["comment"] = "ours"
    settings = Settings.load(write(tmp_path, document))
    assert str(settings.orders.redis) == "redis://quip-jobs:6379/0"
    assert settings.images.image_server is not None
    assert settings.images.image_server.base == "https://images.example/iip"


def test_variables_override_the_file(tmp_path: Path) -> None:
    environ = write(tmp_path, ORIGINAL) | {
        "DYNSVC_ORDERS__REDIS__HOST": "elsewhere",
        "DYNSVC_IMAGES__IMAGESERVER__FORMAT": "PNG",
        "DYNSVC_ANNOTATIONS__KUE__HOST": "loader",
        "DYNSVC_ANNOTATIONS__KUE__PORT": "3000",
        "DYNSVC_ANNOTATIONS__KUE__PATH": "/job/",
        "DYNSVC_JOB_TYPES": " analysisJob , mine,",
        "DYNSVC_WINDOW": "7",
        "DYNSVC_BROKER_URL": "amqp://u:p@broker//",
    }
    settings = Settings.load(environ)
    assert settings.orders.redis.host == "elsewhere"
    assert settings.images.image_server is not None
    assert settings.images.image_server.format == "PNG"
    assert settings.annotations.kue is not None
    assert settings.annotations.kue.url == "http://loader:3000/job/"
    assert settings.job_types == ("analysisJob", "mine")
    assert settings.window == 7
    assert settings.broker == "amqp://u:p@broker//"


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        # a typo is told, with what was meant
        (
            {"DYNSVC_WINDWO": "3"},
            "DYNSVC_WINDWO is no setting of dynsvc, expected a known name; did you mean DYNSVC_WINDOW?",
        ),
        ({"DYNSVC_ORDERS__REDIS__HOTS": "x"}, "did you mean DYNSVC_ORDERS__REDIS__HOST?"),
        # a section is no value
        ({"DYNSVC_ORDERS": "x"}, "DYNSVC_ORDERS is no setting of dynsvc"),
        ({"DYNSVC_WINDOW": "0"}, "setting window is '0', expected"),
        ({"DYNSVC_WINDOW": "many"}, "setting window is 'many', expected"),
        ({"DYNSVC_KUE_HEAD": "q"}, "setting kue_head is 'q', expected"),
        ({"DYNSVC_JOB_TYPES": " , "}, "setting job_types is"),
        ({"DYNSVC_ORDERS__REDIS__PORT": "99999"}, "setting orders.redis.port is '99999', expected"),
        ({"DYNSVC_CONFIG": "/no/such/file"}, "DYNSVC_CONFIG is /no/such/file (No such file or directory)"),
    ],
)
def test_what_cannot_be_used_is_told(environ: dict[str, str], text: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        Settings.load(environ)
    assert text in str(caught.value)


@pytest.mark.parametrize("document", ["", "{", "[]", '"x"'])
def test_a_broken_file_is_told(tmp_path: Path, document: str) -> None:
    with pytest.raises(SettingsInvalid, match="DYNSVC_CONFIG is "):
        Settings.load(write(tmp_path, document))


@pytest.mark.parametrize("content", [None, "", "{}", '{"api_key": ""}', '{"api_key": 7}', "[]"])
def test_a_key_file_that_is_no_key_file_is_told_without_its_content(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "apikey.json").write_text(content)
    settings = Settings.load(write(tmp_path, ORIGINAL))
    with pytest.raises(SettingsInvalid, match=r"images\.api_key_file is .*apikey\.json"):
        settings.api_key()


def test_no_secret_is_printed() -> None:
    settings = Settings.load(
        {
            "DYNSVC_ORDERS__REDIS__PASSWORD": "s3cret-1",
            "DYNSVC_IMAGES__API_KEY": "s3cret-2",
            "DYNSVC_BROKER_URL": "redis://:s3cret-3@broker:6379/1",
        }
    )
    texts = [repr(settings), str(settings), str(settings.orders.redis), settings.model_dump_json()]
    assert not [text for text in texts if "s3cret" in text]
    assert settings.orders.redis.url(db=1) == "redis://:s3cret-1@127.0.0.1:6379/1"


def test_a_bad_secret_is_not_quoted() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        Settings.load({"DYNSVC_ORDERS__REDIS__PASSWORD": "s3cret-1", "DYNSVC_ORDERS__REDIS__PORT": "x"})
    assert "s3cret" not in str(caught.value)
