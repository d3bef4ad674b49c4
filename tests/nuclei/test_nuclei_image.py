"""The image, built from its Dockerfile and run as the docker runtime runs it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from algorithms.nuclei.synthetic import scene
from tests.support.services import missing

FOLDER = Path(__file__).parents[2] / "algorithms" / "nuclei"
pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]
HARDENED = [
    "--read-only", "--network", "none", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
    "--pids-limit", "64", "--memory", "2048m", "--user", "65532:65532", "--tmpfs", "/tmp:size=256m",
]  # fmt: skip


def docker(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *words], capture_output=True, text=True, timeout=280, check=False)


@pytest.fixture(scope="module")
def image() -> str:
    if shutil.which("docker") is None or docker("version").returncode:
        missing("a docker engine")
    done = docker("build", "-q", str(FOLDER))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_image_states_the_libraries_that_are_locked(image: str) -> None:
    locked = re.findall(r"^([\w-]+)==([\w.]+)", (FOLDER / "requirements.txt").read_text(), re.MULTILINE)
    labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", image).stdout)
    assert labels == {f"dynsvc.library.{name}": version for name, version in locked}


def test_the_image_runs_with_everything_taken_away(image: str, tmp_path: Path) -> None:
    drawn = scene(1, side_px=300, nuclei=40)
    (tmp_path / "input").mkdir()
    Image.fromarray(drawn.rgb).save(tmp_path / "input" / "roi.png")
    out = tmp_path / "output"
    out.mkdir()
    out.chmod(0o777)
    mounts = ["-v", f"{tmp_path}/input:/input:ro", "-v", f"{out}:/output"]
    program = ["python3", "-m", "algorithms.nuclei", "-t", "img", "-i", "/input/roi.png", "-o", "/output"]
    ids = ["-c", "C", "-p", "P", "-a", "A", "-m", "0.25", "-v", "mask:img:overlay"]
    done = docker("run", "--rm", *HARDENED, *mounts, image, *program, *ids)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads((out / "result.json").read_text())["count"] > 20
    assert len(list(out.iterdir())) == 7


def test_the_image_can_read_slides(image: str) -> None:
    done = docker(
        "run", "--rm", *HARDENED, image, "python3", "-c", "import openslide; print(openslide.__version__)"
    )
    assert done.returncode == 0, done.stderr


def test_the_descriptor_starts_a_program_that_the_image_has(image: str) -> None:
    command = tomllib.loads((FOLDER / "algorithm.toml").read_text())["command"]
    done = docker("run", "--rm", *HARDENED, image, *command[:3], "--help")
    assert done.returncode == 0
    assert "usage:" in done.stdout
