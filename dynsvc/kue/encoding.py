"""Texts as JavaScript writes them: JSON.stringify, numbers, and log lines that are safe in Kue's pages."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence

__all__ = ["LINE_CHARACTERS", "is_truthy", "log_line", "number_text", "stringify", "valid_text"]

#: Longest log line; what is longer ends in an ellipsis.
LINE_CHARACTERS = 1000

# Made once: with these options the module's own function makes an encoder for each text.
_quoted = json.JSONEncoder(ensure_ascii=False).encode
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
# Control characters, and those that turn the direction of the text around them.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# Kue's page inserts log lines and an error's first line as HTML, and fills in what stands in braces.
_HTML = str.maketrans({"<": "\u2039", "{": "\u2774"})


def valid_text(text: str) -> str:
    """Return *text* without halves of characters, which UTF-8 cannot carry."""
    return _SURROGATE.sub("\ufffd", text)


def number_text(number: float) -> str:
    """Return *number* as JavaScript prints it: no ``.0``, exponents only from 1e21 and below 1e-6."""
    if isinstance(number, int):
        return str(number)
    if not math.isfinite(number):
        return "NaN" if math.isnan(number) else ("Infinity" if number > 0 else "-Infinity")
    if number.is_integer() and abs(number) < 1e21:
        return str(int(number))
    digits, _, exponent = repr(number).partition("e")
    if not exponent:
        return digits
    power = int(exponent)
    if -6 <= power < 0:
        sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
        return f"{sign}0.{'0' * (-power - 1)}{digits.replace('.', '')}"
    return f"{digits}e{power:+d}"


def stringify(value: object) -> str:
    """Return *value* as ``JSON.stringify`` writes it: compact, not ASCII-escaped, NaN as null.

    Raises
    ------
    TypeError
        The value holds something that is not JSON.
    """
    text = _json(value)
    return text if text.isascii() else _SURROGATE.sub(lambda half: f"\\u{ord(half.group()):04x}", text)


def _json(value: object) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true" if value else "false"
    if isinstance(value, int | float):
        return number_text(value) if math.isfinite(value) else "null"
    if isinstance(value, Mapping):
        pairs = [f"{_quoted(_name(name))}:{_json(member)}" for name, member in value.items()]
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return "[" + ",".join([_json(member) for member in value]) + "]"
    raise TypeError(f"{type(value).__name__} is not JSON")


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a JSON object's names are texts, not {type(name).__name__}")
    return name


def is_truthy(value: object) -> bool:
    """Return whether JavaScript takes *value* for true. Empty objects and lists count as true there."""
    if value is None or value is False or value == "":
        return False
    if isinstance(value, int | float):
        return value != 0 and not (isinstance(value, float) and math.isnan(value))
    return True


def log_line(text: str) -> str:
    """Return *text* as one line that Kue's page shows as it is.

    Terminal colours and control characters go, the characters that begin HTML tags and Kue's own placeholders
    become look-alikes, and at most :data:`LINE_CHARACTERS` remain.
    """
    line = text[: 4 * LINE_CHARACTERS]
    if not line.isprintable():
        line = _CONTROL.sub(" ", _ESCAPE_SEQUENCE.sub("", valid_text(line)))
    line = line.translate(_HTML).rstrip()
    return line if len(line) <= LINE_CHARACTERS else line[: LINE_CHARACTERS - 1] + "…"
