"""Received pictures that are kept as they were sent: checked without their pixels, and as strictly."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dynsvc.errors import PictureWrong, StorageUnavailable
from dynsvc.measured import Measured
from dynsvc.sources.pictures import Expected, decoded, usable_as_sent, write_bytes
from tests.support.pyramids import gradient

WIDTH_PX, HEIGHT_PX = 97, 65
EXPECTED = Expected(width_px=WIDTH_PX, height_px=HEIGHT_PX)


def written(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    body = io.BytesIO()
    Image.fromarray(gradient(WIDTH_PX, HEIGHT_PX)).convert(mode).save(body, kind, **options)
    return body.getvalue()


def accepted(check: Any, body: bytes) -> bool:
    try:
        check("peer", body, EXPECTED)
    except PictureWrong:
        return False
    return True


@pytest.mark.parametrize(("kind", "media_type"), [("JPEG", "image/jpeg"), ("PNG", "image/png")])
def test_a_whole_picture_of_the_right_size_is_usable(kind: str, media_type: str) -> None:
    assert usable_as_sent("peer", written(kind), EXPECTED) == media_type


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P")])
def test_other_pixels_are_to_be_decoded(kind: str, mode: str) -> None:
    body = written(kind, mode)
    assert usable_as_sent("peer", body, EXPECTED) is None
    assert decoded("peer", body, EXPECTED).mode == "RGB"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"subsampling": 0, "restart_marker_rows": 1}),
        ("JPEG", {"keep_rgb": True}),
        ("PNG", {}),
    ],
    ids=["jpeg", "progressive", "restarts", "rgb", "png"],
)
def test_cut_short_it_is_refused_wherever_it_would_be_when_decoded(
    kind: str, options: dict[str, Any]
) -> None:
    whole = written(kind, **options)
    bodies = [whole[:length] for length in range(8, len(whole))]
    verdicts = [accepted(usable_as_sent, body) for body in bodies]
    assert verdicts == [accepted(decoded, body) for body in bodies]
    assert not any(verdicts[: -len(whole) // 10])


@pytest.mark.parametrize("behind", [b"", b"\r\n", bytes(64), b"x" * 64])
def test_what_follows_a_picture_is_no_part_of_it(behind: bytes) -> None:
    assert usable_as_sent("peer", written("JPEG") + behind, EXPECTED) == "image/jpeg"


def damaged(whole: bytes) -> list[bytes]:
    chance, bodies = random.Random(7), []
    for _ in range(300):
        body = bytearray(whole)
        body[chance.randrange(8, len(whole))] = chance.randrange(256)
        bodies.append(bytes(body))
    return bodies


def test_a_png_is_refused_wherever_it_would_be_when_decoded() -> None:
    bodies = damaged(written("PNG"))
    verdicts = [accepted(usable_as_sent, body) for body in bodies]
    assert verdicts == [accepted(decoded, body) for body in bodies]
    assert not all(verdicts)


def test_a_jpeg_with_a_damaged_head_is_refused_or_left_to_who_decodes_it() -> None:
    bodies = damaged(written("JPEG"))
    # Nothing that can be decoded is refused.
    assert not any(accepted(decoded, body) and not accepted(usable_as_sent, body) for body in bodies)
    assert not all(accepted(usable_as_sent, body) for body in bodies)


def test_a_file_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    assert write_bytes(b"abc", tmp_path / "x") == Measured.of(b"abc")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"abc")]
    with pytest.raises(StorageUnavailable):
        write_bytes(b"abc", tmp_path / "none" / "x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "full").touch()
    with pytest.raises(StorageUnavailable):
        write_bytes(b"abc", tmp_path / "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"x", "folder"}
