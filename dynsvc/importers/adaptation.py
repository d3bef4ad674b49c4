"""What all importers share: names made fit, and a foreign description completed to a descriptor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from dynsvc.descriptor_text import described
from dynsvc.descriptors import Algorithm
from dynsvc.errors import DescriptorInvalid
from dynsvc.parameters import PIXEL_SIZE

__all__ = ["aliases_of", "completed", "literal", "program_of", "slug", "version_of"]

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
_PROGRAM = "program"
#: Read by the importers themselves, and no fields of a descriptor.
_READ_BEFORE = (_PROGRAM, "booleans", "schema")


def slug(title: str) -> str:
    """Return *title* as the name of an algorithm."""
    return re.sub(r"[^a-z0-9._-]+", "-", title.lower()).strip("-._")[:64] or "algorithm"


def version_of(text: str) -> str:
    """Return *text* as a version; ``0`` where it tells none."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-._+")[:64] or "0"


def aliases_of(name: str, words: Iterable[str], taken: set[str]) -> list[str]:
    """Return those of *words* that orders may use for the parameter *name* too, and add them to *taken*.

    Parameters
    ----------
    words
        Its flags in this format.
    taken
        Names of all parameters, and the aliases so far.
    """
    found = []
    for word in words:
        alias = word.lstrip("-")
        # The letter of the pixel size belongs to the slide.
        if _WORD.fullmatch(alias) and alias not in {*taken, name, PIXEL_SIZE}:
            taken.add(alias)
            found.append(alias)
    return found


def program_of(adaptation: Mapping[str, Any], path: str) -> list[str] | None:
    """Return the argument list that starts the program, where the adaptation tells.

    Raises
    ------
    DescriptorInvalid
        It is no list of texts.
    """
    program = adaptation.get(_PROGRAM)
    if program is None:
        return None
    if isinstance(program, list) and program and all(isinstance(word, str) and word for word in program):
        return program
    raise DescriptorInvalid(path, _PROGRAM, str(program), "a list of texts, the program first")


def literal(text: str) -> str:
    """Return *text* as an element of a command in which nothing is replaced."""
    return text.replace("{", "{{").replace("}", "}}")


def completed(
    document: Mapping[str, Any],
    adaptation: Mapping[str, Any],
    path: str,
    lines: Mapping[tuple[str, ...], int],
) -> Algorithm:
    """Return the algorithm that *document* describes once the *adaptation* is laid over it.

    Parameters
    ----------
    document
        A descriptor's content as an importer made it.
    adaptation
        Tables are merged, everything else replaces what the document says.
    path, lines
        Of the foreign file, and where in it the document's fields come from.

    Raises
    ------
    DescriptorInvalid
        The first field that is not as expected.
    """
    own = {key: value for key, value in adaptation.items() if key not in _READ_BEFORE}
    whole = _merged(document, own)
    whole.setdefault("match", [f"{whole.get('name')}:*"])
    try:
        return Algorithm.model_validate({"schema": 1, **whole})
    except ValidationError as error:
        raise described(error, path, lines)[0] from None


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
