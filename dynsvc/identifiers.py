"""Texts that become arguments, file names, JSON and parts of a query: what they may consist of."""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from typing import Final

__all__ = ["ID_EXPECTED", "is_id", "is_printable", "is_relative_path", "safe_name"]

_ID_SIGNS = frozenset(" ._-:+=@#()[]%~")
#: Nearly all ids: they need no look at each character.
_ASCII_ID = re.compile(f"[A-Za-z0-9{re.escape(''.join(sorted(_ID_SIGNS)))}]*")
#: What :func:`is_id` wants, as the end of the sentence "expected …".
ID_EXPECTED: Final = (
    f"1 to 200 letters, digits, spaces or {' '.join(sorted(_ID_SIGNS - {' '}))}, not beginning with - or ."
)


def is_id(text: str) -> bool:
    """Say whether *text* can be an id: it becomes an argument, part of file names, JSON and a query."""
    known = _ASCII_ID.fullmatch(text) or all(
        c in _ID_SIGNS or unicodedata.category(c)[0] in "LMN" for c in text
    )
    return bool(
        known and 1 <= len(text) <= 200 and text[0] not in "-." and text == text.strip() and ".." not in text
    )


def is_printable(text: str) -> bool:
    """Say whether *text* is free of control, format, surrogate and unassigned characters."""
    # Python's own word for it knows no blank but the plain one.
    return text.isprintable() or all(unicodedata.category(c)[0] != "C" for c in text)


def is_relative_path(text: str) -> bool:
    """Say whether *text* is a path with ``/`` that stays below the folder it is joined to."""
    parts = text.split("/")
    inside = not any(part in ("", ".", "..") for part in parts)
    return inside and is_printable(text) and "\\" not in text and len(text) <= 1000


# An order's id and its token become names a dozen times, one after the other.
@functools.lru_cache(maxsize=64)
def safe_name(text: str) -> str:
    """Return *text* as one file name of at most 100 ASCII letters, digits and ``. _ -``.

    A text that is such a name already stays as it is. From any other the characters are replaced and a short
    digest is appended, so that different texts keep different names.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "_", text)
    name = f"_{name}" if name[:1] in {"", ".", "-"} else name
    if name == text and len(name) <= 100:
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name[:91]}-{digest}"
