"""`dynsvc demo` as a newcomer runs it: real processes, a real segmentation, nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import openslide
import pytest

from dynsvc.demo.objects import read_objects
from dynsvc.demo.slide import MPP_UM, REGION, make_slide
from tests.support.services import missing

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]

LIMIT_S = 120.0
SAMPLE = Path(__file__).parents[2].parent / "shared" / "data" / "sample.svs"
PROGRAM = [sys.executable, "-c", "from dynsvc.cli import main; main(prog_name='dynsvc')", "demo"]


class Place:
    """A folder for one demo, with a temporary folder of its own: what is left behind is seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tmp = folder / "tmp"
        self.tmp.mkdir()
        self.output = folder / "dynsvc-demo"

    def env(self, **more: str) -> dict[str, str]:
        return {**os.environ, "TMPDIR": str(self.tmp), **more}

    def run(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PROGRAM, *args],
            cwd=self.folder,
            env=self.env(**env),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def assert_nothing_left(self) -> None:
        """No temporary file, and no process that was started with our temporary folder."""
        assert list(self.tmp.iterdir()) == []
        left = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                facts = (path / "environ").read_bytes() + (path / "cmdline").read_bytes()
            except OSError:
                continue
            if str(self.tmp).encode() in facts:
                left.append((path.name, (path / "cmdline").read_bytes()))
        assert left == []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_the_demo_ends_with_a_page_of_a_real_segmentation_and_leaves_nothing_running(place: Place) -> None:
    done = place.run()
    assert done.returncode == 0, done.stdout + done.stderr
    page = place.output / "report.html"
    assert str(page) in done.stdout
    html = page.read_text()
    objects = list(read_objects(place.output / "result.zip"))
    # The tissue has about 340 nuclei; far fewer or more would be no segmentation of it.
    assert 200 < len(objects) < 600
    (outlines,) = re.findall(r'<path d="([^"]*)"', html)
    assert outlines.count("M") == len(objects)
    for x, y in (found.anchor for found in objects):
        assert REGION.x_px <= x <= REGION.x_px + REGION.width_px
        assert REGION.y_px <= y <= REGION.y_px + REGION.height_px
    for step in ("fetch_order", "fetch_roi", "run_algorithm", "upload_zip", "loader"):
        assert f"{step} " in done.stdout
        assert f">{step}<" in html
    with zipfile.ZipFile(place.output / "result.zip") as archive:
        (algmeta,) = (name for name in archive.namelist() if name.endswith("-algmeta.json"))
        assert json.loads(archive.read(algmeta))["image_width"] == 2560
    assert json.loads((place.output / "order.json").read_text())["type"] == "analysisJob"
    place.assert_nothing_left()


def test_the_demos_slide_is_a_pyramid_with_a_scale(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    make_slide(path)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((2560, 2048), (1280, 1024), (640, 512))
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(MPP_UM)
    assert list(tmp_path.iterdir()) == [path]


def test_the_demo_runs_on_a_slide_and_region_of_the_users_own(place: Place) -> None:
    if not SAMPLE.is_file():
        missing(str(SAMPLE))
    done = place.run(f"--slide={SAMPLE}", "--region=1200,600,400,300", "--output=mine")
    assert done.returncode == 0, done.stdout + done.stderr
    html = (place.folder / "mine" / "report.html").read_text()
    assert 'viewBox="0 0 400 300"' in html
    assert "x 1200, y 600" in html
    assert "0.499" in html
    place.assert_nothing_left()


def test_a_region_outside_the_slide_is_refused_before_anything_starts(place: Place) -> None:
    done = place.run("--region=9000,9000,100,100")
    assert done.returncode == 2
    assert done.stderr == "error: region 9000,9000,100,100 lies outside the slide of 2560 x 2048 px\n"
    assert "starting" not in done.stdout
    place.assert_nothing_left()


def test_a_file_that_is_no_slide_is_refused(place: Place) -> None:
    (place.folder / "notes.svs").write_text("no slide")
    done = place.run("--slide=notes.svs")
    assert done.returncode == 2
    assert "error: slide 'notes.svs' cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
    place.assert_nothing_left()


def test_a_failed_order_ends_with_status_1_its_error_and_the_logs(place: Place) -> None:
    descriptor = place.folder / "algorithms" / "broken" / "algorithm.toml"
    descriptor.parent.mkdir(parents=True)
    descriptor.write_text(
        'schema = 1\nname = "broken"\ntitle = "Always fails"\nversion = "1"\ncommand = ["false"]\n'
        '[outputs]\nrequired = ["*.png"]\n'
    )
    done = place.run("--algorithm=broken", DYNSVC_ALGORITHMS=str(descriptor.parent.parent))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "order 1 failed" in done.stdout
    assert "AlgorithmFailed: broken" in done.stdout
    logs = place.output / "logs"
    assert str(logs) in done.stdout
    assert (logs / "worker.log").is_file()
    assert not (place.output / "report.html").exists()
    place.assert_nothing_left()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_kept_demo_shows_flower_and_ends_completely_by_a_signal(
    place: Place, number: signal.Signals, status: int
) -> None:
    screen = place.folder / "screen.txt"
    with screen.open("wb") as output:
        demo = subprocess.Popen(
            [*PROGRAM, "--keep"], cwd=place.folder, env=place.env(), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        give_up = time.monotonic() + LIMIT_S
        while "Ctrl-C ends everything" not in screen.read_text():
            assert demo.poll() is None, screen.read_text()
            assert time.monotonic() < give_up, screen.read_text()
            time.sleep(0.05)
        text = screen.read_text()
        flower = re.search(r"Flower +(\S+)", text)
        config = re.search(r"configuration +(\S+)", text)
        region = re.search(r"image server +(\S+)", text)
        assert flower
        assert config
        assert region
        with urllib.request.urlopen(f"{flower[1]}/workers", timeout=20) as answer:
            assert b"Flower" in answer.read()
        with urllib.request.urlopen(region[1], timeout=20) as answer:
            assert answer.read(2) == b"\xff\xd8"
        settings = json.loads(Path(config[1]).read_text())
        secrets = [
            settings["orders"]["redis"]["password"],
            json.loads((Path(config[1]).parent / "api_key.json").read_text())["api_key"],
        ]
        assert Path(config[1]).stat().st_mode & 0o077 == 0
        demo.send_signal(number)
        assert demo.wait(60) == status
    finally:
        if demo.poll() is None:
            demo.terminate()
            demo.wait(60)
    written = screen.read_text() + "".join(
        path.read_text(errors="replace")
        for path in place.output.rglob("*")
        if path.suffix in {".log", ".html", ".json"}
    )
    assert [secret for secret in secrets if secret in written] == []
    place.assert_nothing_left()
