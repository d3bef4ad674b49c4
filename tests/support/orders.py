"""Job data as the viewer's versions send it, and documents that are no orders.

Every leaf is a string: the viewer's server decodes a form and encodes it again.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

Document = dict[str, Any]

CASE_ID = "TCGA-02-0001-01Z-00-DX1"
EXECUTION_ID = "seg:r1:w0.8:l3:u10:k20:j0"
#: What the viewer's form holds before anybody moves a slider.
VIEWER_DEFAULTS = {"r": "1", "w": "0.8", "l": "3", "u": "10", "k": "20", "j": "0"}
ABSENT = object()


def v0(*, case_id: str = CASE_ID, x: int = 23198, y: int = 15209, w: int = 207, h: int = 141) -> Document:
    """May 2016: flat, never meant for the queue."""
    return {
        "input": {
            "host": "http://viewer",
            "port": "8080",
            "path": "/images",
            "case_id": case_id,
            "x": str(x),
            "y": str(y),
            "w": str(w),
            "h": str(h),
            "format": "jpg",
            "iipServer": "http://iip",
        },
        "output": {"format": "json", "host": "http://annotations", "port": "9099", "path": "/submit"},
    }


def v1(
    *,
    case_id: str = CASE_ID,
    execution_id: str = "first-try",
    x: int = 23198,
    y: int = 15209,
    w: int = 207,
    h: int = 141,
) -> Document:
    """June 2016 to March 2017, type ``order``: the user types the execution id."""
    return {
        "algorithm": "SuperSegmenter",
        "created_by": "user1",
        "execution_id": execution_id,
        "notes": "",
        "order": {
            "execution": {
                "algorithm": "SuperSegmenter",
                "execution_id": execution_id,
                "parameters": [{"blur": "0.4"}, {"format": "jpg"}],
            },
            "image": {"case_id": case_id, "height": "35558", "width": "48002"},
            "metadata": {"created_by": "user1", "created_on": "1465592027497"},
            "roi": {"h": str(h), "w": str(w), "x": str(x), "y": str(y)},
        },
        "title": "title1 :: ",
    }


def v4(
    *,
    case_id: str = CASE_ID,
    execution_id: str = EXECUTION_ID,
    algorithm: str | None = None,
    x: int = 23198,
    y: int = 15209,
    w: int = 207,
    h: int = 141,
    parameters: Mapping[str, str] = VIEWER_DEFAULTS,
) -> Document:
    """May 2017 to January 2019, type ``analysisJob``."""
    algorithm = execution_id if algorithm is None else algorithm
    return {
        "algorithm": algorithm,
        "created_by": "user1",
        "execution_id": execution_id,
        "notes": "",
        "order": {
            "execution": {
                "algorithm": algorithm,
                "execution_id": execution_id,
                "parameters": [{name: value} for name, value in parameters.items()],
            },
            "image": {
                "case_id": case_id,
                "height": "35558",
                "source": "image_server",
                "subject_id": case_id,
                "width": "48002",
            },
            "metadata": {"created_by": "user1", "created_on": "1465592027497"},
            "roi": {
                "full": "false",
                "h": str(h),
                "pct": "false",
                "square": "false",
                "w": str(w),
                "x": str(x),
                "y": str(y),
            },
            **{f"p{name}": value for name, value in parameters.items()},
        },
        "title": "title1 :: ",
    }


def v2(**changes: Any) -> Document:
    """March 2017, type ``order``: the later shape with the old algorithm's name; declumping is Y or N."""
    return v4(**{"algorithm": "SuperSegmenter", "parameters": {**VIEWER_DEFAULTS, "j": "N"}, **changes})


def v3(**changes: Any) -> Document:
    """April 2017, type ``analysisJob``: declumping is still Y or N."""
    return v4(**{"parameters": {**VIEWER_DEFAULTS, "j": "Y"}, **changes})


#: Job type and builder of each shape that is read.
VARIANTS = {"V1": ("order", v1), "V2": ("order", v2), "V3": ("analysisJob", v3), "V4": ("analysisJob", v4)}


def changed(document: Document, path: str, value: object) -> Document:
    """Return a copy of *document* with another value at *path*; ABSENT removes the field."""
    document = copy.deepcopy(document)
    *sections, last = path.removeprefix("data.").split(".")
    section = document
    for key in sections:
        section = section[key]
    if value is ABSENT:
        section.pop(last, None)
    else:
        section[last] = value
    return document


class Malformed(NamedTuple):
    """Job data that must be refused."""

    #: JSON text, or what stands in its place.
    text: str
    #: The field that the error names.
    field: str
    #: What is wrong, for the test's name.
    why: str


def _v4_with(path: str, value: object, why: str, *, field: str | None = None) -> Malformed:
    return Malformed(json.dumps(changed(v4(), path, value)), field or path, why)


_CASE = "data.order.image.case_id"
_ROI = "data.order.roi"
_LIST = "data.order.execution.parameters"
_LONG = "A" * 1_000_000

