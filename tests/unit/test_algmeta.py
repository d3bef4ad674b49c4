from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynsvc.algmeta import KEYS, Found, corrected, found
from dynsvc.errors import OutputRefused
from dynsvc.outputs import OutputFile

PREFIX = "TCGA-1.TCGA-1.1001272994_mpp_0.25_x100_y200"
#: As the program writes it for a picture of 300 x 400 px: as if that were the slide, patch_width = height.
VALUES = {
    "input_type": "img",
    "otsu_ratio": "0.9",
    "curvature_weight": "0.80",
    "min_size": "3",
    "max_size": "200",
    "ms_kernel": "20",
    "declump_type": "0",
    "levelset_num_iters": "100",
    "mpp": "0.25",
    "image_width": "300",
    "image_height": "400",
    "tile_minx": "100",
    "tile_miny": "200",
    "tile_width": "300",
    "tile_height": "400",
    "patch_minx": "100",
    "patch_miny": "200",
    "patch_width": "400",
    "patch_height": "400",
    "output_level": "mask",
    "out_file_prefix": PREFIX,
    "subject_id": "TCGA-1",
    "case_id": "TCGA-1",
    "analysis_id": "seg:r1",
    "analysis_desc": "",
}
TEXTS = ("input_type", "output_level", *KEYS[KEYS.index("out_file_prefix") :])
RIGHT = {"image_width": "48002", "image_height": "35558", "patch_width": "300", "mpp": "0.2525"}
SLIDE = {"image_width_px": 48002, "image_height_px": 35558, "mpp_um": 0.2525}
UNKNOWN = {"image_width_px": None, "image_height_px": None, "mpp_um": None}


def as_json(values: dict[str, str]) -> bytes:
    """Write as the program does: nothing is escaped."""
    parts = [f'"{key}" : ' + (f'"{value}"' if key in TEXTS else value) for key, value in values.items()]
    return ("{ " + ", ".join(parts) + " }\n").encode("utf-8", "surrogateescape")


def as_csv(values: dict[str, str]) -> bytes:
    return f"{','.join(values)}\n{','.join(values.values())}\n".encode("utf-8", "surrogateescape")


def test_the_slides_size_and_the_patchs_width_are_put_right_and_nothing_else():
    assert corrected(as_json(VALUES), **SLIDE) == as_json(VALUES | RIGHT)


def test_the_table_is_put_right_in_the_same_cells():
    name = f"{PREFIX}-algmeta.csv"
    assert corrected(as_csv(VALUES), name=name, **SLIDE) == as_csv(VALUES | RIGHT)


def test_what_nobody_knows_stays_as_it_is():
    assert corrected(as_json(VALUES), **UNKNOWN) == as_json(VALUES | {"patch_width": "300"})


def test_half_a_size_is_no_size():
    partly = {"image_width_px": 48002, "image_height_px": None, "mpp_um": None}
    assert corrected(as_json(VALUES), **partly) == as_json(VALUES | {"patch_width": "300"})


@pytest.mark.parametrize("input_type", ["wsi", "tiles", "onetile"])
def test_the_patchs_width_of_other_modes_is_right_already(input_type):
    values = VALUES | {"input_type": input_type}
    assert corrected(as_json(values), **UNKNOWN) == as_json(values)


def test_keys_that_the_file_lacks_are_not_added():
    values = {key: value for key, value in VALUES.items() if key != "mpp"}
    assert "mpp" not in json.loads(corrected(as_json(values), **SLIDE))


def test_further_keys_and_nested_values_stay():
    document = json.dumps({**VALUES, "extra": {"n": [1.50, None, True, "ä"]}}).replace("1.5", "1.50").encode()
    text = corrected(document, **UNKNOWN).decode()
    assert '"extra" : {"n": [1.50, null, true, "ä"]}' in text


def test_unescaped_quotes_and_backslashes_are_escaped():
    values = VALUES | {"analysis_desc": 'the "best" of C:\\new', "subject_id": 'a"b'}
    document = json.loads(corrected(as_json(values), **SLIDE))
    assert document["analysis_desc"] == 'the "best" of C:\\new'
    assert document["subject_id"] == 'a"b'
    assert (document["image_width"], document["case_id"]) == (48002, "TCGA-1")


