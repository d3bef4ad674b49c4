from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynsvc.kue.encoding import LINE_CHARACTERS, is_truthy, log_line, number_text, stringify

#: Values and what ``JSON.stringify`` of Node 20 makes of them.
TABLE = [
    (None, "null"),
    (True, "true"),
    (0, "0"),
    (-0.0, "0"),
    (1.0, "1"),
    (1.5, "1.5"),
    (1e16, "10000000000000000"),
    (1e20, "100000000000000000000"),
    (1e21, "1e+21"),
    (1.5e300, "1.5e+300"),
    (1e-5, "0.00001"),
    (1.25e-6, "0.00000125"),
    (-1e-7, "-1e-7"),
    (1.5e-9, "1.5e-9"),
    (0.1, "0.1"),
    (float("nan"), "null"),
    (float("inf"), "null"),
    ("é日😀", '"é日😀"'),
    ('"\\/', '"\\"\\\\/"'),
    ("\b\f\n\r\t\x00\x1f\x7f\u2028", '"\\b\\f\\n\\r\\t\\u0000\\u001f\x7f\u2028"'),
    ("\ud800x", '"\\ud800x"'),
    ([], "[]"),
    ({}, "{}"),
    ((1, [2.0, {"é": None}]), '[1,[2,{"é":null}]]'),
]


@pytest.mark.parametrize(("value", "text"), TABLE)
def test_values_are_written_as_javascript_does(value: object, text: str) -> None:
    assert stringify(value) == text


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(_json)
def test_what_is_written_reads_back_as_the_same_value(value: object) -> None:
    assert json.loads(stringify(value)) == value


@pytest.mark.parametrize("value", [b"x", {1: 2}, {1, 2}, object(), [object()]])
def test_what_is_no_json_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        stringify(value)


def test_numbers_that_are_none_have_javascripts_names() -> None:
    assert [number_text(float(x)) for x in ("nan", "inf", "-inf")] == ["NaN", "Infinity", "-Infinity"]


@pytest.mark.parametrize("value", [None, False, 0, 0.0, -0.0, float("nan"), ""])
def test_what_javascript_takes_for_false(value: object) -> None:
    assert not is_truthy(value)


@pytest.mark.parametrize("value", [True, 1, -0.5, "0", "false", [], {}, [0], {"a": None}])
def test_what_javascript_takes_for_true(value: object) -> None:
    assert is_truthy(value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain é 日本", "plain é 日本"),
        # Kue's page inserts lines as HTML and fills in words in braces.
        ("<b>{id}</b>&amp;", "\u2039b>\u2774id}\u2039/b>&amp;"),
        # Terminal colours and titles, carriage returns of progress bars, tabs.
        ("\x1b[1;31mred\x1b[0m \x1b]0;title\x07end", "red end"),
        ("10%\r20%\tdone\n", "10% 20% done"),
        # Text direction and line separators.
        ("a\u202eb\u2028c", "a b c"),
        ("half \ud83d", "half \ufffd"),
        ("", ""),
    ],
)
def test_log_lines_show_as_they_are(text: str, line: str) -> None:
    assert log_line(text) == line


@given(st.text())
def test_no_log_line_is_markup_or_too_long(text: str) -> None:
    line = log_line(text)
    assert not set("<{\n\r\x1b\x00") & set(line)
    assert len(line) <= LINE_CHARACTERS
    line.encode()


def test_a_very_long_line_is_cut() -> None:
    assert log_line("x" * 10_000_000) == "x" * (LINE_CHARACTERS - 1) + "…"
