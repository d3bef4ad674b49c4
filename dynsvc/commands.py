"""Command templates: how a descriptor's ``command`` becomes the argument list of one run.

``{name}`` inside an element is replaced by the value of that placeholder, ``{parameters.NAME}`` by the value
of that parameter; ``{{`` and ``}}`` are braces. An element that is exactly ``{parameters}`` becomes flag and
value of each parameter. Values are never read as templates, and nothing is split or joined: one element stays
one argument.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from dynsvc.errors import InvalidOrder
from dynsvc.parameters import Parameter, argv, plain

__all__ = ["PLACEHOLDERS", "Placeholders", "expand", "filled", "parameters_in", "placeholders_of"]

_PART = re.compile(r"\{\{|\}\}|\{([A-Za-z0-9_.-]*)\}|[{}]")
_PARAMETER = "parameters."


@dataclass(frozen=True, slots=True, kw_only=True)
class Placeholders:
    """What the placeholders of a command stand for in one run."""

    #: The input picture, and the two folders, as the algorithm sees them.
    input: str
    input_dir: str
    output_dir: str
    case_id: str
    subject_id: str
    analysis_id: str
    description: str
    #: The region in level-0 pixels.
    x: int
    y: int
    width: int
    height: int
    #: Micrometres per pixel of level 0.
    mpp: float
    order_id: str


PLACEHOLDERS = tuple(field.name for field in fields(Placeholders))


def placeholders_of(command: Sequence[str]) -> tuple[str, ...]:
    """Return the placeholders in *command*, in their order, ``parameters`` among them.

    Raises
    ------
    ValueError
        A name is unknown, a brace stands alone, or ``{parameters}`` is only a part of an element.
    """
    found: list[str] = []
    for element in command:
        for part in _PART.finditer(element):
            name = part[1]
            if part[0] in ("{{", "}}"):
                continue
            if name is None:
                raise ValueError(f"expected {{{{ and }}}} for literal braces in {element!r}")
            if name == "parameters" and element != "{parameters}":
                raise ValueError(f"expected {{parameters}} as an element of its own, not in {element!r}")
            if name not in (*PLACEHOLDERS, "parameters") and not name.startswith(_PARAMETER):
                known = ", ".join(f"{{{known}}}" for known in (*PLACEHOLDERS, "parameters"))
                raise ValueError(f"expected one of {known} instead of {part[0]} in {element!r}")
            found.append(name)
    return tuple(found)


def parameters_in(command: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the parameters that *command* names one by one, in their order."""
    return tuple(
        name.removeprefix(_PARAMETER) for name in placeholders_of(command) if name.startswith(_PARAMETER)
    )


def expand(
    command: Sequence[str],
    placeholders: Placeholders,
    parameters: Mapping[str, Parameter],
    values: Mapping[str, str],
) -> tuple[str, ...]:
    """Return the argument list of one run.

    Parameters
    ----------
    command
        Elements that :func:`placeholders_of` accepts.
    placeholders, values
        What stands for the names; *values* come from :func:`dynsvc.parameters.fill`.
    parameters
        As the descriptor declares them.

    Raises
    ------
    InvalidOrder
        An argument would begin with ``-`` only because of a value, and so be taken for a flag (permanent).
    """

    def text_of(part: re.Match[str]) -> str:
        name = part[1]
        if not name:
            return part[0][0]
        if name.startswith(_PARAMETER):
            return values[name.removeprefix(_PARAMETER)]
        return _text(getattr(placeholders, name))

    # A negative number is no flag to any program that expects a number there.
    numbers = {
        f"{{{_PARAMETER}{name}}}"
        for name, p in parameters.items()
        if p.type in ("number", "integer", "numbers")
    }
    arguments: list[str] = []
    for element in command:
        if element == "{parameters}":
            arguments.extend(argv(parameters, values))
            continue
        argument = _PART.sub(text_of, element)
        if argument.startswith("-") and not element.startswith("-") and element not in numbers:
            raise InvalidOrder(
                placeholders.order_id, element, argument[:200], "a text that does not begin with -"
            )
        arguments.append(argument)
    return tuple(arguments)


def filled(
    value: Any, placeholders: Placeholders, parameters: Mapping[str, Parameter], values: Mapping[str, str]
) -> Any:
    """Return a JSON value with its placeholders replaced.

    A text that is one placeholder and nothing else becomes what it stands for, a number as a number. Any
    other text stays as it is.
    """
    if isinstance(value, Mapping):
        return {key: filled(entry, placeholders, parameters, values) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [filled(entry, placeholders, parameters, values) for entry in value]
    whole = _PART.fullmatch(value) if isinstance(value, str) else None
    name = whole[1] if whole else None
    if name in PLACEHOLDERS:
        return getattr(placeholders, name)
    if name and name.startswith(_PARAMETER):
        name = name.removeprefix(_PARAMETER)
        return parameters[name].typed(values[name])
    return value


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else plain(value)
