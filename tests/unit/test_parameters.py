from __future__ import annotations

import math

import pytest
from hypothesis import given as given_values
from hypothesis import strategies as st
from pydantic import ValidationError

from dynsvc.errors import InvalidOrder
from dynsvc.parameters import Parameter, argv, fill, plain

RATIO = Parameter(flag="-r", type="number", default=1.0, above=0, max=10, aliases=("otsu_ratio",))
LEAST = Parameter(flag="-l", type="number", default="3", min=0, unit="µm²")
COUNT = Parameter(flag="-n", type="integer", default=100, min=0, max=1000)
SPLIT = Parameter(flag="-j", type="choice", choices=("0", "1", "2"), default=0, map={"N": "0", "Y": "2"})
MODEL = Parameter(flag="--model", type="text")
ALL = {"r": RATIO, "l": LEAST, "n": COUNT, "j": SPLIT, "model": MODEL}


def test_an_empty_order_gets_the_defaults_in_the_descriptors_order():
    values, remarks = fill(ALL, {}, "14")
    assert list(values.items()) == [("r", "1"), ("l", "3"), ("n", "100"), ("j", "0")]
    assert remarks == ()


def test_flag_and_value_are_separate_arguments_and_missing_ones_are_left_out():
    assert argv(ALL, {"model": "a b", "r": "1.5"}) == ["-r", "1.5", "--model", "a b"]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("r", "1", "1"),
        ("r", "1.0", "1"),
        ("r", "0.80", "0.8"),
        ("r", ".5", "0.5"),
        ("r", " 2 ", "2"),
        ("r", "1e-05", "0.00001"),
        ("r", "1E1", "10"),
        ("r", "+3", "3"),
        ("l", "-0.0", "0"),
        ("l", "1e21", "1000000000000000000000"),
        ("n", "20.0", "20"),
        ("n", "1e2", "100"),
        ("j", "2", "2"),
        ("j", "N", "0"),
        ("j", "Y", "2"),
        ("model", "he v2; $(reboot)", "he v2; $(reboot)"),  # no shell will ever see it
        ("model", "", ""),
    ],
)
def test_values_get_their_shortest_plain_form(name, text, value):
    assert fill(ALL, {name: text}, "14").values[name] == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r", ""),
        ("r", "abc"),
        ("r", "1,5"),
        ("r", "1px"),
        ("r", "nan"),
        ("r", "inf"),
        ("r", "1e999"),
        ("r", "0"),  # must be above 0
        ("r", "-1"),
        ("r", "10.0001"),
        ("r", "0x1"),
        ("r", "1_0"),
        ("r", "\u0661"),  # a digit of another script
        ("r", "9" * 201),
        ("l", "-0.1"),
        ("n", "1.5"),
        ("n", "1001"),
        ("j", "3"),
        ("j", "y"),
        ("j", ""),
        ("model", "-v"),
        ("model", "a\x00b"),
        ("model", "a\nb"),
        ("model", "a" * 201),
    ],
)
def test_other_values_are_refused_with_field_and_range(name, text):
    with pytest.raises(InvalidOrder) as caught:
        fill(ALL, {name: text}, "14")
    assert caught.value.order_id == "14"
    assert caught.value.field == f"parameter {name}"
    assert caught.value.expected == ALL[name].expected


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        (RATIO, "a number above 0 and at most 10"),
        (LEAST, "a number from 0 (µm²)"),
        (COUNT, "a whole number from 0 to 1000"),
        (SPLIT, "one of 0, 1, 2, N, Y"),
        (MODEL, "at most 200 printable characters that do not begin with -"),
    ],
)
def test_the_range_is_a_readable_sentence(parameter, expected):
    assert parameter.expected == expected


def test_an_unknown_name_is_ignored_with_a_remark():
    values, remarks = fill({"r": RATIO}, {"q": "7"}, "14")
    assert values == {"r": "1"}
    assert remarks == ("parameter q = '7' is unknown to the algorithm and ignored",)


def test_the_pixel_size_is_no_unknown_name():
    assert fill({"r": RATIO}, {"m": "0.25"}, "14").remarks == ()


def test_an_alias_stands_for_the_name():
    assert fill({"r": RATIO}, {"otsu_ratio": "1.5"}, "14") == ({"r": "1.5"}, ())


def test_the_name_wins_over_its_alias_and_a_conflict_is_remarked():
    values, remarks = fill({"r": RATIO}, {"otsu_ratio": "1.5", "r": "2"}, "14")
    assert values == {"r": "2"}
    assert remarks == ("parameter otsu_ratio is '1.5' and parameter r is '2': r is used",)


def test_an_upper_size_below_the_lower_is_the_algorithms_to_judge():
    # In the original the upper size only selects what is split; it is no contradiction.
    assert fill({"l": LEAST, "u": LEAST}, {"l": "30", "u": "1"}, "14").values == {"l": "30", "u": "1"}


@pytest.mark.parametrize(
    "declared",
    [
        {"flag": "r", "type": "number"},  # no flag
        {"flag": "-r x", "type": "number"},
        {"flag": "-r", "type": "float"},
        {"flag": "-r", "type": "choice"},  # no choices
        {"flag": "-r", "type": "number", "choices": ["1"]},
        {"flag": "-r", "type": "text", "min": 1},
        {"flag": "-r", "type": "number", "min": 2, "max": 1},
        {"flag": "-r", "type": "number", "min": math.nan},
        {"flag": "-r", "type": "number", "default": 5, "max": 4},
        {"flag": "-r", "type": "integer", "default": 1.5},
        {"flag": "-r", "type": "number", "default": True},
        {"flag": "-r", "type": "choice", "choices": ["0"], "default": "1"},
        {"flag": "-r", "type": "choice", "choices": ["0"], "map": {"N": "3"}},
        {"flag": "-r", "type": "text", "default": "-v"},
        {"flag": "-r", "type": "number", "minimum": 1},  # no such field
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(declared):
    with pytest.raises(ValidationError):
        Parameter.model_validate(declared)


@given_values(st.floats(allow_nan=False, allow_infinity=False))
def test_plain_numbers_read_back_and_have_no_exponent(number):
    text = plain(number)
    assert float(text) == number
    assert "e" not in text.lower()
    assert not text.endswith(".")


@given_values(st.text())
def test_a_value_is_canonical_once_and_never_looks_like_a_flag(text):
    for parameter in ALL.values():
        value = parameter.canonical(text)
        if value is not None:
            assert parameter.canonical(value) == value
            assert not value.startswith("-")
