from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from dynsvc.algorithms import Algorithm, Catalog, Placeholders, json_schema, read_descriptor
from dynsvc.commands import PLACEHOLDERS, placeholders_of
from dynsvc.errors import DescriptorInvalid, InvalidOrder, OutputMissing, SettingsInvalid, UnknownAlgorithm
from dynsvc.orders import parse_order
from dynsvc.parameters import fill
from tests.support.orders import VARIANTS, changed, v4

SHIPPED = Path(__file__).parents[2] / "algorithms"
MINIMAL = """
schema = 1
name = "seg"
title = "Segmentation"
version = "1.0"
command = ["seg", "{input}", "{parameters}"]
match = ["seg:*"]

[parameters.r]
flag = "-r"
type = "number"
default = 1.0

[outputs]
required = ["*.png"]
"""
PLACES = Placeholders(
    input="/input/14.jpg",
    input_dir="/input",
    output_dir="/output",
    case_id="case 1",
    subject_id="subject",
    analysis_id="seg:r1",
    description="a title",
    x=10,
    y=20,
    width=300,
    height=400,
    mpp=0.25,
    order_id="14",
)


def descriptor(folder: Path, text: str = MINIMAL, name: str = "seg") -> Path:
    path = folder / name / "algorithm.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    return path


def algorithm(**changes: object) -> Algorithm:
    document = {
        "schema": 1,
        "name": "seg",
        "title": "Segmentation",
        "version": "1.0",
        "command": ["seg", "{input}"],
        "outputs": {"required": ["*.png"]},
    }
    return Algorithm.model_validate(document | changes)


def test_a_minimal_descriptor_is_complete(tmp_path):
    found = read_descriptor(descriptor(tmp_path))
    assert (found.image, found.device.kind, found.run_limits.gpus, found.run_limits.network) == (
        None,
        "cpu",
        0,
        False,
    )


def test_shipped_descriptors_are_all_valid():
    catalog = Catalog.load(SHIPPED)
    assert catalog.problems == ()
    assert {"nuclei", "pathomics"} <= set(catalog.algorithms)


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "expected"),
    [
        # what stands in the file, what replaces it, and what the error must say
        ("schema = 1", "schema = 2", 2, "schema", "1"),
        ('name = "seg"', 'name = "Seg 1"', 3, "name", "pattern"),
        ('name = "seg"', 'nam = "seg"', None, "name", "a value"),
        ('name = "seg"', "name = 5", 3, "name", "string"),
        ('title = "Segmentation"', 'title = ""', 4, "title", "at least 1"),
        ('title = "Segmentation"', 'title = "S"\nvesion = "1"', 5, "vesion", "did you mean version?"),
        ('command = ["seg", ', "command = [", 6, "command", "without placeholders"),
        ("{input}", "{picture}", 6, "command", "expected one of {input}"),
        ("{input}", "{input", 6, "command", "literal braces"),
        ("{input}", "}", 6, "command", "literal braces"),
        ("{input}", "{}", 6, "command", "instead of {}"),
        ("{input}", "-{parameters}", 6, "command", "as an element of its own"),
        ("{input}", "{parameters}", 6, "command", "at most once"),
        (', "{parameters}"', "", 6, "command", "{parameters} in command"),
        ('flag = "-r"', 'flag = "r"', 10, "parameters.r.flag", "pattern"),
        ('type = "number"', 'type = "real"', 11, "parameters.r.type", "number"),
        ("default = 1.0", 'default = "one"', 9, "parameters.r", "a number, found 'one'"),
        ("default = 1.0", "defualt = 1.0", 12, "parameters.r.defualt", "did you mean default?"),
        ('required = ["*.png"]', "required = []", 15, "outputs.required", "at least 1"),
        ('required = ["*.png"]', 'required = ["../*.png"]', 15, "outputs.required.0", "pattern"),
        ("[outputs]", "[device]\nkind = 'gpu'\n\n[outputs]", 14, "device", "gpus of at least 1"),
        ("[outputs]", "[limits]\ntimeout_s = -1\n\n[outputs]", 15, "limits.timeout_s", "greater than 0"),
        ("[outputs]", "[limits]\ncpus = nan\n\n[outputs]", 15, "limits.cpus", "finite"),
        ("schema = 1", "schema = = 1", None, "the file", "TOML"),
    ],
)
def test_a_broken_descriptor_names_file_line_and_field(tmp_path, old, new, line, field, expected):
    path = descriptor(tmp_path, MINIMAL.replace(old, new, 1))
    with pytest.raises(DescriptorInvalid) as caught:
        read_descriptor(path)
    assert caught.value.field == field
    if line is not None:
        assert caught.value.path == f"{path}:{line}"
    assert expected in str(caught.value)


def test_a_descriptor_that_is_no_text_is_refused(tmp_path):
    path = descriptor(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DescriptorInvalid):
        read_descriptor(path)


