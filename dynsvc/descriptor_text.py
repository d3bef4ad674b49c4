"""A descriptor as TOML text: read with the line of each problem, and written."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from dynsvc.descriptors import Algorithm, Device, InputPicture, Outputs, ResourceLimits, RunMode
from dynsvc.errors import DescriptorInvalid
from dynsvc.parameters import Parameter

__all__ = ["described", "parse", "problems", "read_toml", "to_toml", "toml_line"]

_KEY = r"(?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')"
_HEADER = re.compile(rf"\s*\[\[?\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*\]\]?\s*(?:#.*)?$")
_SETTING = re.compile(rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*=")
_MODELS = (Algorithm, Parameter, ResourceLimits, Device, RunMode, InputPicture, Outputs)


def parse(text: str, path: str) -> Algorithm:
    """Read a descriptor.

    Parameters
    ----------
    text
        TOML.
    path
        For the error.

    Raises
    ------
    DescriptorInvalid
        The first of its problems.
    """
    document = read_toml(text, path)
    try:
        return Algorithm.model_validate(document)
    except ValidationError as error:
        raise _described(error, path, text)[0] from None


def problems(text: str, path: str) -> list[DescriptorInvalid]:
    """Return all problems of a descriptor, in the order of their lines."""
    try:
        Algorithm.model_validate(read_toml(text, path))
    except DescriptorInvalid as problem:
        return [problem]
    except ValidationError as error:
        return sorted(_described(error, path, text), key=lambda problem: _number_in(problem.path))
    return []


def read_toml(text: str, path: str) -> dict[str, Any]:
    """Return the document in *text*.

    Raises
    ------
    DescriptorInvalid
        It is no TOML.
    """
    try:
        return tomllib.loads(text)
    except ValueError as error:
        line = re.search(r"at line (\d+)", str(error))
        place = f"{path}:{line[1]}" if line else path
        raise DescriptorInvalid(place, "the file", str(error), "TOML in UTF-8") from error


def described(
    error: ValidationError, path: str, line_of: Mapping[tuple[str, ...], int] | None = None
) -> list[DescriptorInvalid]:
    """Return the problems of a document that is not TOML, each with the line of the closest known field.

    Parameters
    ----------
    path
        Of the file.
    line_of
        Lines of fields, by their place in the document.
    """
    lines = line_of or {}

    def line(loc: Sequence[str]) -> int | None:
        return next(
            (lines[key] for end in range(len(loc), 0, -1) if (key := tuple(loc[:end])) in lines), None
        )

    return [_problem(path, details, line) for details in _details(error)]


def _described(error: ValidationError, path: str, text: str) -> list[DescriptorInvalid]:
    return [_problem(path, details, lambda loc: toml_line(text, loc)) for details in _details(error)]


def _details(error: ValidationError) -> list[Any]:
    return list(error.errors(include_url=False))


def _problem(path: str, details: Any, line_of: Any) -> DescriptorInvalid:
    loc = [str(part) for part in details["loc"]]
    found: object = details["input"]
    expected = details["msg"].removeprefix("Value error, ").removeprefix("expected ")
    if details["type"] == "disagreement":
        loc, found = list(details["ctx"]["place"]), "at odds with the rest"
    if details["type"] == "missing":
        found, expected = None, "a value"
    elif details["type"] == "extra_forbidden":
        fields = {field.alias or name for model in _MODELS for name, field in model.model_fields.items()}
        close = difflib.get_close_matches(loc[-1], fields, n=1)
        expected = f"no such field; did you mean {close[0]}?" if close else "no such field"
    if not isinstance(found, str | int | float | None):
        found = str(found)
    line = line_of(loc)
    return DescriptorInvalid(
        f"{path}:{line}" if line else path,
        ".".join(loc) or "the descriptor",
        found[:200] if isinstance(found, str) else found,
        expected,
    )


def toml_line(text: str, loc: Sequence[str]) -> int | None:
    """Return the number of the line where the field at *loc* is set, or its table begins."""
    table: list[str] = []
    best: tuple[int, int] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = here = _keys(header[1])
        elif setting := _SETTING.match(line):
            here = [*table, *_keys(setting[1])]
        else:
            continue
        if here == list(loc[: len(here)]) and (best is None or len(here) > best[0]):
            best = (len(here), number)
    return best[1] if best else None


def _keys(dotted: str) -> list[str]:
    return [key.strip("\"'") for key in re.findall(_KEY, dotted)]


def _number_in(path: str) -> int:
    number = path.rpartition(":")[2]
    return int(number) if number.isdecimal() else 0


def to_toml(algorithm: Algorithm) -> str:
    """Return the descriptor of *algorithm*: what differs from the defaults, tables last."""
    document = algorithm.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    lines = [f"{key} = {_toml(value)}" for key, value in document.items() if not isinstance(value, dict)]
    tables = {key: value for key, value in document.items() if isinstance(value, dict)}
    for name, parameter in tables.pop("parameters", {}).items():
        tables[f"parameters.{name}"] = parameter
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{_toml_key(key)} = {_toml(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{_toml_key(key)} = {_toml(entry)}" for key, entry in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(entry) for entry in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)