MALFORMED: tuple[Malformed, ...] = (
    # --- not JSON, or no object
    Malformed("", "data", "empty text"),
    Malformed("   ", "data", "only spaces"),
    Malformed("{", "data", "object that never ends"),
    Malformed('"' + '\\"' * 100_000, "data", "text that never ends"),
    Malformed('{"order": {},}', "data", "comma too many"),
    Malformed("{'order': {}}", "data", "single quotes"),
    Malformed("<html><body>502</body></html>", "data", "HTML"),
    Malformed("\x00", "data", "null byte"),
    Malformed("undefined", "data", "a word of JavaScript"),
    Malformed("null", "data", "null"),
    Malformed("[]", "data", "list"),
    Malformed("true", "data", "boolean"),
    Malformed('"order"', "data", "text"),
    Malformed("9" * 10_000, "data", "number of 10,000 digits"),
    Malformed(json.dumps([v4()]), "data", "list around an order"),
    Malformed(json.dumps(json.dumps(v4())), "data", "order encoded twice"),
    # --- limits of the text
    Malformed("[" * 100_000, "data", "100,000 open brackets"),
    Malformed('{"order":' * 500 + "{}" + "}" * 500, "data", "500 nested objects"),
    Malformed(json.dumps({"title": "x" * (1024 * 1024)}), "data", "more than 1 MiB"),
    Malformed('{"order": {"roi": {"x": NaN}}}', "data", "NaN"),
    Malformed('{"order": {"roi": {"w": Infinity}}}', "data", "Infinity"),
    Malformed('{"order": {"roi": {"w": -Infinity}}}', "data", "minus Infinity"),
    # --- sections
    Malformed("{}", "data.order", "empty object"),
    Malformed(json.dumps(v0()), "data.order", "flat order of 2016"),
    Malformed('{"order": null}', "data.order", "null for the order"),
    Malformed('{"order": []}', "data.order", "list for the order"),
    Malformed('{"order": "seg"}', "data.order", "text for the order"),
    Malformed(
        '{"name": "segment_curation", "workflow": {"user": "u", "case_id": "c"}}',
        "data.order",
        "another product's job",
    ),
    _v4_with("data.order.image", ABSENT, "no image", field=_CASE),
    _v4_with("data.order.image", [], "list for the image"),
    _v4_with("data.order.image", "TCGA-02-0001", "text for the image"),
    _v4_with(_ROI, ABSENT, "no region"),
    _v4_with(_ROI, ["1", "2", "3", "4"], "list for the region"),
    _v4_with(_ROI, "1,2,3,4", "text for the region"),
    _v4_with("data.order.execution", ["r"], "list for the execution"),
    # --- ids
    _v4_with(_CASE, ABSENT, "no case id"),
    _v4_with(_CASE, None, "null as case id"),
    _v4_with(_CASE, "", "empty case id"),
    _v4_with(_CASE, "   ", "case id of spaces"),
    _v4_with(_CASE, {"$ne": ""}, "query operator as case id"),
    _v4_with(_CASE, ["TCGA"], "list as case id"),
    _v4_with(_CASE, True, "boolean as case id"),
    _v4_with(_CASE, "../../etc/passwd", "path out of the folder"),
    _v4_with(_CASE, "/etc/passwd", "absolute path"),
    _v4_with(_CASE, "a\\b", "backslash"),
    _v4_with(_CASE, "a..b", "two dots"),
    _v4_with(_CASE, ".hidden", "dot in front"),
    _v4_with(_CASE, "-rf", "flag as case id"),
    _v4_with(_CASE, "TCGA; rm -rf ~", "shell command"),
    _v4_with(_CASE, "$(reboot)", "command substitution"),
    _v4_with(_CASE, "`reboot`", "backticks"),
    _v4_with(_CASE, "a|b", "pipe"),
    _v4_with(_CASE, "a&b", "ampersand"),
    _v4_with(_CASE, "a>b", "redirection"),
    _v4_with(_CASE, 'a","subject_id":"b', "quotes"),
    _v4_with(_CASE, "it's", "single quote"),
    _v4_with(_CASE, "a\x00b", "null byte in the case id"),
    _v4_with(_CASE, "a\nb", "line feed"),
    _v4_with(_CASE, "a\x1b[31mb", "terminal escape"),
    _v4_with(_CASE, "a\u202eb", "right-to-left override"),
    _v4_with(_CASE, "a\ud800b", "half of a surrogate pair"),
    _v4_with(_CASE, "\U0001f52c", "emoji"),
    _v4_with(_CASE, "A" * 201, "201 characters"),
    _v4_with(_CASE, _LONG, "case id of 1 MB"),
    _v4_with("data.order.image.subject_id", "a/b", "slash in the subject id"),
    _v4_with("data.order.image.subject_id", {}, "object as subject id"),
    _v4_with("data.execution_id", ["seg"], "list as execution id"),
    _v4_with("data.execution_id", "--help", "flag as execution id"),
    _v4_with("data.execution_id", _LONG, "execution id of 1 MB"),
    _v4_with("data.order.execution.execution_id", "a;b", "semicolon in the inner execution id"),
    _v4_with("data.order.execution.algorithm", {"name": "seg"}, "object as algorithm"),
    _v4_with("data.algorithm", "a\tb", "tab in the algorithm's name"),
    Malformed(json.dumps(v1(execution_id="")), "data.execution_id", "execution id left empty"),
    # --- source of the picture
    _v4_with("data.order.image.source", "ftp", "unknown source"),
    _v4_with("data.order.image.source", {"kind": "file"}, "object as source"),
    _v4_with("data.order.image.source", "file", "file without location", field="data.order.image.location"),
    # --- region
    _v4_with(f"{_ROI}.x", ABSENT, "no x"),
    _v4_with(f"{_ROI}.y", None, "null as y"),
    _v4_with(f"{_ROI}.x", "", "empty x"),
    _v4_with(f"{_ROI}.w", "12px", "number with a unit"),
    _v4_with(f"{_ROI}.w", "12.5", "half a pixel"),
    _v4_with(f"{_ROI}.w", "0", "zero width"),
    _v4_with(f"{_ROI}.h", "-141", "negative height"),
    _v4_with(f"{_ROI}.h", -1, "negative height as a number"),
    _v4_with(f"{_ROI}.x", "NaN", "NaN as text"),
    _v4_with(f"{_ROI}.x", "Infinity", "Infinity as text"),
    _v4_with(f"{_ROI}.w", "1e400", "overflowing text"),
    Malformed(json.dumps(v4()).replace('"207"', "1e400"), f"{_ROI}.w", "overflowing number"),
    _v4_with(f"{_ROI}.w", 10**400, "integer of 401 digits"),
    _v4_with(f"{_ROI}.w", "99999999999999999999", "more than any slide"),
    _v4_with(f"{_ROI}.x", 2**31, "x beyond 31 bits"),
    _v4_with(f"{_ROI}.x", "0x10", "hexadecimal"),
    _v4_with(f"{_ROI}.x", "١٢", "digits of another script"),
    _v4_with(f"{_ROI}.x", " 12", "space in front"),
    _v4_with(f"{_ROI}.x", "1_000", "underscore"),
    _v4_with(f"{_ROI}.x", True, "boolean as x"),
    _v4_with(f"{_ROI}.x", ["1"], "list as x"),
    _v4_with(f"{_ROI}.x", {}, "object as x"),
    _v4_with(f"{_ROI}.w", "1" * 1_000_000, "width of 1 MB"),
    _v4_with(f"{_ROI}.full", "yes", "a word for a flag"),
    _v4_with(f"{_ROI}.square", 1, "number for a flag"),
    _v4_with(f"{_ROI}.pct", ["true"], "list for a flag"),
    Malformed(
        json.dumps(changed(changed(v4(), f"{_ROI}.full", "true"), f"{_ROI}.pct", "true")), _ROI, "two flags"
    ),
    Malformed(json.dumps(changed(v4(), f"{_ROI}.pct", "true")), f"{_ROI}.x", "percent above 100"),
    # --- parameters
    _v4_with(_LIST, "r=1", "text for the parameters"),
    _v4_with(_LIST, ["r", "1"], "list of texts", field=f"{_LIST}[0]"),
    _v4_with(_LIST, [{"r": "1"}, None], "null in the list", field=f"{_LIST}[1]"),
    _v4_with(_LIST, [{"--help": "1"}], "flag as a name", field=f"{_LIST}[0]"),
    _v4_with(_LIST, [{"": "1"}], "empty name", field=f"{_LIST}[0]"),
    _v4_with(_LIST, [{"n" * 41: "1"}], "name of 41 letters", field=f"{_LIST}[0]"),
    _v4_with(_LIST, [{"r": {}}], "object as a value", field=f"{_LIST}[0].r"),
    _v4_with(_LIST, [{f"n{i}": "1"} for i in range(65)], "65 parameters"),
    _v4_with("data.order.pr", None, "null as parameter"),
    _v4_with("data.order.pr", ["1"], "list as parameter"),
    _v4_with("data.order.pj", "0\x00", "null byte in a parameter"),
    _v4_with("data.order.pw", "8" * 1_000_000, "parameter of 1 MB"),
    _v4_with("data.order.pm", "0", "no pixel size"),
    _v4_with("data.order.pm", "-0.25", "negative pixel size"),
    _v4_with("data.order.pm", "quarter", "word as pixel size"),
    _v4_with("data.order.pm", "1e-1", "pixel size with an exponent"),
    # --- texts for people
    _v4_with("data.title", {"de": "Titel"}, "object as title"),
    _v4_with("data.notes", ["note"], "list as notes"),
)