def test_a_broken_descriptor_does_not_hide_the_others(tmp_path):
    descriptor(tmp_path, "schema = 1", name="broken")
    descriptor(tmp_path)
    catalog = Catalog.load(tmp_path)
    assert list(catalog.algorithms) == ["seg"]
    assert [problem.path for problem in catalog.problems] == [str(tmp_path / "broken" / "algorithm.toml")]


def test_two_descriptors_with_one_name_are_a_problem_and_the_first_counts(tmp_path):
    descriptor(tmp_path, name="a")
    descriptor(tmp_path, MINIMAL.replace('"1.0"', '"2.0"'), name="b")
    catalog = Catalog.load(tmp_path)
    assert catalog.algorithms["seg"].version == "1.0"
    [problem] = catalog.problems
    assert (problem.path, problem.field, problem.found) == (
        str(tmp_path / "b" / "algorithm.toml"),
        "name",
        "seg",
    )


def test_a_missing_folder_is_a_wrong_setting(tmp_path):
    with pytest.raises(SettingsInvalid):
        Catalog.load(tmp_path / "nowhere")


def catalog_of(*algorithms: Algorithm) -> Catalog:
    return Catalog({one.name: one for one in algorithms})


CATALOG = catalog_of(
    algorithm(name="nuclei", match=["nuclei", "nuclei:*"]),
    algorithm(name="pathomics", match=["SuperSegmenter", "seg:*"]),
    algorithm(name="special", match=["seg:r1:*"]),
    algorithm(name="stray", match=["SUPER*", "nucle[io]*x"]),
)


@pytest.mark.parametrize(
    ("ordered", "chosen"),
    [
        ("nuclei", "nuclei"),
        ("nuclei:fast", "nuclei"),
        ("SuperSegmenter", "pathomics"),
        ("seg:r2:w0.8", "pathomics"),
        ("seg:r1:w0.8", "special"),  # the pattern with more literal characters
        ("SUPERSegmenter", "stray"),  # case matters
        ("Nuclei", "pathomics"),  # known to nobody: the default
        ("my-analysis", "pathomics"),
    ],
)
def test_the_algorithm_is_chosen_by_name_then_pattern_then_default(ordered, chosen):
    assert CATALOG.choose(ordered, "pathomics", "14").name == chosen


@pytest.mark.parametrize("default", ["", "none"])
def test_without_a_default_an_unknown_name_is_refused_with_a_suggestion(default):
    with pytest.raises(UnknownAlgorithm) as caught:
        CATALOG.choose("nuclie", default, "14")
    assert (caught.value.name, caught.value.suggestion) == ("nuclie", "nuclei")


def test_a_default_that_does_not_exist_is_what_the_error_names():
    with pytest.raises(UnknownAlgorithm) as caught:
        CATALOG.choose("my-analysis", "pathomic", "14")
    assert (caught.value.name, caught.value.suggestion) == ("pathomic", "pathomics")


def test_an_empty_catalog_knows_nothing():
    with pytest.raises(UnknownAlgorithm) as caught:
        catalog_of().choose("nuclei", "pathomics", "14")
    assert caught.value.suggestion is None


def test_every_placeholder_is_replaced():
    command = ["seg", *(f"{name}={{{name}}}" for name in PLACEHOLDERS)]
    assert algorithm(command=command).command_line(PLACES, {}) == (
        "seg",
        "input=/input/14.jpg",
        "input_dir=/input",
        "output_dir=/output",
        "case_id=case 1",
        "subject_id=subject",
        "analysis_id=seg:r1",
        "description=a title",
        "x=10",
        "y=20",
        "width=300",
        "height=400",
        "mpp=0.25",
        "order_id=14",
    )


def test_values_are_no_templates_and_doubled_braces_are_braces():
    places = replace(PLACES, case_id="{order_id}}}{{")
    command = ["seg", "{{x}}={x}", "{case_id}", "{x},{y}"]
    assert algorithm(command=command).command_line(places, {}) == ("seg", "{x}=10", "{order_id}}}{{", "10,20")


def test_a_value_with_spaces_and_shell_signs_stays_one_argument():
    places = replace(PLACES, description="a; rm $(x) '")
    assert algorithm(command=["seg", "-e", "{description}"]).command_line(places, {})[2] == "a; rm $(x) '"


def test_a_value_never_becomes_a_flag():
    places = replace(PLACES, description="--help")
    with pytest.raises(InvalidOrder):
        algorithm(command=["seg", "{description}"]).command_line(places, {})
    assert algorithm(command=["seg", "--e={description}"]).command_line(places, {})[1] == "--e=--help"


def test_small_pixel_sizes_have_no_exponent():
    places = replace(PLACES, mpp=1e-05)
    assert algorithm(command=["seg", "{mpp}"]).command_line(places, {})[1] == "0.00001"


