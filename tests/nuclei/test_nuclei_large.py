"""Regions that are too large for memory: the same answers by way of files and strips."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from algorithms.nuclei import patch, pictures, raster, strips
from algorithms.nuclei.drawing import jpeg, labels_file
from algorithms.nuclei.pictures import opened
from algorithms.nuclei.program import main
from algorithms.nuclei.raster import Raster
from algorithms.nuclei.strips import png
from algorithms.nuclei.synthetic import scene
from tests.nuclei.test_nuclei_program import IDS, measured_run

LEVELS = ["-v", "mask:img:overlay:labels:geojson"]


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything counts as large."""
    monkeypatch.setattr(pictures, "_SMALL_PX", 0)
    monkeypatch.setattr(pictures, "_STRIP_PX", 70)
    monkeypatch.setattr(strips, "_STRIP_PX", 15_000)
    monkeypatch.setattr(strips, "_READ_BYTES", 1000)
    monkeypatch.setattr(raster, "_IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(patch, "_TEXT_BYTES", 1000)


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    return scene(1, nuclei=80, side_px=400).rgb[:, :390]


def test_a_run_through_files_writes_the_bytes_of_one_in_memory(
    tissue: np.ndarray, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    Image.fromarray(tissue).save(tmp_path / "in.png")
    written = {}
    for way in ("memory", "files"):
        if way == "files":
            request.getfixturevalue("little_memory")
        out = tmp_path / way
        out.mkdir()
        places = ["-i", str(tmp_path / "in.png"), "-o", str(out), "-z", str(out / "all.zip")]
        assert main(["-t", "img", *places, *IDS, "-m", "0.25", *LEVELS]) == 0
        written[way] = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(written["files"]) == 10
    assert written["files"] == written["memory"]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "jpg", "16 bit"])
def test_a_picture_decoded_in_strips_has_the_pixels_of_one_decoded_at_once(
    mode: str, tissue: np.ndarray, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    picture = Image.fromarray(tissue)
    path = tmp_path / ("in.jpg" if mode == "jpg" else "in.png")
    if mode == "16 bit":
        cv2.imwrite(str(path), tissue.astype(np.uint16) * 250)
    elif mode == "P":
        picture.quantize(40).save(path, transparency=3)
    elif mode.endswith("A"):
        picture.putalpha(Image.fromarray(np.tile(np.arange(390, dtype=np.uint8), (400, 1))))
        picture.convert(mode).save(path)
    else:
        picture.convert("L" if mode == "L" else "RGB").save(path)
    seen = []
    for way in ("memory", "files"):
        if way == "files":
            request.getfixturevalue("little_memory")
        with opened(path, slide=False, folder=tmp_path) as source:
            seen.append(source.read(0, 0, 390, 400).copy())
            assert isinstance(source, Raster) == (way == "files")
            assert np.array_equal(source.read(17, 99, 200, 123), seen[-1][99:222, 17:217])
    assert np.array_equal(*seen)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("cut", [0.5, 0.99])
@pytest.mark.usefixtures("little_memory")
def test_a_large_png_that_is_not_complete_is_refused(cut: float, tissue: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    Image.fromarray(tissue).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
    assert main(["-t", "img", "-i", str(path), "-o", str(tmp_path), *IDS, "-m", "0.25"]) == 3
    # Damage that leaves a stream which can be inflated: only the sum at its end can tell.
    Image.fromarray(tissue).save(path, compress_level=0)
    content = bytearray(path.read_bytes())
    content[10_000] ^= 1
    path.write_bytes(content)
    assert main(["-t", "img", "-i", str(path), "-o", str(tmp_path), *IDS, "-m", "0.25"]) == 3
    assert list(tmp_path.iterdir()) == [path]


def test_strips_of_a_jpeg_are_one_picture(tissue: np.ndarray) -> None:
    parts = [tissue[top : top + 128] for top in range(0, 400, 128)]
    content = b"".join(jpeg(parts, 400))
    assert content == b"".join(jpeg([tissue], 400))
    plain = io.BytesIO()
    Image.fromarray(tissue).save(plain, "JPEG", quality=90)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(Image.open(plain)))
    assert cv2.imdecode(np.frombuffer(content, np.uint8), 1) is not None


@pytest.mark.parametrize("bits", [8, 16])
def test_strips_of_a_png_are_one_picture(bits: int) -> None:
    values = np.random.default_rng(1).integers(0, 2**bits, (97, 31), dtype=f"u{bits // 8}")
    content = b"".join(png((values[top : top + 40] for top in range(0, 97, 40)), 97, 31, bits))
    assert np.array_equal(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED), values)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), values)


@pytest.mark.parametrize("rows", [5, 150_000])
def test_more_labels_than_16_bits_hold_are_written_as_tiff(rows: int, tmp_path: Path) -> None:
    values = np.arange(40 * rows, dtype=np.int32).reshape(rows, 40) * 3
    with Raster(values.shape, np.int32, tmp_path) as labels:
        labels.write(0, 0, values)
        ending, content = labels_file(labels, 100_000)
        read = Image.open(io.BytesIO(b"".join(content)))
    assert ending == ".tif"
    assert np.array_equal(np.asarray(read), values)


def glass(width: int, height: int, tissue: np.ndarray) -> Iterator[np.ndarray]:
    """Return a grey picture in strips: glass, and in the middle of each strip a piece of tissue."""
    for top in range(0, height, 1000):
        strip = np.full((min(1000, height - top), width), 243, np.uint8)
        strip[200 : 200 + tissue.shape[0], width // 2 : width // 2 + tissue.shape[1]] = tissue
        yield strip


def test_a_large_picture_takes_less_than_300_mib(tissue: np.ndarray, tmp_path: Path) -> None:
    grey = cv2.cvtColor(tissue, cv2.COLOR_RGB2GRAY)
    path = tmp_path / "large.png"
    path.write_bytes(b"".join(png(glass(7000, 6000, grey), 6000, 7000, 8)))
    places = ["-i", str(path), "-o", str(tmp_path), "-z", str(tmp_path / "all.zip")]
    done = measured_run(["-t", "img", *places, *IDS, "-m", "0.25", *LEVELS])
    assert (done["status"], done["stderr"]) == (0, "")
    assert done["peak_mib"] < 300
    assert json.loads((tmp_path / "result.json").read_text())["count"] > 100


@pytest.mark.parametrize(
    ("name", "options"), [("in.webp", {"lossless": True}), ("in.jpg", {"progressive": True})]
)
def test_what_must_be_decoded_at_once_has_limits_and_the_message_says_what_helps(
    name: str, options: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (5001, 5000)).save(tmp_path / name, **options)
    assert main(["-t", "img", "-i", str(tmp_path / name), "-o", str(tmp_path), *IDS, "-m", "0.25"]) == 3
    error = capsys.readouterr().err
    assert "as a PNG with 8 bits per channel" in error
    assert "-t onetile" in error
