from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynsvc.errors import InvalidOrder, from_document, to_document
from dynsvc.identifiers import is_id
from dynsvc.orders import MAX_DATA_CHARACTERS, Order, parse_order, safe_name
from dynsvc.regions import RegionRequest
from tests.support.orders import (
    ABSENT,
    CASE_ID,
    EXECUTION_ID,
    MALFORMED,
    VARIANTS,
    VIEWER_DEFAULTS,
    Malformed,
    changed,
    v0,
    v1,
    v2,
    v3,
    v4,
)


def read(document: object, job_type: str = "analysisJob") -> Order:
    return parse_order("14", job_type, json.dumps(document))


def without_texts(value: object) -> object:
    """Turn every decimal text and every true or false into a number or boolean."""
    if isinstance(value, dict):
        return {key: without_texts(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_texts(entry) for entry in value]
    try:
        return json.loads(str(value)) if str(value) not in ("", "null") else value
    except ValueError:
        return value


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_nested_variant_gives_ids_and_region(variant):
    job_type, build = VARIANTS[variant]
    order = read(build(), job_type)
    assert (order.job_id, order.job_type, order.case_id) == ("14", job_type, CASE_ID)
    assert order.subject_id == CASE_ID
    assert order.source == "image_server"
    assert order.roi == RegionRequest(kind="pixels", x=23198, y=15209, width=207, height=141)


@pytest.mark.parametrize("variant", VARIANTS)
def test_numbers_mean_the_same_as_texts(variant):
    job_type, build = VARIANTS[variant]
    assert read(without_texts(build()), job_type) == read(build(), job_type)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_order_survives_its_document(variant):
    job_type, build = VARIANTS[variant]
    order = read(build(), job_type)
    assert Order.from_document(json.loads(json.dumps(order.to_document()))) == order


def test_v0_is_refused_with_what_to_send():
    with pytest.raises(InvalidOrder) as caught:
        read(v0())
    assert str(caught.value) == (
        "order 14: data.order is missing, expected the nested order that viewers send since June 2016 "
        "(data.order.image, .roi, .execution), not the flat input and output of the viewer of May 2016"
    )


def test_v1_has_no_parameters_of_effect():
    order = read(v1(), "order")
    assert (order.execution_id, order.algorithm) == ("first-try", "SuperSegmenter")
    assert order.parameters == {}
    assert order.remarks == (
        "parameter blur of the viewer of 2016 has no effect and is ignored",
        "parameter format of the viewer of 2016 has no effect and is ignored",
        "the order has no image.subject_id: image.case_id is used",
        "image.width and image.height are constants of the viewer and not used",
    )


def test_a_parameter_named_format_of_a_later_order_is_kept():
    document = changed(v4(), "data.order.execution.parameters", [{"format": "png"}])
    assert read(document).parameters["format"] == "png"


def test_v2_names_the_algorithm_and_v3_the_execution():
    assert (read(v2()).algorithm, read(v2()).parameters["j"]) == ("SuperSegmenter", "N")
    assert (read(v3()).algorithm, read(v3()).parameters["j"]) == (EXECUTION_ID, "Y")


def test_v4_is_read_field_by_field():
    order = read(v4())
    assert order == Order(
        job_id="14",
        job_type="analysisJob",
        case_id=CASE_ID,
        subject_id=CASE_ID,
        execution_id=EXECUTION_ID,
        algorithm=EXECUTION_ID,
        title="title1 :: ",
        roi=RegionRequest(kind="pixels", x=23198, y=15209, width=207, height=141),
        parameters=VIEWER_DEFAULTS,
        remarks=("image.width and image.height are constants of the viewer and not used",),
    )


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        # where the algorithm's name comes from
        ("data.order.execution.algorithm", "nuclei", "nuclei"),
        ("data.order.execution.algorithm", ABSENT, "outer"),
        ("data.order.execution", ABSENT, "outer"),
    ],
)
def test_the_inner_algorithm_comes_before_the_outer(path, value, expected):
    document = changed(v4(algorithm="outer"), path, value)
    assert read(document).algorithm == expected


def test_the_execution_id_stands_in_for_a_missing_algorithm():
    document = changed(changed(v4(), "data.algorithm", ABSENT), "data.order.execution.algorithm", "")
    assert read(document).algorithm == EXECUTION_ID


def test_the_inner_execution_id_stands_in_for_a_missing_outer_one():
    document = changed(v4(), "data.execution_id", "")
    assert read(document).execution_id == EXECUTION_ID


def test_two_execution_ids_give_a_remark_and_the_outer_wins():
    order = read(changed(v4(), "data.execution_id", "mine"))
    assert order.execution_id == "mine"
    assert (
        f"data.order.execution.execution_id is '{EXECUTION_ID}' and data.execution_id is 'mine': "
        "data.execution_id is used"
    ) in order.remarks


def test_flat_parameters_win_over_the_list_and_a_conflict_is_remarked():
    order = read(changed(v4(), "data.order.pw", "0.5"))
    assert order.parameters["w"] == "0.5"
    assert "parameter w is '0.8' in execution.parameters and '0.5' in pw: pw is used" in order.remarks