def test_what_looks_like_a_key_inside_a_value_is_none():
    values = VALUES | {"subject_id": 'a" b, "mpp" : 9, "tile_width" : 1, "c'}
    document = json.loads(corrected(as_json(values), **UNKNOWN))
    assert document["subject_id"] == values["subject_id"]
    assert (document["mpp"], document["patch_width"], document["case_id"]) == (0.25, 300, "TCGA-1")


def test_a_line_feed_in_a_value_leaves_one_line():
    text = corrected(as_json(VALUES | {"analysis_desc": "two\nlines"}), **SLIDE)
    assert text.count(b"\n") == 1
    assert json.loads(text)["analysis_desc"] == "two\nlines"


def test_the_older_programs_name_of_declumping_is_known():
    values = {("do_declump" if key == "declump_type" else key): value for key, value in VALUES.items()}
    broken = values | {"analysis_desc": 'a "quote"'}
    assert json.loads(corrected(as_json(broken), **SLIDE))["do_declump"] == 0


def test_a_number_that_is_none_becomes_null():
    assert json.loads(corrected(as_json(VALUES | {"otsu_ratio": "nan"}), **UNKNOWN))["otsu_ratio"] is None


def test_bytes_that_are_no_utf8_come_through():
    values = VALUES | {"analysis_desc": b"\xe4".decode("utf-8", "surrogateescape")}
    assert corrected(as_json(values), **SLIDE) == as_json(values | RIGHT)


@pytest.mark.parametrize(
    "text",
    [b"", b"null", b"[]", b"{", b"<html>", b'{ "input_type" : "img" ', b"[" * 100_000, as_json(VALUES)[:-3]],
)
def test_what_is_no_such_file_is_a_value_error(text):
    with pytest.raises(ValueError, match="algmeta"):
        corrected(text, **SLIDE)


@pytest.mark.parametrize("text", [b"", b"\n", b"a,b\n1,2\n", as_csv(VALUES).splitlines(keepends=True)[0]])
def test_a_table_without_the_fields_stays(text):
    assert corrected(text, name="x-algmeta.csv", **SLIDE) == text


def test_commas_in_the_texts_of_a_table_move_nothing():
    values = VALUES | {"analysis_desc": "a,b,c"}
    assert corrected(as_csv(values), name="x.csv", **SLIDE) == as_csv(values | RIGHT)


@given(st.dictionaries(st.sampled_from(TEXTS[2:]), st.text(st.characters(codec="utf-8"), max_size=30)))
def test_any_texts_are_corrected_once_for_all(texts):
    raw = as_json(VALUES | texts)
    once = corrected(raw, **SLIDE)
    assert corrected(once, **SLIDE) == once
    assert json.loads(once)["image_width"] == 48002


def table(content):
    return lambda: io.BytesIO(content)


def test_rows_are_objects():
    first = table(b"AreaInPixels,Polygon\n12,[1:2]\n13,[3:4]\n\n")
    second = table(b"AreaInPixels,Polygon\r\n12,[1:2]")
    assert found(masks=["a-seg.png"], tables=[first, second]) == Found(3)


def test_a_mask_without_a_table_means_nothing_found():
    result = found(masks=["a-seg.png"], tables=[])
    assert result.objects == 0
    assert result.remarks == ("nothing found in this region: the mask is empty and there is no table",)


@pytest.mark.parametrize("content", [b"", b"AreaInPixels,Polygon\n", b"\n\n"])
def test_a_table_without_rows_means_nothing_found(content):
    assert found(masks=["a-seg.png"], tables=[table(content)]) == Found(0)


def test_no_mask_and_no_table_tells_nothing():
    result = found(masks=[], tables=[])
    assert result.objects is None
    assert result.remarks == ("the result has neither mask nor table",)


def test_a_table_without_a_mask_is_remarked():
    only = table(b"AreaInPixels\n1\n")
    assert found(masks=[], tables=[only]) == Found(1, ("the result has a table and no mask",))


def test_a_table_that_has_become_a_link_is_not_followed(tmp_path):
    (tmp_path / "rows.csv").write_text("AreaInPixels\n1\n")
    (tmp_path / "output").mkdir()
    (tmp_path / "output/a.csv").symlink_to(tmp_path / "rows.csv")
    swapped = OutputFile(algorithm="seg", folder=tmp_path / "output", name="a.csv", size_bytes=15)
    with pytest.raises(OutputRefused):
        found(masks=[], tables=[swapped.open])