def test_placeholders_are_found_in_order():
    assert placeholders_of(["a", "{x},{y}", "{{z}}", "{parameters}"]) == ("x", "y", "parameters")


OUTPUTS = (
    Catalog.load(SHIPPED)
    .algorithms["pathomics"]
    .outputs.model_copy(update={"required": ("*-seg.png", "*.csv")})
)


def test_required_files_need_content():
    OUTPUTS.require({"a-seg.png": 1, "empty-seg.png": 0, "a.csv": 7}, "seg")
    with pytest.raises(OutputMissing) as caught:
        OUTPUTS.require({"a-seg.png": 1}, "seg")
    assert (caught.value.missing, caught.value.found) == ("*.csv", "a-seg.png")
    with pytest.raises(OutputMissing) as caught:
        OUTPUTS.require({"a-seg.png": 0, "a.csv": 7}, "seg")
    assert (caught.value.missing, caught.value.found) == ("*-seg.png", "an empty a-seg.png")
    with pytest.raises(OutputMissing) as caught:
        OUTPUTS.require({}, "seg")
    assert caught.value.found == "nothing"


def test_files_are_known_by_their_patterns():
    names = ["b-seg.png", "a-seg.png", "a-features.csv", "a-algmeta.json", "a-algmeta.csv", "b-algmeta.csv"]
    assert OUTPUTS.masks_of(names) == ["a-seg.png", "b-seg.png"]
    assert OUTPUTS.tables_of(names) == ["a-features.csv"]
    assert OUTPUTS.metadata_of(names) == ["a-algmeta.csv", "a-algmeta.json"]
    assert algorithm().outputs.masks_of(names) == []


def test_the_schema_describes_the_file():
    schema = json_schema()
    assert schema["properties"]["schema"]["const"] == 1
    assert set(schema["required"]) == {"schema", "name", "title", "version", "command", "outputs"}
    json.dumps(schema)


PATHOMICS = Catalog.load(SHIPPED).algorithms["pathomics"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_pathomics_takes_the_orders_of_every_variant(variant):
    job_type, build = VARIANTS[variant]
    order = parse_order("14", job_type, json.dumps(build()))
    assert Catalog.load(SHIPPED).choose(order.algorithm, "none", "14") == PATHOMICS
    values, _ = fill(PATHOMICS.parameters, order.parameters, "14")
    assert values["j"] in {"0", "1", "2"}


def test_pathomics_gets_the_argument_list_of_the_original():
    order = parse_order("14", "analysisJob", json.dumps(v4(case_id="C", x=1, y=2, w=3, h=4)))
    values, remarks = fill(PATHOMICS.parameters, order.parameters, "14")
    assert remarks == ()
    places = Placeholders(
        input="/in/14.jpg",
        input_dir="/in",
        output_dir="/out",
        case_id=order.case_id,
        subject_id="S",
        analysis_id="A",
        description="D",
        x=1,
        y=2,
        width=3,
        height=4,
        mpp=0.499,
        order_id="14",
    )
    assert " ".join(PATHOMICS.command_line(places, values)) == (
        "mainSegmentFeatures -i /in/14.jpg -z /out/output.zip -o /out -t img -c C -p S -a A -e D "
        "-s 1,2 -b 3,4 -d 3,4 -r 1 -w 0.8 -l 3 -u 10 -k 20 -j 0 -m 0.499"
    )


def test_pathomics_has_the_defaults_of_the_program_not_of_the_original_service():
    values, _ = fill(PATHOMICS.parameters, {}, "14")
    assert values == {"r": "1", "w": "0.8", "l": "3", "u": "200", "k": "20", "j": "0"}


@pytest.mark.parametrize(("letter", "number"), [("N", "0"), ("Y", "2"), ("1", "1")])
def test_pathomics_never_gets_a_letter_for_declumping(letter, number):
    order = parse_order("14", "analysisJob", json.dumps(changed(v4(), "data.order.pj", letter)))
    assert fill(PATHOMICS.parameters, order.parameters, "14").values["j"] == number


REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "descriptor.md"


def test_the_example_in_the_reference_is_a_descriptor(tmp_path):
    example = REFERENCE.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    assert read_descriptor(descriptor(tmp_path, example)).name == "nuclei"


def test_the_reference_names_every_field_and_placeholder():
    text = REFERENCE.read_text(encoding="utf-8")
    schema = json_schema()
    models = (schema, *schema["$defs"].values())
    fields = {field for model in models for field in model.get("properties", {})}
    missing = {field for field in fields if not re.search(rf"`([\w.]+\.)?{field}`|\[{field}[\].]", text)}
    assert missing == set()
    assert {name for name in (*PLACEHOLDERS, "parameters") if f"`{{{name}}}`" not in text} == set()