def test_listed_parameters_count_where_there_is_no_flat_copy():
    document = changed(
        v4(parameters={}), "data.order.execution.parameters", [{"r": 1.5}, {"stain": "HE", "n": "3"}]
    )
    assert read(document).parameters == {"r": "1.5", "stain": "HE", "n": "3"}


def test_parameters_may_be_one_object():
    document = changed(v4(parameters={}), "data.order.execution.parameters", {"r": "1.5", "fast": True})
    assert read(document).parameters == {"r": "1.5", "fast": "true"}


def test_pixel_size_comes_from_pm():
    assert read(v4()).mpp_um is None
    assert read(changed(v4(), "data.order.pm", "")).mpp_um is None
    assert read(changed(v4(), "data.order.pm", "0.2525")).mpp_um == 0.2525


@pytest.mark.parametrize("yes", [True, "true"])
@pytest.mark.parametrize(
    ("flag", "roi"),
    [
        # each flag is read from its own key
        ("full", RegionRequest(kind="full")),
        ("square", RegionRequest(kind="square")),
        ("pct", RegionRequest(kind="pct", x=10, y=20.5, width=30, height=40)),
    ],
)
def test_each_region_flag_is_read_from_its_own_key(flag, roi, yes):
    document = v4()
    document["order"]["roi"] |= {"x": "10", "y": "20.5", "w": "30", "h": 40, flag: yes}
    assert read(document).roi == roi


@pytest.mark.parametrize("no", [False, "false", "", None, ABSENT])
@pytest.mark.parametrize("flag", ["full", "square", "pct"])
def test_a_flag_that_is_not_set_leaves_the_pixels(flag, no):
    assert read(changed(v4(), f"data.order.roi.{flag}", no)).roi.kind == "pixels"


@pytest.mark.parametrize("flag", ["full", "square"])
def test_numbers_of_a_region_do_not_matter_where_a_flag_replaces_them(flag):
    document = changed(changed(v4(), "data.order.roi.x", "rubbish"), f"data.order.roi.{flag}", "true")
    assert read(document).roi.kind == flag


@pytest.mark.parametrize(
    ("value", "pixels"),
    [
        ("12", 12),
        (12, 12),
        (12.0, 12),
        ("12.0", 12),
        ("12.", 12),
        ("+12", 12),
        ("-5", -5),  # begins left of the slide: clipped later
        ("-0", 0),
        ("007", 7),
        (2**31 - 1, 2**31 - 1),
    ],
)
def test_whole_numbers_are_read_in_any_notation(value, pixels):
    assert read(changed(v4(), "data.order.roi.x", value)).roi.x == pixels


def test_the_size_that_the_viewer_sends_is_not_even_looked_at():
    assert read(changed(v4(), "data.order.image.width", "rubbish")).case_id == CASE_ID


@pytest.mark.parametrize("subject", ["", None, ABSENT])
def test_the_case_is_the_subject_where_none_is_named(subject):
    assert read(changed(v4(), "data.order.image.subject_id", subject)).subject_id == CASE_ID


@pytest.mark.parametrize(
    "text",
    [
        "seg:r1:w0.8:l3:u10:k20:j0",
        "Slide 7 (copy)",
        "Schnitt-Ä",
        "A\u0308",
        "患者12",
        "a@b#c",
        "17032547",
        "x" * 200,
    ],
)
def test_ids_of_real_sites_are_taken_as_they_are(text):
    order = read(v4(case_id=text, execution_id=text))
    assert (order.case_id, order.execution_id) == (text, text)


def test_a_number_can_be_an_id():
    assert read(changed(v4(), "data.order.image.case_id", 17032547)).case_id == "17032547"


def test_a_slide_file_is_named_by_its_location():
    document = v4()
    document["order"]["image"] |= {"source": "file", "location": "batch 1/it's a slide.svs"}
    order = read(document)
    assert (order.source, order.location) == ("file", "batch 1/it's a slide.svs")


@pytest.mark.parametrize(
    "location",
    ["", "/etc/passwd", "../x.svs", "a/../x.svs", "a//b", "./a", "a\\b", "a\x00b", "a" * 1001, None, {}],
)
def test_a_location_outside_the_slides_folder_is_refused(location):
    document = v4()
    document["order"]["image"] |= {"source": "file", "location": location}
    with pytest.raises(InvalidOrder) as caught:
        read(document)
    assert caught.value.field == "data.order.image.location"


def test_a_location_without_source_file_is_ignored_with_a_remark():
    order = read(changed(v4(), "data.order.image.location", "/etc/passwd"))
    assert (order.source, order.location) == ("image_server", None)
    assert "image.location is only for image.source file and ignored" in order.remarks


def test_long_notes_are_cut_with_a_remark_and_lose_control_characters():
    order = read(changed(v4(), "data.notes", "a\x1b\n" + "b" * 5000))
    assert order.notes == "a  " + "b" * 997
    assert "data.notes has 5003 characters: the first 1000 are kept" in order.remarks


