"""The image server stalls, breaks off and lies."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.support.faults import Segmenter, assert_ended, assert_uploaded_once, place, start
from tests.support.hospital import Hospital
from tests.support.misbehaving import (
    Behaviour,
    answer,
    broken_chunks,
    busy,
    html_as_picture,
    misbehaving,
    reset,
    truncated,
)
from tests.support.redis import running_redis

pytestmark = pytest.mark.services

INFORMATION = answer(
    json.dumps({"width": 640, "height": 512, "profile": ["http://iiif.io/api/image/2/level1.json"]}).encode()
)


def picture(width: int = 64, height: int = 48) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "pink").save(stream, "JPEG")
    return stream.getvalue()


GOOD = answer(picture(), media_type="image/jpeg")


def ordered(slides: Path, *behaviours: Behaviour, state: str, **env: str) -> str:
    """Place one order at a hospital with such an image server; return its error, or nothing."""
    with (
        misbehaving(INFORMATION, *behaviours) as server,
        running_redis() as redis,
        Hospital(redis, None, slides, image_url=server.url) as site,
    ):
        Segmenter(site)
        start(site, **env)
        (order_id,) = place(site)
        assert_ended(site, order_id, state=state)
        if state == "complete":
            assert_uploaded_once(site, order_id)
        else:
            assert site.uploads() == []
        for program in site.programs:
            program.kill_group()
        job = site.jobs.read(order_id)
        assert job is not None
        return job.error or ""


def test_an_image_server_that_breaks_off_and_recovers(slides: Path, redis_program: str) -> None:
    faults = (truncated(picture()), broken_chunks(), reset(), busy(), GOOD)
    assert ordered(slides, *faults, state="complete") == ""


def test_an_image_server_that_never_recovers(slides: Path, redis_program: str) -> None:
    error = ordered(slides, truncated(picture()), state="failed", DYNSVC_RETRY_LIMIT_S="1")
    assert error.startswith("PeerUnavailable: image server ")


@pytest.mark.parametrize(
    "lie", [html_as_picture(), answer(picture(63, 48), media_type="image/jpeg")], ids=["page", "size"]
)
def test_an_image_server_that_lies(lie: Behaviour, slides: Path, redis_program: str) -> None:
    assert ordered(slides, lie, state="failed").startswith("PictureWrong: image server ")
