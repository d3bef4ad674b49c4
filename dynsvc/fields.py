"""Typed access to the fields of one job's data; every error names the field."""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

from dynsvc.errors import InvalidOrder, shown
from dynsvc.identifiers import ID_EXPECTED, is_id, is_printable

__all__ = ["MAX_DATA_CHARACTERS", "Fields"]

#: Longest job data that is read. The viewer's have about 1,000 characters.
MAX_DATA_CHARACTERS: Final = 1024 * 1024

_MAX_DEPTH = 32
_MAX_PIXEL = 2**31 - 1
_MAX_PROSE = 1000
_MAX_LEAF = 200
_WHOLE = re.compile(r"[+-]?[0-9]{1,10}(?:\.0{0,20})?")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,20}(?:\.[0-9]{0,20})?")
# Quoted texts first: brackets inside them are no structure. A text without its end is JSON's to refuse.
_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)


class Fields:
    """The data of one job, addressed by paths such as ``data.order.roi.w``."""

    def __init__(self, job_id: str, data_text: str) -> None:
        self._job_id = job_id
        #: Objects that were looked into, by their paths; None where one is absent.
        self._sections: dict[str, dict[str, Any] | None] = {"": {"data": _json(job_id, data_text)}}
        #: Sentences for the order's log.
        self.remarks: list[str] = []

    def fail(self, path: str, found: object, expected: str) -> NoReturn:
        """Raise the error that names *path*, with a short witness of what was found there.

        Raises
        ------
        InvalidOrder
            Always (permanent).
        """
        if isinstance(found, dict | list):
            found = f"{'an object' if isinstance(found, dict) else 'a list'} of {len(found)}"
        raise InvalidOrder(self._job_id, path, found[:200] if isinstance(found, str) else found, expected)

    def value(self, path: str) -> Any:
        """Return the value at *path*, None where it or a section above it is absent."""
        above, _, key = path.rpartition(".")
        if above not in self._sections:
            found = self.value(above)
            if found is not None and not isinstance(found, dict):
                self.fail(above, found, "an object")
            self._sections[above] = found
        section = self._sections[above]
        return None if section is None else section.get(key)

    def optional(self, path: str) -> Any:
        """Return the value at *path*. An empty text counts as absent: forms send undefined values so."""
        value = self.value(path)
        return None if value == "" else value

    def section(self, path: str) -> dict[str, Any]:
        """Return the object at *path*."""
        value = self.value(path)
        if not isinstance(value, dict):
            self.fail(path, value, "an object")
        return value

    def id(self, path: str) -> str:
        """Return the id at *path*."""
        value = self.value(path)
        if not isinstance(value, str) or not is_id(value):
            self.fail(path, value, ID_EXPECTED)
        return value

    def optional_id(self, path: str) -> str | None:
        """Return the id at *path*, None where there is none."""
        return None if self.optional(path) is None else self.id(path)

    def first_id(self, *paths: str) -> str | None:
        """Return the first id that is there; a different one at a later path becomes a remark."""
        ids = {path: text for path in paths if (text := self.optional_id(path)) is not None}
        first = next(iter(ids), None)
        if first is None:
            return None
        self.remarks.extend(
            f"{path} is {shown(other)} and {first} is {shown(ids[first])}: {first} is used"
            for path, other in ids.items()
            if other != ids[first]
        )
        return ids[first]

    def prose(self, path: str) -> str:
        """Return the text for people at *path*: one line of at most 1000 characters."""
        value = self.optional(path)
        if value is None:
            return ""
        if not isinstance(value, str):
            self.fail(path, value, "a text")
        if len(value) > _MAX_PROSE:
            self.remarks.append(f"{path} has {len(value)} characters: the first {_MAX_PROSE} are kept")
        text = value[:_MAX_PROSE]
        return text if is_printable(text) else "".join(c if is_printable(c) else " " for c in text)

    def flag(self, path: str) -> bool:
        """Return the boolean at *path*; absent is false."""
        value = self.optional(path)
        if value not in (None, True, False, "true", "false"):
            self.fail(path, value, "true or false")
        return value in (True, "true")

    def pixels(self, path: str, least: int) -> int:
        """Return the whole number of level-0 pixels at *path*: *least* or more."""
        value = self.value(path)
        text = value if isinstance(value, str) else ""
        number = int(text.partition(".")[0]) if _WHOLE.fullmatch(text) else None
        if number is None or not least <= number <= _MAX_PIXEL:
            self.fail(path, value, f"a whole number of level-0 pixels, {least} to {_MAX_PIXEL}")
        return number

    def number(self, path: str, found: object, least: float, most: float, unit: str) -> float:
        """Return *found*, the value at *path*, as a number of *least* to *most*."""
        number = float(found) if isinstance(found, str) and _DECIMAL.fullmatch(found) else None
        if number is None or not least <= number <= most:
            self.fail(path, found, f"a number from {least:g} to {most:g} ({unit})")
        return number

    def leaf(self, path: str, value: object) -> str:
        """Return *value*, found at *path*, as a short text."""
        if isinstance(value, bool):
            return "true" if value else "false"
        if not isinstance(value, str) or len(value) > _MAX_LEAF or not is_printable(value):
            self.fail(path, value, f"a number or a text of at most {_MAX_LEAF} printable characters")
        return value


def _json(job_id: str, text: str) -> Any:
    """Parse JSON. Numbers stay the texts they are: the viewer sends texts anyway, and nothing overflows."""
    if len(text) > MAX_DATA_CHARACTERS:
        raise InvalidOrder(
            job_id, "data", f"{len(text)} characters", f"at most {MAX_DATA_CHARACTERS} characters"
        )
    if _is_deep(text):
        raise InvalidOrder(job_id, "data", f"nested over {_MAX_DEPTH} levels", f"at most {_MAX_DEPTH} levels")

    def refuse(constant: str) -> NoReturn:
        raise InvalidOrder(job_id, "data", constant, "JSON without NaN and Infinity")

    try:
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=refuse)
    except ValueError as error:
        raise InvalidOrder(job_id, "data", str(error), "JSON text") from None


def _is_deep(text: str) -> bool:
    """Say whether JSON is nested over the limit."""
    if text.count("[") + text.count("{") <= _MAX_DEPTH:
        return False  # as all that viewers send: nothing to look closer at
    depth = 0
    for token in _BRACKETS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > _MAX_DEPTH:
            return True
    return False
