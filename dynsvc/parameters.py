"""Parameters of an algorithm: what a descriptor declares, and the values of one order."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dynsvc.errors import InvalidOrder, shown
from dynsvc.identifiers import is_printable

__all__ = ["PIXEL_SIZE", "Filled", "Parameter", "argv", "fill", "plain"]

#: The letter of the micrometres per pixel. It belongs to the slide; a command takes it as ``{mpp}``.
PIXEL_SIZE = "m"

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_MAX_CHARACTERS = 200
_NUMBER_WORDS = {
    "number": "a number",
    "integer": "a whole number",
    "numbers": "numbers with commas between them, each",
}


def _as_text(value: object) -> object:
    # A descriptor may say 1.0 or "1.0"; a boolean is neither.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return repr(value)


Text = Annotated[str, BeforeValidator(_as_text), Field(max_length=_MAX_CHARACTERS)]


class Parameter(BaseModel):
    """One parameter as the descriptor declares it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: What stands before the value in the argument list. Without one, ``{parameters.NAME}`` says where the
    #: value goes.
    flag: str | None = Field(None, pattern=r"^-{1,2}[A-Za-z][A-Za-z0-9_-]*$", max_length=60)
    #: ``numbers`` is a list with commas. ``switch`` is a flag without a value, there for ``true`` only.
    type: Literal["number", "integer", "choice", "text", "numbers", "switch"]
    #: Used where the order gives no value. Without one, flag and value are left out.
    default: Text | None = None
    #: Every order must give a value.
    required: bool = False
    #: Smallest and largest value allowed.
    min: float | None = None
    max: float | None = None
    #: The value must be greater than this.
    above: float | None = None
    #: The values a choice allows.
    choices: tuple[Text, ...] = ()
    unit: str = ""
    help: str = ""
    #: Other names under which an order may give the value.
    aliases: tuple[str, ...] = ()
    #: Words that stand for a value, for example ``{N = "0"}``.
    map: dict[str, Text] = {}

    @model_validator(mode="before")
    @classmethod
    def _switch_has_a_word(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("type") == "switch" and isinstance(data.get("default"), bool):
            return {**data, "default": "true" if data["default"] else "false"}
        return data

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if (self.type == "choice") != bool(self.choices):
            raise ValueError("expected choices for type choice, and only there")
        if self.type in ("choice", "text", "switch") and not self.min == self.max == self.above is None:
            raise ValueError("expected min, max and above only for type number, numbers or integer")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("expected min not above max")
        if self.required and self.default is not None:
            raise ValueError("expected no default with required")
        for text in (*self.map.values(), *([] if self.default is None else [self.default])):
            if self._canonical(text) is None:
                raise ValueError(f"expected {self.expected}, found {shown(text)}")
        return self

    @property
    def expected(self) -> str:
        """What a value must be, as the end of the sentence "expected …"."""
        unit = f" ({self.unit})" if self.unit else ""
        if self.type == "choice":
            return "one of " + ", ".join((*self.choices, *self.map)) + unit
        if self.type == "text":
            return f"at most {_MAX_CHARACTERS} printable characters that do not begin with -{unit}"
        if self.type == "switch":
            return " or ".join(("true", "false", *self.map))
        words = [_NUMBER_WORDS[self.type]]
        if self.above is not None:
            words.append(f"above {plain(self.above)}")
        if self.min is not None:
            words.append(f"from {plain(self.min)}")
        if self.max is not None:
            join = "to" if self.min is not None else "of at most" if self.above is None else "and at most"
            words.append(f"{join} {plain(self.max)}")
        return " ".join(words) + unit

    def canonical(self, text: str) -> str | None:
        """Return *text* as the algorithm gets it, or None where it is no value of this parameter.

        Numbers come in their shortest decimal form, without an exponent.
        """
        return self._canonical(self.map.get(text, text))

    def typed(self, value: str) -> str | float | bool | list[float]:
        """Return a value in canonical form as JSON has it."""
        if self.type == "switch":
            return value == "true"
        if self.type == "integer":
            return int(value)
        if self.type == "number":
            return float(value)
        return [float(part) for part in value.split(",")] if self.type == "numbers" else value

    def _canonical(self, text: str) -> str | None:
        if self.type == "choice":
            return text if text in self.choices else None
        if self.type == "switch":
            return text if text in ("true", "false") else None
        if self.type == "numbers":
            numbers = (
                [self._number(part) for part in text.split(",")] if len(text) <= _MAX_CHARACTERS else [None]
            )
            # With the blank, no program takes a list that begins with a minus sign for a flag.
            return None if None in numbers else ", ".join(filter(None, numbers))
        if self.type == "text":
            bad = len(text) > _MAX_CHARACTERS or text.startswith("-")
            return None if bad or not is_printable(text) else text
        return self._number(text)

    def _number(self, text: str) -> str | None:
        if len(text) > _MAX_CHARACTERS or not _NUMBER.fullmatch(text.strip(" ")):
            return None
        number = float(text)
        if not math.isfinite(number) or not self._in_range(number):
            return None
        if self.type == "integer" and (number != int(number) or abs(number) > 2**53):
            return None
        return plain(number)

    def _in_range(self, number: float) -> bool:
        return (
            (self.min is None or number >= self.min)
            and (self.max is None or number <= self.max)
            and (self.above is None or number > self.above)
        )


class Filled(NamedTuple):
    """Parameters of one run: complete, checked and in canonical form."""

    #: In the descriptor's order.
    values: dict[str, str]
    #: Sentences for the order's log.
    remarks: tuple[str, ...]


def fill(parameters: Mapping[str, Parameter], given: Mapping[str, str], order_id: str) -> Filled:
    """Return the value of every parameter: the order's, else the default.

    Parameters
    ----------
    parameters
        As the descriptor declares them, by name.
    given
        As ordered, by name or alias. Where both are given, the name wins.
    order_id
        For the error.

    Raises
    ------
    InvalidOrder
        A value is missing, or not one that the descriptor allows (permanent).
    """
    values: dict[str, str] = {}
    remarks: list[str] = []
    used = {PIXEL_SIZE}
    for name, parameter in parameters.items():
        names = [known for known in (name, *parameter.aliases) if known in given]
        used.update(names)
        if not names:
            if parameter.required:
                raise InvalidOrder(order_id, f"parameter {name}", None, parameter.expected)
            if parameter.default is not None:
                values[name] = parameter.canonical(parameter.default) or parameter.default
            continue
        text = given[names[0]]
        remarks.extend(
            f"parameter {other} is {shown(given[other])} and parameter {names[0]} is {shown(text)}: "
            f"{names[0]} is used"
            for other in names[1:]
            if given[other] != text
        )
        value = parameter.canonical(text)
        if value is None:
            raise InvalidOrder(order_id, f"parameter {names[0]}", text[:_MAX_CHARACTERS], parameter.expected)
        values[name] = value
    remarks.extend(
        f"parameter {name} = {shown(given[name])} is unknown to the algorithm and ignored"
        for name in given
        if name not in used
    )
    return Filled(values, tuple(remarks))


def argv(parameters: Mapping[str, Parameter], values: Mapping[str, str]) -> list[str]:
    """Return flag and value of each parameter that has both, in the descriptor's order.

    Of a switch it is the flag alone, and only where the value is true.

    Parameters
    ----------
    parameters
        As the descriptor declares them.
    values
        From :func:`fill`: checked, so that no text can be taken for a flag.
    """
    parts: list[str] = []
    for name, parameter in parameters.items():
        if parameter.flag is None or name not in values:
            continue
        if parameter.type != "switch":
            parts += [parameter.flag, values[name]]
        elif values[name] == "true":
            parts.append(parameter.flag)
    return parts


def plain(number: float) -> str:
    """Return the shortest decimal text that reads back as *number*, without exponent and without ``.0``."""
    text = format(Decimal(repr(number + 0.0)), "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text
