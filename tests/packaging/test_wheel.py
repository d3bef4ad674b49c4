"""The wheel holds everything that the programs need: it is tested as users get it, not from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.redis import running_redis

ROOT = Path(__file__).resolve().parents[2]
PIP = [sys.executable, "-m", "pip", "--quiet"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    argv = [*PIP, "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*argv, "--wheel-dir", str(folder), str(ROOT)], check=True, timeout=120)
    (built,) = folder.glob("dynsvc-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [*PIP, "install", "--no-deps", "--target", str(folder), str(wheel)], check=True, timeout=120
    )
    return folder


def run(installed: Path, *argv: str) -> str:
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(installed),
        "LANG": "C.UTF-8",
        "HOME": str(installed),
    }
    done = subprocess.run(
        [sys.executable, *argv],
        env=env,
        cwd=installed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_what_is_not_python_too(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "dynsvc", "bridge", "workers", "algorithms"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout.split()
    assert len(tracked) > 100
    assert sorted(set(tracked) - names) == []
    assert {"celeryconfig.py", "dynsvc/py.typed"} <= names
    assert not [name for name in names if name.startswith("tests/") or "node_modules" in name]


def test_the_programs_run_from_the_wheel(installed: Path) -> None:
    where = run(installed, "-c", "import dynsvc, celeryconfig; print(dynsvc.__file__, celeryconfig.__file__)")
    assert [Path(path).is_relative_to(installed) for path in where.split()] == [True, True]
    assert run(installed, "-m", "bridge", "--version").startswith("dynsvc ")
    start = "import sys; from dynsvc.cli import main; sys.argv = ['dynsvc', *sys.argv[1:]]; main()"
    listed = run(installed, "-c", start, "algorithms")
    assert "pathomics" in listed
    assert "nuclei" in listed


def test_the_store_reads_its_scripts_from_the_wheel(installed: Path, redis_program: str) -> None:
    with running_redis() as redis:
        program = (
            "import redis, sys; from dynsvc.kue import JobStore;"
            "store = JobStore(redis.Redis(port=int(sys.argv[1]), decode_responses=True));"
            "print(store.create('order', {}), store.waiting(['order'], 1).ids[0][0])"
        )
        assert run(installed, "-c", program, str(redis.port)).split() == ["1", "1"]