def test_notes_keep_letters_and_blanks_of_all_kinds():
    text = "Rand\u00a0links\u2003\u00fc"
    assert read(changed(v4(), "data.notes", text)).notes == text


def test_a_key_that_comes_twice_is_the_last_one():
    text = json.dumps(v4()).replace('"x": "23198"', '"x": "1", "x": "2"')
    assert parse_order("14", "analysisJob", text).roi.x == 2


def test_brackets_inside_texts_are_no_nesting():
    assert read(changed(v4(), "data.notes", "[" * 500)).notes == "[" * 500


def test_many_brackets_side_by_side_are_no_nesting():
    assert read(changed(v4(), "data.order.metadata", [[{}]] * 500)).case_id == CASE_ID


def test_the_largest_text_is_still_read():
    document = changed(v4(), "data.notes", "")
    padding = MAX_DATA_CHARACTERS - len(json.dumps(document))
    assert read(changed(v4(), "data.notes", "x" * padding)).case_id == CASE_ID


@pytest.mark.parametrize(
    ("title", "notes", "description"),
    [
        ("title1 :: ", "", EXECUTION_ID),  # constant of the viewer
        ("title1 :: ", "left margin", "left margin"),
        ("My title", "left margin", "My title"),
        ('--"quoted", \\ and; more', "", "quoted and more"),
        ("x" * 300, "", "x" * 100),
    ],
)
def test_the_description_needs_no_escaping(title, notes, description):
    order = read(changed(changed(v4(), "data.title", title), "data.notes", notes))
    assert order.description == description


def test_there_are_at_least_sixty_malformed_documents():
    assert len(MALFORMED) >= 60
    assert len({row.why for row in MALFORMED}) == len(MALFORMED)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.why) for row in MALFORMED])
def test_malformed_data_is_refused_with_the_field(row: Malformed):
    with pytest.raises(InvalidOrder) as caught:
        parse_order("14", "analysisJob", row.text)
    error = caught.value
    assert error.field == row.field
    assert len(str(error)) < 600
    assert str(error).isprintable()
    assert str(error).startswith(f"order 14: {row.field} is ")
    # It travels as JSON, and stays short there too.
    document = json.dumps(to_document(error))
    assert len(document) < 2000
    assert str(from_document(json.loads(document))) == str(error)


@pytest.mark.parametrize("job_id", ["", "../1", "1 2", "a/b", "1\n", "x" * 65])
def test_a_job_id_that_cannot_be_a_file_name_is_refused(job_id):
    with pytest.raises(InvalidOrder) as caught:
        parse_order(job_id, "order", json.dumps(v4()))
    assert caught.value.field == "id"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=5,
)
paths = st.sampled_from(
    [
        "data.algorithm",
        "data.execution_id",
        "data.title",
        "data.order",
        "data.order.image",
        "data.order.image.case_id",
        "data.order.image.subject_id",
        "data.order.image.source",
        "data.order.roi",
        "data.order.roi.x",
        "data.order.roi.w",
        "data.order.roi.full",
        "data.order.execution",
        "data.order.execution.parameters",
        "data.order.pr",
        "data.order.pm",
    ]
)


@given(path=paths, value=json_values)
def test_any_value_anywhere_gives_an_order_or_an_error_with_a_field(path, value):
    try:
        order = read(changed(v4(), path, value))
    except InvalidOrder as error:
        assert error.field.startswith("data")  # noqa: PT017
    else:
        assert is_id(order.case_id)
        assert Order.from_document(json.loads(json.dumps(order.to_document()))) == order


@pytest.mark.parametrize("name", ["TCGA-02-0001", "a.b_c-d", "14", "x" * 100])
def test_a_good_name_stays(name):
    assert safe_name(name) == name


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("seg:r1:w0.8", "seg_r1_w0.8-"),
        ("../../x", "_.._.._x-"),
        ("-rf", "_-rf-"),
        (".hidden", "_.hidden-"),
        ("", "_-"),
        ("ä b", "__b-"),
        ("x" * 101, "x" * 91 + "-"),
        ("\ud800", "_-"),
    ],
)
def test_other_texts_become_names_with_a_digest(text, start):
    assert safe_name(text).startswith(start)
    assert len(safe_name(text)) == len(start) + 8


@given(st.text(), st.text())
def test_names_are_safe_and_different_for_different_texts(first, second):
    name = safe_name(first)
    assert name.isascii()
    assert 1 <= len(name) <= 100
    assert name[0] not in ".-"
    assert all(c.isalnum() or c in "._-" for c in name)
    assert (name == safe_name(second)) == (first == second)


def test_the_example_in_the_reference_is_an_order():
    text = (Path(__file__).parents[2] / "docs" / "reference" / "order.md").read_text(encoding="utf-8")
    order = parse_order("14", "analysisJob", text.split("```json\n")[1].split("```")[0])
    assert (order.algorithm, order.parameters, order.remarks) == ("nuclei", {"r": "1.0", "l": "3"}, ())
