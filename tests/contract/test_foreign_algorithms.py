"""Foreign descriptions are imported unchanged and run: an order goes in, a zip comes out."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynsvc.algorithms import Catalog
from dynsvc.demo.order import viewer_order
from dynsvc.demo.slide import MPP_UM, make_slide
from dynsvc.descriptor_text import to_toml
from dynsvc.regions import Region
from tests.support.images import BASE_IMAGE, base_image, engine

pytestmark = pytest.mark.timeout(180)

FOREIGN = Path(__file__).parents[1] / "support" / "foreign"
IMAGE = "dynsvc-test-foreign"
WIDTH_PX, HEIGHT_PX = 200, 120
DOCKERFILE = f"""\
FROM {BASE_IMAGE}
COPY biaflows/wrapper.py /app/wrapper.py
COPY slicer/slicer_spots slicer/algorithm.xml grand_challenge/gc_spots /usr/local/bin/
RUN chmod -R a+rX /app /usr/local/bin
ENTRYPOINT ["slicer_spots"]
"""


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    context = tmp_path_factory.mktemp("context")
    shutil.copytree(FOREIGN, context, dirs_exist_ok=True)
    (context / "Dockerfile").write_text(DOCKERFILE)
    base_image()
    for step in engine().build(path=str(context), tag=IMAGE, rm=True, decode=True):
        assert "error" not in step, step
    return IMAGE


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    make_slide(folder / "colon.tif")
    return folder


class Bench:
    """A folder of algorithms, and orders for the one in it."""

    def __init__(self, folder: Path, slides: Path, example: str, adaptation: str | None) -> None:
        self.folder, self.slides = folder, slides
        self.algorithms = folder / "algorithms"
        shutil.copytree(FOREIGN / example, self.algorithms / example)
        if adaptation is not None:
            (self.algorithms / example / "import.toml").write_text(adaptation)
        self.env = {
            **os.environ,
            "PATH": f"{self.algorithms / example}:{os.environ['PATH']}",
            "DYNSVC_SLIDES": str(slides),
            "DYNSVC_ALGORITHMS": str(self.algorithms),
        }

    def run(self, runtime: str, **parameters: str) -> dict[str, bytes]:
        """The files in the result's zip."""
        catalog = Catalog.load(self.algorithms)
        assert catalog.problems == ()
        [algorithm] = catalog
        region = Region(x_px=1030, y_px=1040, width_px=WIDTH_PX, height_px=HEIGHT_PX)
        data = viewer_order(algorithm, "C1", region, None)
        data["order"]["image"] |= {"source": "file", "location": "colon.tif"}
        data["order"]["execution"]["parameters"] = [{name: value} for name, value in parameters.items()]
        order = self.folder / "order.json"
        order.write_text(json.dumps(data))
        done = self.dynsvc("run", str(order), DYNSVC_RUNTIME=runtime)
        assert done.returncode == 0, done.stdout + done.stderr
        with zipfile.ZipFile(self.folder / "result.zip") as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def dynsvc(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from dynsvc.cli import main; main()", *args],
            cwd=self.folder,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )


@pytest.fixture
def bench(tmp_path: Path, slides: Path) -> Callable[..., Bench]:
    return functools.partial(Bench, tmp_path, slides)


#: With the process runtime a program is found on PATH. In its image it lies where its format says.
RUNTIMES = [
    pytest.param("process", id="process"),
    pytest.param("docker", id="docker", marks=pytest.mark.docker),
]


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "docker":
        request.getfixturevalue("image")
    return name


def document(content: bytes) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(content)
    return loaded


