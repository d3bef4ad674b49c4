"""`dynsvc run`: the whole pipeline in one process, without Redis and broker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dynsvc.algorithms import Catalog
from dynsvc.demo.objects import read_objects
from dynsvc.demo.order import viewer_order
from dynsvc.demo.slide import MPP_UM, make_slide
from dynsvc.regions import Region

pytestmark = pytest.mark.timeout(120)

ALGORITHMS = Path(__file__).parents[2] / "algorithms"


class Bench:
    """A folder with a slide, an order for it, and a temporary folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tmp, self.slides = folder, folder / "tmp", folder / "slides"
        self.tmp.mkdir()
        self.slides.mkdir()
        make_slide(self.slides / "colon.tif")
        algorithm = Catalog.load(ALGORITHMS).algorithms["nuclei"]
        self.data = viewer_order(
            algorithm, "C1", Region(x_px=1024, y_px=1024, width_px=256, height_px=200), None
        )
        self.data["order"]["image"] |= {"source": "file", "location": "colon.tif"}

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        order = self.folder / "order.json"
        order.write_text(json.dumps(self.data))
        env = {
            **os.environ,
            "TMPDIR": str(self.tmp),
            "DYNSVC_SLIDES": str(self.slides),
            "DYNSVC_RUNTIME": "process",
            "DYNSVC_RESULTS": str(self.folder / "results"),
            # Nobody listens there: whoever asked Redis would fail.
            "DYNSVC_ORDERS__REDIS__PORT": "1",
        }
        return subprocess.run(
            [sys.executable, "-c", "from dynsvc.cli import main; main()", "run", str(order), *args],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_run_writes_the_zip_and_prints_steps_and_leaves_nothing_else(bench: Bench) -> None:
    done = bench.run("--output=out/result.zip")
    assert done.returncode == 0, done.stdout + done.stderr
    objects = list(read_objects(bench.folder / "out" / "result.zip"))
    assert len(objects) > 20
    assert all(1024 <= found.anchor[0] <= 1280 for found in objects)
    assert f"mpp_{MPP_UM:g}" in "".join(_names(bench.folder / "out" / "result.zip"))
    for step in ("fetch_order", "fetch_roi", "run_algorithm"):
        assert step in done.stdout
    assert f"{len(objects)} objects" in done.stdout
    assert list(bench.tmp.iterdir()) == []
    assert not (bench.folder / "results").exists()


def test_run_delivers_only_when_told_to(bench: Bench) -> None:
    done = bench.run("--upload")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "delivered: " in done.stdout
    assert list((bench.folder / "results").rglob("*.zip"))


def test_run_ends_with_one_line_where_the_slide_is_not_there(bench: Bench) -> None:
    bench.data["order"]["image"]["location"] = "other.tif"
    done = bench.run()
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "other.tif" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(bench.tmp.iterdir()) == []


def _names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()
