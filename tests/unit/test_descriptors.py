"""What a descriptor may say about start, picture and device, and where it is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dynsvc.algorithms import Algorithm, Catalog, json_schema, read_descriptor
from dynsvc.descriptor_text import parse, problems, to_toml, toml_line
from dynsvc.errors import DescriptorInvalid, InvalidOrder
from dynsvc.parameters import Parameter, argv, fill
from dynsvc.regions import Region
from dynsvc.runtime import Keep
from tests.support.places import PLACES

ROOT = Path(__file__).parents[2]
FOREIGN = ROOT / "tests" / "support" / "foreign"
FULL = """\
schema = 1
name = "warm"
title = "Warm segmentation"
version = "1.0"
image = "example/warm:1"
command = ["seg", "{input}", "--level={parameters.level}", "{parameters}"]

[parameters.level]
type = "integer"
default = 2

[parameters.fast]
flag = "--fast"
type = "switch"
default = false

[parameters.mean]
flag = "--mean"
type = "numbers"
default = "-1, 2.50"
max = 10

[run]
mode = "warm"
command_warm = ["seg", "--serve", "{not a placeholder}"]
idle_s = 60
max_uses = 20
max_growth_mib = 128

[input]
format = "tiff"
name = "images/slide/tile.tif"
max_px = 1000
mpp = 0.5
tile_px = 512
halo_px = 32

[input.files]
"level.json" = "{parameters.level}"
"order.json" = { id = "{order_id}", boxes = ["{x}", "x {y}"] }

[limits]
memory_retry = true
gpu_memory_mib = 4000

[device]
kind = "gpu"
gpus = 1

