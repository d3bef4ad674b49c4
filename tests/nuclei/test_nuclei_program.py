"""The program as others see it: its files, its exit statuses, and odd inputs."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from algorithms.nuclei.columns import COLUMNS
from algorithms.nuclei.program import main
from algorithms.nuclei.scores import scores
from algorithms.nuclei.synthetic import scene

ROOT = Path(__file__).parents[2]
SLIDE = ROOT.parent / "shared" / "data" / "sample.svs"
KEYS = [
    "input_type",
    "otsu_ratio",
    "curvature_weight",
    "min_size",
    "max_size",
    "ms_kernel",
    "declump_type",
    "levelset_num_iters",
    "mpp",
    "image_width",
    "image_height",
    "tile_minx",
    "tile_miny",
    "tile_width",
    "tile_height",
    "patch_minx",
    "patch_miny",
    "patch_width",
    "patch_height",
    "output_level",
    "out_file_prefix",
    "subject_id",
    "case_id",
    "analysis_id",
    "analysis_desc",
]
IDS = ["-c", "C 1/2", "-p", "S1", "-a", "seg:r1", "-e", 'say "nuclei", twice\n']
PREFIX = "S1.C_1_2"


def png(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return png(tmp_path_factory.mktemp("tissue") / "tissue.png", scene(1, nuclei=80, side_px=400).rgb)


def run(picture: Path, folder: Path, *more: str, kind: str = "img") -> int:
    folder.mkdir(exist_ok=True)
    return main(["-t", kind, "-i", str(picture), "-o", str(folder), *IDS, *more])


def rows(table: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.decode())))


def file(folder: Path, ending: str) -> bytes:
    (path,) = folder.glob(f"*{ending}")
    return path.read_bytes()


def labels_of(folder: Path) -> np.ndarray:
    labels = cv2.imdecode(np.frombuffer(file(folder, "-labels.png"), np.uint8), cv2.IMREAD_UNCHANGED)
    assert labels is not None
    return labels


def check_loader_contract(archive: bytes) -> list[dict[str, str]]:
    """The rules of the annotation loader, as its documentation gives them; returns the rows."""
    with zipfile.ZipFile(io.BytesIO(archive)) as content:
        names = content.namelist()
        assert all("/" not in name for name in names)
        (meta_name,) = (name for name in names if name.endswith("-algmeta.json"))
        text = content.read(meta_name).decode()
        assert text.count("\n") == 1
        meta = json.loads(text)
        for key in ("case_id", "subject_id", "analysis_id", "analysis_desc", "out_file_prefix"):
            assert key in meta
        assert meta_name == f"{meta['out_file_prefix']}-algmeta.json"
        table = content.read(f"{meta['out_file_prefix']}-features.csv").decode()
    lines = table.splitlines()
    assert not any(line.endswith(",") for line in lines)
    assert {line.count(",") for line in lines} == {87}
    found = rows(table.encode())
    for row in found:
        assert float(row["AreaInPixels"]) > 0
        assert row["Polygon"][0] + row["Polygon"][-1] == "[]"
        points = [float(word) for word in row["Polygon"][1:-1].split(":")]
        assert len(points) % 2 == 0
        assert len(points) >= 6
    return found


def test_a_run_writes_the_originals_files(tissue: Path, tmp_path: Path) -> None:
    assert run(tissue, tmp_path, "-m", "0.25", "-s", "5000,7000", "-v", "mask:img:overlay") == 0
    begin = f"{PREFIX}_mpp_0.25_x5000_y7000"
    endings = ["-seg.png", "-tile.jpg", "-overlay.jpg", "-features.csv", "-algmeta.json", "-algmeta.csv"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "result.json",
        *(begin + ending for ending in endings),
    }
    mask = cv2.imdecode(np.frombuffer(file(tmp_path, "-seg.png"), np.uint8), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    assert mask.shape == (400, 400)
    assert set(np.unique(mask)) == {0, 1}
    found = rows(file(tmp_path, "-features.csv"))
    assert list(found[0]) == list(COLUMNS)
    for row in found:
        points = np.array([float(word) for word in row["Polygon"][1:-1].split(":")]).reshape(-1, 2)
        assert ((points >= (4999.5, 6999.5)) & (points <= (5399.5, 7399.5))).all()
    # Cyan outlines lie on the picture, as far as JPEG allows.
    plain, drawn = (cv2.imdecode(np.frombuffer(file(tmp_path, e), np.uint8), 1) for e in endings[1:3])
    assert plain is not None
    assert drawn is not None
    assert (cv2.absdiff(plain, drawn).max(axis=2) > 60).sum() > 500


def test_metadata_survive_quotes_and_line_breaks(tissue: Path, tmp_path: Path) -> None:
    assert run(tissue, tmp_path, "-m", "0.25", "-s", "5,7", "-b", "400,400", "-d", "400,400") == 0
    text = file(tmp_path, "-algmeta.json").decode()
    assert text.count("\n") == 1
    meta = json.loads(text)
    assert list(meta) == KEYS
    assert meta["analysis_desc"] == 'say "nuclei", twice\n'
    assert meta["case_id"] == "C 1/2"
    assert [meta[k] for k in KEYS[9:19]] == [400, 400, 5, 7, 400, 400, 5, 7, 400, 400]
    ((header, values)) = list(csv.reader(io.StringIO(file(tmp_path, "-algmeta.csv").decode())))
    assert header == KEYS
    assert values[-1] == 'say "nuclei", twice\n'


def test_the_zip_passes_the_loaders_rules(tissue: Path, tmp_path: Path) -> None:
    assert run(tissue, tmp_path, "-m", "0.25", "-z", str(tmp_path / "out.zip")) == 0
    found = check_loader_contract((tmp_path / "out.zip").read_bytes())
    assert len(found) == json.loads((tmp_path / "result.json").read_text())["count"] > 60


def test_without_nuclei_all_files_are_there(tmp_path: Path) -> None:
    glass = png(tmp_path / "glass.png", np.full((100, 150, 3), 244, np.uint8))
    out = tmp_path / "out"
    assert (
        run(glass, out, "-m", "0.25", "-v", "mask:img:overlay:labels:geojson", "-z", str(out / "o.zip")) == 0
    )
    assert check_loader_contract((out / "o.zip").read_bytes()) == []
    summary = json.loads((out / "result.json").read_text())
    assert summary["count"] == 0
    assert summary["area_um2"] is None
    assert summary["warnings"] == ["nothing in the region stands out as stained nuclei"]
    assert json.loads(file(out, ".geojson"))["features"] == []
    assert len(list(out.iterdir())) == 10


def test_labels_mask_table_and_geojson_tell_the_same(tissue: Path, tmp_path: Path) -> None:
    assert run(tissue, tmp_path, "-m", "0.25", "-s", "100,200", "-v", "mask:labels:geojson") == 0
    labels = labels_of(tmp_path)
    found = rows(file(tmp_path, "-features.csv"))
    assert labels.dtype == np.uint16
    assert np.bincount(labels.ravel())[1:].tolist() == [int(row["AreaInPixels"]) for row in found]
    mask = cv2.imdecode(np.frombuffer(file(tmp_path, "-seg.png"), np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(mask == 1, labels > 0)
    features = json.loads(file(tmp_path, ".geojson"))["features"]
    assert len(features) == len(found)
    for feature, row in zip(features, found, strict=True):
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        # QuPath counts from a pixel's corner, the table from its centre.
        points = [float(word) for word in row["Polygon"][1:-1].split(":")]
        assert ring[0] == [points[0] + 0.5, points[1] + 0.5]
        assert feature["properties"]["objectType"] == "detection"
        assert feature["properties"]["measurements"]["PhysicalSize"] == float(row["PhysicalSize"])


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_every_run_gives_the_same_bytes_whatever_the_threads(tissue: Path, tmp_path: Path) -> None:
    seen = []
    for threads in ("1", "1", "2", "4"):
        out = tmp_path / f"out{len(seen)}"
        out.mkdir()
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
        environ = {**os.environ, **dict.fromkeys(names, threads)}
        script = (
            f"import cv2; keep = cv2.setNumThreads; keep({threads}); cv2.setNumThreads = lambda n: None\n"
            "import sys; from algorithms.nuclei.program import main; sys.exit(main(sys.argv[1:]))"
        )
        argv = [
            "-t",
            "img",
            "-i",
            str(tissue),
            "-o",
            str(out),
            *IDS,
            "-m",
            "0.25",
            "-z",
            str(out / "out.zip"),
        ]
        levels = ["-v", "mask:img:overlay:labels:geojson"]
        subprocess.run(
            [sys.executable, "-c", script, *argv, *levels], cwd=ROOT, env=environ, check=True, timeout=60
        )
        seen.append(digests(out))
    assert len(seen[0]) == 10
    assert seen[0] == seen[1] == seen[2] == seen[3]


def test_a_second_run_replaces_the_zip(tissue: Path, tmp_path: Path) -> None:
    for mpp in ("0.5", "0.25"):
        assert run(tissue, tmp_path, "-m", mpp, "-z", str(tmp_path / "out.zip")) == 0
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert [name for name in archive.namelist() if "mpp_0.5" in name] == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),  # missing
        (b"", "cannot be read"),
        (b"<html>400 Bad Request</html>", "cannot be read"),  # what an image server may answer
    ],
)
def test_what_is_no_picture_is_said_in_one_line(
    content: bytes | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.jpg"
    if content is not None:
        path.write_bytes(content)
    assert run(path, tmp_path / "out", "-m", "0.25") == 3
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_a_truncated_picture_is_refused(tissue: Path, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"in{ending}"
    Image.open(tissue).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert run(path, tmp_path / "out", "-m", "0.25") == 3
    assert list((tmp_path / "out").iterdir()) == []


def test_a_picture_of_20000_by_20000_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    Image.new("1", (20_000, 20_000)).save(path)
    done = measured_run(["-t", "img", "-i", str(path), "-o", str(tmp_path), *IDS, "-m", "0.25"])
    assert done["status"] == 3
    assert "use -t onetile" in done["stderr"]
    assert done["peak_mib"] < 200


def test_an_output_folder_that_is_not_there_has_a_status_of_its_own(tissue: Path, tmp_path: Path) -> None:
    assert main(["-t", "img", "-i", str(tissue), "-o", str(tmp_path / "nowhere"), *IDS]) == 4
    assert (
        main(
            ["-t", "img", "-i", str(tissue), "-o", str(tmp_path), *IDS, "-z", str(tmp_path / "no" / "x.zip")]
        )
        == 4
    )
    assert main(["-t", "img", "-i", str(tissue), "-o", str(tmp_path), *IDS, "-m", "9"]) == 2
    assert main(["--help"]) == 0


@pytest.mark.parametrize("value", [0, 255])
def test_one_pixel_is_a_picture(value: int, tmp_path: Path) -> None:
    path = png(tmp_path / "one.png", np.full((1, 1, 3), value, np.uint8))
    assert run(path, tmp_path / "out", "-m", "0.25", "-v", "mask:img:overlay:labels:geojson") == 0
    assert json.loads((tmp_path / "out" / "result.json").read_text())["count"] == 0


def variants(rgb: np.ndarray) -> dict[str, Image.Image]:
    picture = Image.fromarray(rgb)
    alpha = picture.copy()
    alpha.putalpha(255)
    return {"alpha.png": alpha, "palette free.tif": picture, "lossless.webp": picture, "16 bit.png": picture}


@pytest.mark.parametrize("name", ["alpha.png", "palette free.tif", "lossless.webp", "16 bit.png"])
def test_other_encodings_of_the_same_pixels_give_the_same_nuclei(
    name: str, tissue: Path, tmp_path: Path
) -> None:
    rgb = np.asarray(Image.open(tissue))
    path = tmp_path / name
    if name.startswith("16"):
        cv2.imwrite(str(path), rgb[..., ::-1].astype(np.uint16) * 257)
    else:
        variants(rgb)[name].save(path, **({"lossless": True} if name.endswith("webp") else {}))
    assert run(tissue, tmp_path / "a", "-m", "0.25") == 0
    assert run(path, tmp_path / "b", "-m", "0.25") == 0
    assert file(tmp_path / "a", "-features.csv") == file(tmp_path / "b", "-features.csv")


def test_transparent_pixels_are_glass(tissue: Path, tmp_path: Path) -> None:
    picture = Image.open(tissue)
    alpha = np.full((400, 400), 255, np.uint8)
    alpha[:, :200] = 0
    picture.putalpha(Image.fromarray(alpha))
    picture.save(tmp_path / "half.png")
    assert run(tmp_path / "half.png", tmp_path / "out", "-m", "0.25", "-v", "mask:labels") == 0
    assert labels_of(tmp_path / "out")[:, :195].max() == 0
    assert labels_of(tmp_path / "out")[:, 205:].max() > 0


def test_cmyk_and_grey_pictures_are_read_as_colours(tissue: Path, tmp_path: Path) -> None:
    picture = Image.open(tissue)
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    picture.save(tmp_path / "rgb.jpg", quality=95)
    counts = []
    for name in ("cmyk.jpg", "rgb.jpg"):
        out = tmp_path / name[:3]
        assert run(tmp_path / name, out, "-m", "0.25") == 0
        counts.append(json.loads((out / "result.json").read_text())["count"])
    assert counts[0] == pytest.approx(counts[1], rel=0.03)
    grey16 = np.asarray(picture.convert("L")).astype(np.uint16) * 257
    assert run(png(tmp_path / "grey.png", grey16), tmp_path / "grey", "-m", "0.25") == 0


def test_a_scale_that_is_wrong_by_two_is_warned_of(tmp_path: Path) -> None:
    path = png(tmp_path / "tissue.png", scene(2, nuclei=250, side_px=700).rgb)
    warned = {}
    for mpp in ("0.125", "0.25", "0.5"):
        assert run(path, tmp_path / mpp, "-m", mpp) == 0
        warned[mpp] = json.loads((tmp_path / mpp / "result.json").read_text())["warnings"]
    assert warned["0.25"] == []
    assert "um per pixel may be wrong" in warned["0.125"][0]
    assert "um per pixel may be wrong" in warned["0.5"][0]


def test_a_missing_scale_and_a_scaled_picture_are_warned_of(tissue: Path, tmp_path: Path) -> None:
    assert run(tissue, tmp_path / "a", "-b", "800,800") == 0
    warnings = json.loads((tmp_path / "a" / "result.json").read_text())["warnings"]
    assert any("0.25 was assumed" in warning for warning in warnings)
    assert any("-b says 800 x 800 px" in warning for warning in warnings)


def test_jpeg_changes_even_less_at_40x(tissue: Path, tmp_path: Path) -> None:
    Image.open(tissue).save(tmp_path / "tissue.jpg", quality=90)
    for name, picture in (("png", tissue), ("jpg", tmp_path / "tissue.jpg")):
        assert run(picture, tmp_path / name, "-m", "0.25", "-v", "mask:labels") == 0
    assert scores(labels_of(tmp_path / "png"), labels_of(tmp_path / "jpg")).pq > 0.95


needs_slide = pytest.mark.skipif(not SLIDE.exists(), reason="the sample slide is not on this machine")
REGION = ["-s", "900,500", "-b", "800,700"]


@pytest.fixture(scope="module")
def slide_region() -> np.ndarray:
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(SLIDE) as slide:
        return np.asarray(slide.read_region((900, 500), 0, (800, 700)).convert("RGB"))


@needs_slide
def test_a_part_of_a_slide_and_the_same_pixels_as_a_picture_give_the_same_table(
    slide_region: np.ndarray, tmp_path: Path
) -> None:
    assert run(SLIDE, tmp_path / "slide", *REGION, "-v", "mask:labels", kind="onetile") == 0
    picture = png(tmp_path / "part.png", slide_region)
    assert run(picture, tmp_path / "png", *REGION, "-m", "0.499", "-v", "mask:labels") == 0
    for ending in ("-features.csv", "-seg.png", "-labels.png"):
        assert file(tmp_path / "slide", ending) == file(tmp_path / "png", ending)
    assert json.loads(file(tmp_path / "slide", "-algmeta.json"))["image_width"] == 2220


@needs_slide
def test_jpeg_changes_little(slide_region: np.ndarray, tmp_path: Path) -> None:
    # This slide is of 20x and was compressed hard once already: the least favourable case.
    Image.fromarray(slide_region).save(tmp_path / "part.jpg", quality=90, subsampling=0)
    png(tmp_path / "part.png", slide_region)
    for name in ("part.jpg", "part.png"):
        assert run(tmp_path / name, tmp_path / name[-3:], *REGION, "-m", "0.499", "-v", "mask:labels") == 0
    result = scores(labels_of(tmp_path / "png"), labels_of(tmp_path / "jpg"))
    assert result.pq > 0.8
    assert result.found == pytest.approx(result.true, rel=0.05)


@needs_slide
def test_a_slide_knows_its_scale_better(tmp_path: Path) -> None:
    assert run(SLIDE, tmp_path / "a", *REGION, "-m", "0.25", kind="onetile") == 0
    summary = json.loads((tmp_path / "a" / "result.json").read_text())
    assert summary["mpp"] == 0.499
    assert "the slide's was used" in summary["warnings"][0]


@needs_slide
def test_a_tile_over_the_edge_is_cut_and_one_outside_is_refused(tmp_path: Path) -> None:
    assert run(SLIDE, tmp_path / "a", "-s", "2000,2900", "-b", "500,500", kind="onetile") == 0
    meta = json.loads(file(tmp_path / "a", "-algmeta.json"))
    assert (meta["tile_width"], meta["tile_height"]) == (220, 67)
    assert run(SLIDE, tmp_path / "b", "-s", "2220,0", "-b", "10,10", kind="onetile") == 3
    assert run(SLIDE.with_name("README.md"), tmp_path / "c", kind="wsi") == 3


@needs_slide
def test_patches_of_a_slide_have_files_of_their_own_and_share_no_nucleus(tmp_path: Path) -> None:
    assert run(SLIDE, tmp_path / "one", kind="wsi") == 0
    assert run(SLIDE, tmp_path / "many", "-d", "1200,1600", kind="wsi") == 0
    assert len(list((tmp_path / "many").glob("*-seg.png"))) == 4
    whole = json.loads((tmp_path / "one" / "result.json").read_text())
    parts = json.loads((tmp_path / "many" / "result.json").read_text())
    assert parts["count"] == pytest.approx(whole["count"], rel=0.005)
    assert parts["threshold"] == whole["threshold"]
    total = sum(
        len(rows(path.read_bytes())) for path in (tmp_path / "many").glob("*.csv") if "feat" in path.name
    )
    assert total == parts["count"]


def measured_run(argv: Sequence[str]) -> dict[str, Any]:
    """Run the program as a process of its own; return its status, its errors and its peak memory."""
    script = (
        "import json, re, sys; from algorithms.nuclei.program import main; status = main(sys.argv[1:])\n"
        # Not getrusage: that begins with the size of the process that was forked, which is this one.
        "peak = int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024\n"
        "print(json.dumps([status, peak]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=110,
    )
    status, peak = json.loads(done.stdout.splitlines()[-1])
    return {"status": status, "peak_mib": peak, "stderr": done.stderr}


@needs_slide
def test_a_whole_slide_takes_less_than_300_mib(tmp_path: Path) -> None:
    done = measured_run(["-t", "wsi", "-i", str(SLIDE), "-o", str(tmp_path), *IDS, "-v", "mask:img:overlay"])
    assert done["status"] == 0
    assert done["peak_mib"] < 300
