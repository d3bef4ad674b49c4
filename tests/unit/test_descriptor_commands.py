"""`dynsvc algorithms check | new | schema | import`, and the algorithm that `new` writes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from dynsvc.algorithms import Catalog, json_schema
from dynsvc.cli import main
from dynsvc.cli.algorithms import command as algorithms
from dynsvc.demo.order import viewer_order
from dynsvc.demo.slide import make_slide
from dynsvc.descriptor_text import parse
from dynsvc.regions import Region

ROOT = Path(__file__).parents[2]
FOREIGN = ROOT / "tests" / "support" / "foreign"


def invoke(*args: str | Path, **env: str) -> Result:
    return CliRunner().invoke(main, ["algorithms", *map(str, args)], env=env)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A new algorithm's folder."""
    result = invoke("new", "dark-pixels", "--dir", tmp_path / "algorithms")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "algorithms" / "dark-pixels"
    assert sorted(result.output.split()) == sorted(map(str, folder.iterdir()))
    return folder


def test_a_new_algorithm_is_valid_and_its_own_test_passes(folder: Path) -> None:
    result = invoke("check", folder)
    assert (result.exit_code, "dark-pixels 0.1.0 is valid" in result.output) == (0, True)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_the_files_of_a_new_algorithm_have_no_blanks_left_to_fill(folder: Path) -> None:
    for path in folder.iterdir():
        assert "$" not in path.read_text().replace("$(", "")
    assert os.access(folder / "dark-pixels.py", os.X_OK)
    dockerfile = (folder / "Dockerfile").read_text()
    assert "FROM python:3.11-slim-bookworm" in dockerfile
    assert re.search(r"^USER [1-9]", dockerfile, re.MULTILINE)


def test_a_new_algorithm_runs(folder: Path, tmp_path: Path) -> None:
    make_slide(tmp_path / "colon.tif")
    [algorithm] = Catalog.load(folder.parent)
    region = Region(x_px=1030, y_px=1040, width_px=120, height_px=90)
    data = viewer_order(algorithm, "C1", region, None)
    data["order"]["image"] |= {"source": "file", "location": "colon.tif"}
    data["order"]["execution"]["parameters"] = [{"threshold": "150"}]
    (tmp_path / "order.json").write_text(json.dumps(data))
    done = subprocess.run(
        [sys.executable, "-c", "from dynsvc.cli import main; main()", "run", "order.json"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "DYNSVC_SLIDES": str(tmp_path),
            "DYNSVC_ALGORITHMS": str(folder.parent),
            "DYNSVC_RUNTIME": "process",
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(tmp_path / "result.zip") as archive:
        result = json.loads(archive.read("result.json"))
        [name] = [name for name in archive.namelist() if name.endswith(".PNG")]
        with archive.open(name) as stream, Image.open(stream) as picture:
            red_green_blue = picture.convert("RGB").tobytes()
    pixels = [red_green_blue[i : i + 3] for i in range(0, len(red_green_blue), 3)]
    # The program reads PNG by itself: its count is that of another reader.
    dark = sum(sum(pixel) < 3 * 150 for pixel in pixels)
    assert 0 < dark < len(pixels) == 120 * 90
    assert (result["dark_pixels"], result["threshold"]) == (dark, 150)


def test_new_leaves_what_is_there_alone(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = invoke("new", "dark-pixels", "--dir", folder.parent)
    assert result.exit_code == 2
    assert "it exists" in result.output
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["dark-pixels"]


@pytest.mark.parametrize("name", ["Dark", "../x", "", "a b", ".a"])
def test_new_refuses_a_name_that_no_descriptor_allows(tmp_path: Path, name: str) -> None:
    result = invoke("new", "--dir", tmp_path, "--", name)
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_check_prints_each_problem_with_its_line(folder: Path) -> None:
    path = folder / "algorithm.toml"
    text = path.read_text().replace('type = "integer"', 'type = "int"').replace("cpus = 1", "cpu = 1")
    path.write_text(text)
    lines = [
        next(n for n, line in enumerate(text.splitlines(), 1) if line == wrong)
        for wrong in ('type = "int"', "cpu = 1")
    ]
    result = invoke("check", folder)
    assert result.exit_code == 1
    assert [line.partition(" ")[0] for line in result.output.splitlines()] == [f"{path}:{n}:" for n in lines]
    assert "did you mean cpus?" in result.output


def test_check_looks_for_the_program_only_when_told(folder: Path) -> None:
    assert invoke("check", folder, DYNSVC_RUNTIME="process").exit_code == 0
    missing = invoke("check", folder, "--runtime", DYNSVC_RUNTIME="process")
    assert (missing.exit_code, "is not on PATH" in missing.output) == (1, True)
    path = f"{folder}:{os.environ['PATH']}"
    found = invoke("check", folder, "--runtime", DYNSVC_RUNTIME="process", PATH=path)
    assert (found.exit_code, f"program {folder}" in found.output) == (0, True)


def test_check_reads_foreign_descriptions_too(tmp_path: Path) -> None:
    assert invoke("check", FOREIGN / "slicer").exit_code == 0
    (tmp_path / "descriptor.json").write_text('{\n"schema-version": "2"}')
    result = invoke("check", tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path}/descriptor.json:2: schema-version is '2'" in result.output


def test_check_of_a_folder_without_description_is_an_error(tmp_path: Path) -> None:
    result = invoke("check", tmp_path)
    assert (result.exit_code, "a file algorithm.toml" in result.output) == (2, True)


def test_schema_prints_the_schema() -> None:
    assert json.loads(invoke("schema").output) == json_schema()


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("slicer/algorithm.xml", ["--program", "python3", "--program", "spots.py", "--image", "example/a:1"]),
        ("biaflows/descriptor.json", ["--image", "example/a:1"]),
        ("grand_challenge/grand-challenge.toml", ["--image", "example/a:1", "--format", "grand-challenge"]),
    ],
)
def test_import_prints_a_descriptor(path: str, options: list[str]) -> None:
    result = invoke("import", FOREIGN / path, "--name", "mine", *options)
    assert result.exit_code == 0, result.output
    algorithm = parse(result.output, "printed")
    assert (algorithm.name, algorithm.image) == ("mine", "example/a:1")


def test_import_takes_the_rest_from_a_file(tmp_path: Path) -> None:
    adaptation = tmp_path / "more.toml"
    adaptation.write_text('program = ["spots"]\n[limits]\nmemory_mib = 77\n')
    result = invoke("import", FOREIGN / "slicer" / "algorithm.xml", "--adapt", adaptation)
    assert parse(result.output, "printed").limits.memory_mib == 77


def test_import_asks_for_the_format_where_nothing_tells(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("schema = 1")
    result = invoke("import", tmp_path / "a")
    assert (result.exit_code, "--format" in result.output) == (2, True)


@pytest.mark.parametrize("name", sorted(algorithms.commands))
def test_the_reference_has_each_command_with_each_option(name: str) -> None:
    text = (ROOT / "docs" / "reference" / "cli.md").read_text()
    section = text.partition(f"\n## dynsvc algorithms {name}")[2].partition("\n## ")[0]
    options = [o for p in algorithms.commands[name].params if isinstance(p, click.Option) for o in p.opts]
    assert section
    assert [option for option in options if f"`{option}" not in section] == []
    assert set(re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE)) <= set(options)
    assert all(p.help for p in algorithms.commands[name].params if isinstance(p, click.Option))