[outputs]
required = ["images/mask/*.tif"]
"""


def test_all_fields_reach_the_values_that_a_runtime_takes():
    algorithm = parse(FULL, "algorithm.toml")
    assert algorithm.mode == "warm"
    assert algorithm.keep == Keep(idle_s=60, max_uses=20, max_growth_mib=128)
    assert algorithm.run.command_warm == ("seg", "--serve", "{not a placeholder}")
    assert (algorithm.run_limits.gpus, algorithm.run_limits.gpu_memory_mib) == (1, 4000)
    assert algorithm.limits.memory_retry


def test_without_the_new_fields_nothing_changes():
    # The same without its tables, except for the ones that every descriptor needs.
    tables = [f"[{table}" for table in FULL.split("\n[")]
    text = "\n".join(
        [FULL.split("\n[", maxsplit=1)[0], *(t for t in tables if t.startswith(("[parameters", "[outputs")))]
    )
    algorithm = parse(text, "algorithm.toml")
    assert (algorithm.mode, algorithm.keep, algorithm.limits.memory_retry) == ("oneshot", Keep(), False)
    assert (algorithm.input.file_name(".png"), algorithm.input.file_name(".jpg")) == ("tile.png", "tile.jpg")


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "expected"),
    [
        # what stands in the file, what replaces it, and what the error must say
        ('mode = "warm"', 'mode = "hot"', 24, "run.mode", "'oneshot', 'shim' or 'warm'"),
        ('mode = "warm"', 'mode = "shim"', 23, "run", "command_warm for mode warm, and only there"),
        ("idle_s = 60", "idle_s = 0", 26, "run.idle_s", "greater than 0"),
        ("max_uses", "max_use", 27, "run.max_use", "did you mean max_uses?"),
        ('format = "tiff"', 'format = "bmp"', 31, "input.format", "'tiff'"),
        ('format = "tiff"\n', "", 30, "input", "format png, jpeg or tiff with name"),
        ('name = "images/', 'name = "../images/', 32, "input.name", "pattern"),
        ("halo_px = 32", "halo_px = 256", 30, "input", "tile_px above twice halo_px"),
        ("max_px = 1000", "max_px = 0", 33, "input.max_px", "greater than or equal to 1"),
        ('"level.json" =', '"/level.json" =', 39, "input.files./level.json.[key]", "pattern"),
        ("default = 2", "min = 2", 8, "parameters.level", "a default or required"),
        ("[parameters.level]", "[parameters.levels]", 6, "command", "parameter level with"),
        (
            "--level={parameters.level}",
            "--level={parameters.other}",
            6,
            "command",
            "parameter other with",
        ),
        ('flag = "--fast"\n', "", 12, "parameters.fast", "a flag, or {parameters.fast}"),
        ('default = "-1, 2.50"', 'default = "-1, 20"', 17, "parameters.mean", "each of at most 10, found"),
        ("gpus = 1", "gpus = 2", 46, "device", "gpus = 1 with limits.gpu_memory_mib"),
        ("memory_retry = true", 'memory_retry = "often"', 43, "limits.memory_retry", "boolean"),
        ('required = ["images/mask/*.tif"]', 'required = ["a/../b"]', 51, "outputs.required.0", "pattern"),
        ("[outputs]", "[outputs", 50, "the file", "TOML"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(old, new, line, field, expected):
    assert FULL.count(old) == 1
    with pytest.raises(DescriptorInvalid) as caught:
        parse(FULL.replace(old, new), "algorithm.toml")
    assert caught.value.field == field
    assert expected in str(caught.value)
    if line is not None:
        assert caught.value.path == f"algorithm.toml:{line}"


def test_all_problems_are_found_at_once_in_the_order_of_their_lines():
    text = FULL.replace("gpus = 1", "gpus = -1").replace('name = "warm"', 'name = "Warm"')
    found = problems(text.replace("mpp = 0.5", "mpp = 0"), "algorithm.toml")
    assert [(problem.path, problem.field) for problem in found] == [
        ("algorithm.toml:2", "name"),
        ("algorithm.toml:34", "input.mpp"),
        ("algorithm.toml:48", "device.gpus"),
    ]
    assert problems(FULL, "algorithm.toml") == []


@pytest.mark.parametrize(
    ("text", "loc", "line"),
    [
        ('a = 1\n["b c".d] # why\ne = 2', ["b c", "d", "e"], 3),
        ("a.b = 1\na.c = 2", ["a", "c"], 2),
        ("a = 1\nb = { c = 2 }", ["b", "c"], 2),  # the line of the inline table
        ("[[a]]\nb = 1", ["a", "b"], 2),
        ("a = 1", ["z"], None),
    ],
)
def test_a_fields_line_is_found_however_it_is_written(text, loc, line):
    assert toml_line(text, loc) == line


@pytest.mark.parametrize(
    "path", sorted((ROOT / "algorithms").glob("*/algorithm.toml")), ids=lambda p: p.parent.name
)
def test_a_written_descriptor_reads_as_the_same(path):
    algorithm = read_descriptor(path)
    assert parse(to_toml(algorithm), "written") == algorithm


def test_every_field_survives_writing():
    algorithm = parse(FULL, "algorithm.toml").model_copy(update={"description": 'a "b" \\ \x7f\n ü'})
    assert parse(to_toml(algorithm), "written") == algorithm


def test_a_region_above_the_algorithms_limit_is_refused():
    algorithm = parse(FULL, "algorithm.toml")
    algorithm.check_region(Region(x_px=0, y_px=0, width_px=100, height_px=10), "14")
    with pytest.raises(InvalidOrder, match="at most 1000 px for warm") as caught:
        algorithm.check_region(Region(x_px=0, y_px=0, width_px=101, height_px=10), "14")
    assert caught.value.field == "data.order.roi"


def test_a_switch_is_a_flag_alone_and_a_list_has_blanks():
    parameters = parse(FULL, "algorithm.toml").parameters
    assert argv(parameters, fill(parameters, {}, "14").values) == ["--mean", "-1, 2.5"]
    values = fill(parameters, {"fast": "true", "mean": "3,4"}, "14").values
    assert argv(parameters, values) == ["--fast", "--mean", "3, 4"]


@pytest.mark.parametrize("text", ["yes", "True", "", "1"])
def test_a_switch_takes_true_and_false_only(text):
    with pytest.raises(InvalidOrder):
        fill({"fast": Parameter(flag="--fast", type="switch")}, {"fast": text}, "14")


@pytest.mark.parametrize("text", ["", "1,", "1,a", "1;2", "-v", "9" * 300])
def test_a_list_takes_numbers_only(text):
    with pytest.raises(InvalidOrder):
        fill({"mean": Parameter(flag="--mean", type="numbers")}, {"mean": text}, "14")


def test_the_published_schema_is_the_programs():
    published = (ROOT / "docs" / "reference" / "algorithm.schema.json").read_text(encoding="utf-8")
    # dynsvc algorithms schema > docs/reference/algorithm.schema.json
    assert json.loads(published) == json_schema()


def test_a_folder_may_hold_a_foreign_description_instead(tmp_path):
    for example in ("slicer", "biaflows", "grand_challenge"):
        (tmp_path / example).symlink_to(FOREIGN / example)
    (tmp_path / "empty").mkdir()
    catalog = Catalog.load(tmp_path)
    assert catalog.problems == ()
    assert set(catalog.algorithms) == {"detects-dark-spots", "spotsegmentation-test", "gc-spots"}
    assert all(isinstance(algorithm, Algorithm) for algorithm in catalog)


def test_our_own_description_comes_before_a_foreign_one(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "algorithm.toml").write_text(FULL)
    (tmp_path / "a" / "descriptor.json").write_text("{")
    catalog = Catalog.load(tmp_path)
    assert (set(catalog.algorithms), catalog.problems) == ({"warm"}, ())


def test_a_broken_foreign_description_is_a_problem_with_its_line(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "algorithm.xml").write_text("<executable>\n<title>")
    [problem] = Catalog.load(tmp_path).problems
    assert problem.path == f"{tmp_path}/a/algorithm.xml:2"


def test_a_warm_program_is_told_values_not_texts():
    algorithm = parse(FULL, "algorithm.toml")
    places = replace(PLACES, input="/input/a.tif")
    assert algorithm.request(places, fill(algorithm.parameters, {"level": "3"}, "14").values) == {
        "parameters": {"level": 3, "fast": False, "mean": [-1, 2.5]},
        "region": {"x": 1, "y": 2, "width": 3, "height": 4},
        "case_id": "C",
        "subject_id": "S",
        "analysis_id": "A",
        "description": "D",
        "mpp": 0.25,
    }


def test_a_description_that_cannot_be_read_is_a_problem_and_not_overlooked(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "algorithm.toml").symlink_to(tmp_path / "nowhere")
    [problem] = Catalog.load(tmp_path).problems
    assert problem.path == f"{tmp_path}/a/algorithm.toml"
