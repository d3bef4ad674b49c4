"""Importers: what each foreign format becomes, and what is refused with element and line."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dynsvc.algorithms import Algorithm
from dynsvc.commands import filled
from dynsvc.errors import DescriptorInvalid, InvalidOrder
from dynsvc.importers import FORMATS, format_of
from dynsvc.parameters import fill
from tests.support.places import PLACES

FOREIGN = Path(__file__).parents[1] / "support" / "foreign"
XML = (FOREIGN / "slicer" / "algorithm.xml").read_text(encoding="utf-8")
JSON = (FOREIGN / "biaflows" / "descriptor.json").read_text(encoding="utf-8")
TOML = (FOREIGN / "grand_challenge" / "grand-challenge.toml").read_text(encoding="utf-8")
TEXTS = {"slicer": XML, "biaflows": JSON, "grand-challenge": TOML}


def read(kind: str, text: str, **adaptation: Any) -> Algorithm:
    if kind == "slicer":
        adaptation = {"program": ["spots"], **adaptation}
    return FORMATS[kind][1](text, path="file", adaptation=adaptation)


def command_line(algorithm: Algorithm, **given: str) -> list[str]:
    values = fill(algorithm.parameters, given, "14").values
    return list(algorithm.command_line(PLACES, values))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_is_known_by_its_content(kind: str) -> None:
    assert format_of(TEXTS[kind]) == kind
    assert format_of("schema = 1") is None


def test_slicer_parameters_keep_type_range_choices_default_and_all_names() -> None:
    parameters = read("slicer", XML).parameters
    threshold = parameters["threshold"]
    assert (threshold.flag, threshold.type, threshold.default) == ("--foreground_threshold", "number", "60")
    assert (threshold.min, threshold.max) == (0, 255)
    assert threshold.aliases == ("foreground_threshold", "t", "fg", "otsu_ratio")
    assert threshold.help == "Foreground intensity threshold"
    assert parameters["annotation_format"].choices == ("bbox", "boundary")
    assert parameters["ignore_border"].choices == ("true", "false")
    assert parameters["frame"].default is None
    assert "girderApiUrl" not in parameters
    assert "analysis_roi" not in parameters


def test_a_slicer_command_has_flags_then_outputs_then_what_has_an_index() -> None:
    assert command_line(read("slicer", XML), fg="75.50", ignore_border="true") == [
        "spots",
        *("--annotation_format", "boundary"),
        *("--foreground_threshold", "75.5"),
        *("--min_area", "80"),
        *("--reference_mu_lab", "-8.63234435, -0.11501964, 0.03868433"),
        *("--ignore_border", "true"),
        *("--mask", "/output/outputMask.png"),
        *("--returnparameterfile", "/output/returnparameters.txt"),
        "/input/tile.png",
        "/output/outputAnnotationFile.anot",
    ]


def test_slicer_outputs_with_an_index_are_required() -> None:
    outputs = read("slicer", XML).outputs
    assert outputs.required == ("outputAnnotationFile.anot",)
    assert outputs.optional == ("outputMask.png", "returnparameters.txt")


def executable(*elements: str) -> str:
    image = "<image>\n<name>in</name><channel>input</channel><index>0</index></image>"
    output = (
        "<file fileExtensions='*.csv,.txt'><name>out</name><channel>output</channel><index>9</index></file>"
    )
    parameters = f"<parameters>{image}{output}\n{''.join(elements)}</parameters>"
    return f"<executable><title>T</title>{parameters}</executable>"


def test_slicer_values_may_have_an_index_and_may_be_negative() -> None:
    sigma = "<double><name>sigma</name><index>1</index><default>-1.5</default></double>"
    algorithm = read("slicer", executable(sigma))
    assert command_line(algorithm) == ["spots", "/input/tile.png", "-1.5", "/output/out.csv"]


def test_a_slicer_value_with_an_index_and_no_default_must_be_ordered() -> None:
    algorithm = read("slicer", executable("<integer><name>b</name><index>1</index></integer>"))
    assert command_line(algorithm, b="5")[2] == "5"
    with pytest.raises(InvalidOrder, match="parameter b is missing, expected a whole number"):
        command_line(algorithm)


@pytest.mark.parametrize(
    ("written", "value"), [("True", "true"), ("1", "true"), ("0", "false"), ("", "false")]
)
def test_slicer_booleans_are_read_as_the_format_writes_them(written: str, value: str) -> None:
    flag = f"<boolean><name>b</name><flag>b</flag><default>{written}</default></boolean>"
    assert read("slicer", executable(flag)).parameters["b"].default == value


def test_a_slicer_text_longer_than_ours_is_left_to_the_program() -> None:
    text = f"<string><name>b</name><flag>b</flag><default>{'x' * 201}</default></string>"
    assert read("slicer", executable(text)).parameters["b"].default is None


def test_slicer_booleans_are_flags_alone_where_the_adaptation_says_so() -> None:
    flag = "<boolean><name>b</name><flag>b</flag><default>{}</default></boolean>"
    algorithm = read("slicer", executable(flag.format("false")), booleans="switch")
    assert "-b" not in command_line(algorithm)
    assert command_line(algorithm, b="true")[1:3] == ["-b", "/input/tile.png"]
    with pytest.raises(DescriptorInvalid, match="false with booleans = switch"):
        read("slicer", executable(flag.format("true")), booleans="switch")
    with pytest.raises(DescriptorInvalid, match="value or switch"):
        read("slicer", XML, booleans="maybe")


@pytest.mark.parametrize(
    ("element", "field", "expected"),
    [
        (
            "<boolean><name>b</name><flag>b</flag><default>yes</default></boolean>",
            "parameters.b",
            "one of true",
        ),
        ("<image><name>b</name><longflag>b</longflag></image>", "<image> b", "in as the only one"),
        ("<directory><name>b</name><longflag>b</longflag></directory>", "<directory> b", "one of integer"),
        ("<transform><name>b</name><longflag>b</longflag></transform>", "<transform> b", "one of integer"),
        ("<integer><name>b</name></integer>", "<integer> b", "one of <flag>, <longflag>, <index>"),
        ("<integer><flag/></integer>", "<integer>", "a <name>"),
        ("<integer><name>b</name><index>x</index></integer>", "<integer> b", "a whole number"),
        ("<integer><name>b</name><index>9</index><default>1</default></integer>", "<integer> b", "no other"),
        ("<region><name>b</name><longflag>b</longflag></region>", "<region> b", "a default"),
        ("<string multiple='true'><name>b</name><flag>b</flag></string>", "<string> b", "a single value"),
        ("<file multiple='true'><name>b</name></file>", "<file> b", "a single value"),
        ("<image><name>b</name><channel>both</channel></image>", "<image> b", "channel input or output"),
        ("<table><name>b</name><channel>output</channel></table>", "<table> b", "an image, a file"),
        (
            "<integer><name>b</name><flag>b</flag><constraints><minimum>x</minimum></constraints></integer>",
            "<integer> b",
            "a number",
        ),
        (
            "<integer><name>b</name><flag>b</flag><default>1.5</default></integer>",
            "parameters.b",
            "a whole number",
        ),
        ("<string-enumeration><name>b</name><flag>b</flag></string-enumeration>", "parameters.b", "choices"),
        ("<integer><name>b c</name><flag>b</flag></integer>", "parameters.b c.[key]", "pattern"),
    ],
)
def test_what_slicer_has_and_we_have_not_is_refused_with_its_line(
    element: str, field: str, expected: str
) -> None:
    with pytest.raises(DescriptorInvalid) as caught:
        read("slicer", executable(element))
    assert caught.value.field == field
    assert expected in caught.value.expected
    assert caught.value.path == "file:3"


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("", 1, "XML"),
        ("<a>", 1, "XML"),
        ("<parameters/>", 1, "<executable>"),
        ("<executable/>", 1, "the picture"),
        ("<?xml version='1.0'?>\n<!DOCTYPE a [<!ENTITY b 'c'>]>\n<executable/>", 2, "XML without one"),
        ("<executable>" * 40, 1, "at most 32"),
    ],
)
def test_xml_that_is_no_slicer_description_is_refused(text: str, line: int, expected: str) -> None:
    with pytest.raises(DescriptorInvalid) as caught:
        read("slicer", text)
    assert caught.value.path == f"file:{line}"
    assert expected in caught.value.expected


def test_slicer_xml_needs_a_program_from_beside_it() -> None:
    with pytest.raises(DescriptorInvalid, match=r"import\.toml") as caught:
        FORMATS["slicer"][1](XML, path="file", adaptation={})
    assert caught.value.field == "program"


def test_an_adaptation_is_laid_over_the_description() -> None:
    algorithm = read(
        "slicer",
        XML,
        name="spots",
        image="example/spots:1",
        match=["find spots"],
        limits={"memory_mib": 99},
        parameters={"threshold": {"unit": "grey"}},
        outputs={"mask": "outputMask.png"},
    )
    assert (algorithm.name, algorithm.image, algorithm.match) == ("spots", "example/spots:1", ("find spots",))
    assert algorithm.limits.memory_mib == 99
    assert (algorithm.parameters["threshold"].unit, algorithm.parameters["threshold"].max) == ("grey", 255)
    assert algorithm.outputs.mask == "outputMask.png"
    assert algorithm.outputs.required == ("outputAnnotationFile.anot",)


def test_an_adaptation_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(DescriptorInvalid, match="did you mean limits"):
        read("slicer", XML, limit={})


def test_a_biaflows_workflow_is_run_locally_without_the_servers_values() -> None:
    algorithm = read("biaflows", JSON)
    assert (algorithm.name, algorithm.image) == ("spotsegmentation-test", "dynsvc-test-foreign")
    assert command_line(algorithm, smoothing="7", fill_holes="False") == [
        *("python3", "/app/wrapper.py"),
        *("--infolder", "/input", "--outfolder", "/output", "--gtfolder", "/output", "--local", "-nmc"),
        *("--spot_diameter_range", "15,40", "--smoothing", "7", "--fill_holes", "false"),
    ]
    assert algorithm.input.file_name(".jpg") == "tile.tif"


def biaflows(**changes: Any) -> str:
    return json.dumps({**json.loads(JSON), **changes}, indent=1)


def with_input(**entry: Any) -> str:
    return biaflows(inputs=[{"id": "b", "type": "Number", "optional": True, **entry}])


@pytest.mark.parametrize(
    ("line", "program"),
    [
        ("python wrapper.py CYTOMINE_HOST", ["python", "/app/wrapper.py"]),
        ("python wrapper.py --b @b", ["python", "/app/wrapper.py"]),
        ("python /opt/w.py [CYTOMINE_HOST]", ["python", "/opt/w.py"]),
        ("run {x}", ["run", "{x}"]),
    ],
)
def test_a_biaflows_program_ends_where_its_keys_begin(line: str, program: list[str]) -> None:
    found = command_line(read("biaflows", biaflows(**{"command-line": line})))
    assert found[: found.index("--infolder")] == program


def test_the_tag_of_a_biaflows_image_is_the_version() -> None:
    changed = biaflows(**{"container-image": {"image": "host:5000/a/b:v1.2"}})
    assert read("biaflows", changed).version == "v1.2"
    assert read("biaflows", JSON).version == "0"


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        (biaflows(**{"schema-version": "1.0.0"}), "schema-version", "cytomine-0.1"),
        (biaflows(**{"container-image": "a"}), "container-image", "an object"),
        (biaflows(**{"command-line": "--a"}), "command-line", "a program"),
        (biaflows(**{"command-line": "a 'b"}), "command-line", "a program"),
        (biaflows(inputs={}), "inputs", "a list of objects"),
        (biaflows(name=""), "name", "a text"),
        (with_input(type="Image"), "b.type", "Number, String or Boolean"),
        (with_input(**{"set-by-server": True, "optional": False}), "b", "an order can give"),
        (with_input(default="x"), "parameters.b", "a number"),
        (with_input(**{"command-line-flag": "b"}), "parameters.b.flag", "pattern"),
    ],
)
def test_what_biaflows_has_and_we_have_not_is_refused_with_its_line(
    text: str, field: str, expected: str
) -> None:
    with pytest.raises(DescriptorInvalid) as caught:
        read("biaflows", text)
    assert caught.value.field == field
    assert expected in caught.value.expected
    number = int(caught.value.path.rpartition(":")[2])
    assert f'"{"b" if "b" in field.split(".") else field}"' in text.splitlines()[number - 1]


@pytest.mark.parametrize("text", ["{", "[]", "1"])
def test_json_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(DescriptorInvalid, match="JSON"):
        read("biaflows", text)


def test_grand_challenge_sockets_become_files_below_input() -> None:
    algorithm = read("grand-challenge", TOML)
    assert algorithm.input.file_name(".jpg") == "images/histopathology-region/tile.tif"
    values = fill(algorithm.parameters, {"fast": "true"}, "14").values
    files = filled(algorithm.input.files, PLACES, algorithm.parameters, values)
    assert files["detection-threshold.json"] == 0.5
    assert files["stain-name.json"] == "HE"
    assert files["fast.json"] is True
    listed = files["inputs.json"]
    assert [entry["socket"]["slug"] for entry in listed] == [
        "histopathology-region",
        "detection-threshold",
        "stain",
        "fast",
    ]
    assert listed[0]["image"] == {"name": "tile.tif"}
    assert [entry["value"] for entry in listed[1:]] == [0.5, "HE", True]
    assert all(entry["interface"] == entry["socket"] for entry in listed)
    assert algorithm.outputs.required == ("images/spot-mask/*", "spot-count.json")
    assert algorithm.outputs.optional == ("images/spot-heat/*",)
    assert algorithm.limits.memory_mib == 512


def test_a_value_without_default_must_be_ordered() -> None:
    socket = TOML.replace("default = 0.5\n", "")
    for algorithm, name in (
        (read("biaflows", with_input(optional=False)), "b"),
        (read("grand-challenge", socket), "detection-threshold"),
    ):
        with pytest.raises(InvalidOrder, match=f"parameter {name} is missing"):
            fill(algorithm.parameters, {}, "14")
        assert fill(algorithm.parameters, {name: "1"}, "14").values[name] == "1"


@pytest.mark.parametrize(
    ("old", "new", "line", "field"),
    [
        ('kind = "Float"', 'kind = "Chart"', 13, "inputs.kind"),
        ('kind = "Float"', 'kind = "Image"', 13, "inputs.kind"),
        ('kind = "Image"', 'kind = "Float"', 8, "inputs"),
        ('kind = "Float"', "", 13, "inputs.kind"),
        ('slug = "spot-count"', "slug = 5", 38, "outputs.slug"),
        ("minimum = 0", "minimun = 0", 13, "inputs.minimun"),
        ("default = 0.5\n", "default = 5\n", 13, "parameters.detection-threshold"),
        ("memory_mib = 512", "memory_mib = 1", 48, "limits.memory_mib"),
        ('version = "2.1"', 'version = "2 1"', 4, "version"),
        ('version = "2.1"', "version = ", 4, "the file"),
        ('program = ["gc_spots", "{input_dir}", "{output_dir}"]', 'program = "a b"', None, "program"),
        ('program = ["gc_spots", "{input_dir}", "{output_dir}"]', "", None, "program"),
        ('relative_path = "images/spot-mask"', 'relative_path = "../a"', None, "outputs.required.0"),
    ],
)
def test_a_wrong_socket_is_named_with_its_line(old: str, new: str, line: int | None, field: str) -> None:
    assert old in TOML
    with pytest.raises(DescriptorInvalid) as caught:
        read("grand-challenge", TOML.replace(old, new, 1))
    assert caught.value.field == field
    if line is not None:
        assert caught.value.path == f"file:{line}"


def test_the_examples_in_the_reference_are_what_they_say() -> None:
    reference = Path(__file__).parents[2] / "docs" / "reference" / "descriptor.md"
    *_, adaptation, sockets = (
        block.partition("```")[0] for block in reference.read_text(encoding="utf-8").split("```toml\n")[1:]
    )
    assert read("slicer", XML, **tomllib.loads(adaptation)).command[0] == "python"
    assert read("grand-challenge", sockets).outputs.required == ("images/spot-mask/*", "spot-count.json")