def test_a_slicer_cli_program_runs(bench: Callable[..., Bench], runtime: str) -> None:
    # "t" is its short flag, "otsu_ratio" would be its deprecated one.
    files = bench("slicer", None).run(runtime, t="75.50", ignore_border="true")
    written = document(files["outputAnnotationFile.anot"])
    given = written["given"]
    assert given["foreground_threshold"] == 75.5
    assert given["ignore_border"] is True
    assert given["reference_mu_lab"] == [-8.63234435, -0.11501964, 0.03868433]
    assert (given["analysis_roi"], given["frame"]) == ("-1, -1, -1, -1", "0")  # its own defaults
    assert Path(given["output"]).name == "outputAnnotationFile.anot"
    assert bytes.fromhex(written["first_bytes"])[:4] == b"\x89PNG"
    assert files["outputMask.png"].startswith(b"\x89PNG")
    assert files["returnparameters.txt"] == b"spots = 3\n"


def test_a_biaflows_workflow_runs(bench: Callable[..., Bench], runtime: str) -> None:
    # In the image, nothing has to be adapted.
    adaptation = 'program = ["wrapper.py"]' if runtime == "process" else None
    files = bench("biaflows", adaptation).run(runtime, size_smoothing_filter="7", fill_holes="False")
    assert files["tile.tif"][:2] in (b"II", b"MM")
    given = document(files["log.json"])["given"]
    assert (given["smoothing"], given["fill_holes"], given["spot_diameter_range"]) == (7, "false", "15,40")
    assert given["local"] is given["nometriccomp"] is True


def test_an_image_in_the_layout_of_grand_challenge_runs(bench: Callable[..., Bench], runtime: str) -> None:
    # The image looks into /input and /output, whatever it is told.
    adaptation = 'program = ["gc_spots"]' if runtime == "docker" else None
    files = bench("grand_challenge", adaptation).run(
        runtime, **{"detection-threshold": "0.25", "fast": "true"}
    )
    assert files["spot-count.json"] == b"17"
    assert files["images/spot-mask/output.tif"][:2] in (b"II", b"MM")
    values = document(files["log.json"])
    assert (values["threshold"], values["stain"], values["fast"]) == (0.25, "HE", True)
    assert values["listed"] == [0.25, "HE", True]
    assert values["name"] == ["tile.tif", "tile.tif"]
    assert values["size"] == [WIDTH_PX, HEIGHT_PX]
    # The pixel size of the slide is in the TIFF's resolution, in pixels for each centimetre.
    assert values["per_cm"] == pytest.approx(1e4 / MPP_UM)


@pytest.mark.docker
def test_a_slicer_image_tells_its_own_description(bench: Callable[..., Bench], image: str) -> None:
    here = bench("slicer", None)
    done = here.dynsvc("algorithms", "import", image, "--name", "spots")
    assert done.returncode == 0, done.stderr
    folder = here.folder / "algorithms" / "spots"
    shutil.rmtree(here.algorithms / "slicer")
    folder.mkdir()
    (folder / "algorithm.toml").write_text(done.stdout)
    [algorithm] = Catalog.load(here.algorithms)
    assert (algorithm.name, algorithm.image) == ("spots", image)
    assert to_toml(algorithm) == done.stdout
    assert "outputAnnotationFile.anot" in here.run("docker")


@pytest.mark.docker
def test_a_program_that_the_image_has_not_is_an_error(bench: Callable[..., Bench], image: str) -> None:
    done = bench("slicer", None).dynsvc("algorithms", "import", image, "--cli", "other")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.docker
def test_a_new_algorithm_runs_in_the_image_of_its_dockerfile(bench: Callable[..., Bench]) -> None:
    base_image()
    here = bench("slicer", None)
    shutil.rmtree(here.algorithms / "slicer")
    assert here.dynsvc("algorithms", "new", "dynsvc-test-new", "--dir", "algorithms").returncode == 0
    folder = here.algorithms / "dynsvc-test-new"
    [algorithm] = Catalog.load(here.algorithms)
    for step in engine().build(path=str(folder), tag=algorithm.image, rm=True, decode=True):
        assert "error" not in step, step
    result = document(here.run("docker", threshold="150")["result.json"])
    assert result["threshold"] == 150
    assert 0 < result["dark_fraction"] < 1
