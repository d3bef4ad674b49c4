"""Orders: what somebody asked for, read once from a job's data and checked field by field.

The viewer's history knows five shapes. V1 to V4 are read; every leaf may be a string or a number. V0, the
flat form of May 2016, is refused with a sentence that says what to send.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict

from dynsvc.errors import InvalidOrder, shown
from dynsvc.fields import MAX_DATA_CHARACTERS, Fields
from dynsvc.identifiers import is_relative_path, safe_name
from dynsvc.parameters import PIXEL_SIZE
from dynsvc.regions import RegionRequest

__all__ = ["MAX_DATA_CHARACTERS", "Order", "parse_order", "safe_name"]

Source = Literal["image_server", "file"]

_MAX_PARAMETERS = 64
_FEWEST_CORNERS, _MOST_CORNERS = 3, 10_000
_MAX_PIXEL = 2**31 - 1
_NESTED_EXPECTED: Final = (
    "the nested order that viewers send since June 2016 (data.order.image, .roi, .execution), "
    "not the flat input and output of the viewer of May 2016"
)
#: What the viewer sent in June 2016 as parameters; no program ever read them.
_WITHOUT_EFFECT: Final = ("blur", "format")

_JOB_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FLAT_PARAMETER: Final = re.compile("p[a-z]")
_PARAMETER_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
#: What a title must not have.
_TO_ESCAPE: Final = re.compile(r'[\s",;\\]+')


class Order(BaseModel):
    """One order, independent of the viewer's version."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    job_type: str
    case_id: str
    subject_id: str
    #: The analysis id, under which the viewer looks for the result.
    execution_id: str
    #: As ordered: a descriptor's name, or anything that one matches.
    algorithm: str
    title: str = ""
    notes: str = ""
    source: Source = "image_server"
    #: Only for source ``file``: path of the slide below ``DYNSVC_SLIDES``.
    location: str | None = None
    roi: RegionRequest
    #: By letter or name, as ordered.
    parameters: Mapping[str, str] = {}
    #: Micrometres per pixel of level 0 according to the order (``pm``).
    mpp_um: float | None = None
    #: Whether a kept result may be delivered, and this one kept.
    cache: bool = True
    #: Whether tiles without tissue are left out where a slide is cut into tiles.
    tissue: bool = True
    #: Sentences for the order's log.
    remarks: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """A title for the result: at most 100 characters that need no escaping in JSON or CSV."""
        title = self.title.strip(" :")
        # "title1" is a constant of the viewer.
        text = (title if title != "title1" else "") or self.notes or self.execution_id
        return _TO_ESCAPE.sub(" ", text).strip(" -")[:100].strip()

    def to_document(self) -> dict[str, Any]:
        """Return the order as a JSON document."""
        return self.model_dump(mode="json", exclude_none=True)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read an order written by :meth:`to_document`.

        Raises
        ------
        pydantic.ValidationError
            The document is not one of ours.
        """
        return cls.model_validate(document)


def parse_order(job_id: str, job_type: str, data_text: str) -> Order:
    """Read an order from its job.

    Parameters
    ----------
    job_id, job_type
        As the queue knows the job.
    data_text
        The job's data: JSON text.

    Raises
    ------
    InvalidOrder
        The first field that is not as expected (permanent).
    """
    if not _JOB_ID.fullmatch(job_id):
        raise InvalidOrder(job_id[:64], "id", job_id[:200], "1 to 64 of the characters A-Z a-z 0-9 _ -")
    fields = Fields(job_id, data_text)
    data = fields.section("data")
    if "order" not in data and "input" in data:
        fields.fail("data.order", None, _NESTED_EXPECTED)
    fields.section("data.order")
    case_id = fields.id("data.order.image.case_id")
    ids = ("data.execution_id", "data.order.execution.execution_id")
    execution_id = fields.first_id(*ids) or fields.id(ids[0])
    source, location = _source(fields)
    parameters = _parameters(fields, job_type)
    return Order(
        job_id=job_id,
        job_type=job_type,
        case_id=case_id,
        subject_id=_subject(fields) or case_id,
        execution_id=execution_id,
        algorithm=fields.first_id("data.order.execution.algorithm", "data.algorithm") or execution_id,
        title=fields.prose("data.title"),
        notes=fields.prose("data.notes"),
        source=source,
        location=location,
        roi=_region(fields),
        parameters=parameters,
        mpp_um=_pixel_size(fields, parameters),
        cache=_unless_false(fields, "data.order.cache"),
        tissue=_unless_false(fields, "data.order.tissue"),
        remarks=_remarks(fields),  # the last: all others have been said
    )


def _remarks(fields: Fields) -> tuple[str, ...]:
    if any(fields.optional(f"data.order.image.{side}") is not None for side in ("width", "height")):
        fields.remarks.append("image.width and image.height are constants of the viewer and not used")
    return tuple(fields.remarks)


def _unless_false(fields: Fields, path: str) -> bool:
    return fields.optional(path) is None or fields.flag(path)


def _subject(fields: Fields) -> str | None:
    subject_id = fields.optional_id("data.order.image.subject_id")
    if subject_id is None:
        fields.remarks.append("the order has no image.subject_id: image.case_id is used")
    return subject_id


def _source(fields: Fields) -> tuple[Source, str | None]:
    source = fields.optional("data.order.image.source")
    location = fields.optional("data.order.image.location")
    if source in (None, "image_server"):
        if location is not None:
            fields.remarks.append("image.location is only for image.source file and ignored")
        return "image_server", None
    if source != "file":
        fields.fail("data.order.image.source", source, "image_server or file")
    if not isinstance(location, str) or not is_relative_path(location):
        expected = "a path below the slides' folder, without .. and backslash"
        fields.fail("data.order.image.location", location, expected)
    return "file", location


def _region(fields: Fields) -> RegionRequest:
    path = "data.order.roi"
    roi = fields.section(path)
    full, square, percent = (fields.flag(f"{path}.{flag}") for flag in ("full", "square", "pct"))
    if full + square + percent > 1:
        flags = {"full": full, "square": square, "pct": percent}
        found = " and ".join(name for name, is_set in flags.items() if is_set)
        fields.fail(path, found, "at most one of the flags full, square, pct")
    if fields.optional(f"{path}.polygon") is not None:
        if full or square or percent:
            fields.fail(path, "polygon and a flag", "a polygon, or one of the flags full, square, pct")
        return RegionRequest.within(_outline(fields, f"{path}.polygon"))
    if full or square:
        return RegionRequest(kind="full" if full else "square")
    if percent:
        unit = "percent of the slide"
        x, y = (fields.number(f"{path}.{key}", roi.get(key), 0, 100, unit) for key in "xy")
        w, h = (fields.number(f"{path}.{key}", roi.get(key), 0.0001, 100, unit) for key in "wh")
        return RegionRequest(kind="pct", x=x, y=y, width=w, height=h)
    left, top = (fields.pixels(f"{path}.{key}", -(2**31) + 1) for key in "xy")
    width, height = (fields.pixels(f"{path}.{key}", 1) for key in "wh")
    return RegionRequest(kind="pixels", x=left, y=top, width=width, height=height)


def _outline(fields: Fields, path: str) -> tuple[tuple[float, float], ...]:
    found = fields.value(path)
    if not isinstance(found, list) or not _FEWEST_CORNERS <= len(found) <= _MOST_CORNERS:
        expected = f"a list of {_FEWEST_CORNERS} to {_MOST_CORNERS} corners [x, y] in level-0 pixels"
        fields.fail(path, f"{len(found)} corners" if isinstance(found, list) else found, expected)
    corners = []
    for position, corner in enumerate(found):
        here = f"{path}[{position}]"
        if not isinstance(corner, list) or len(corner) != 2:
            fields.fail(here, corner, "a corner [x, y] in level-0 pixels")
        x, y = (fields.number(here, number, -_MAX_PIXEL, _MAX_PIXEL, "level-0 pixels") for number in corner)
        corners.append((x, y))
    return tuple(corners)


def _parameters(fields: Fields, job_type: str) -> dict[str, str]:
    """Merge the typed list with the flat copies; the flat ones win, as only they were ever read."""
    listed = _listed(fields)
    order = fields.section("data.order")
    flat = {
        key[1]: fields.leaf(f"data.order.{key}", order[key])
        for key in order
        if _FLAT_PARAMETER.fullmatch(key)
    }
    if job_type == "order" and not flat:
        for name in _WITHOUT_EFFECT:
            if listed.pop(name, None) is not None:
                fields.remarks.append(f"parameter {name} of the viewer of 2016 has no effect and is ignored")
    fields.remarks.extend(
        f"parameter {name} is {shown(listed[name])} in execution.parameters and {shown(text)} in p{name}: "
        f"p{name} is used"
        for name, text in flat.items()
        if name in listed and listed[name] != text
    )
    return {**listed, **flat}


def _listed(fields: Fields) -> dict[str, str]:
    path = "data.order.execution.parameters"
    found = fields.optional(path)
    items = [] if found is None else [found] if isinstance(found, dict) else found
    if not isinstance(items, list):
        fields.fail(path, found, "a list of objects with one parameter each")
    listed: dict[str, str] = {}
    for position, item in enumerate(items):
        here = f"{path}[{position}]" if isinstance(found, list) else path
        if not isinstance(item, dict):
            fields.fail(here, item, "an object with one parameter")
        for name, value in item.items():
            if not _PARAMETER_NAME.fullmatch(name):
                fields.fail(here, name, "a parameter name of at most 40 letters, digits, _ and -")
            listed[name] = fields.leaf(f"{here}.{name}", value)
    if len(listed) > _MAX_PARAMETERS:
        fields.fail(path, f"{len(listed)} parameters", f"at most {_MAX_PARAMETERS}")
    return listed


def _pixel_size(fields: Fields, parameters: Mapping[str, str]) -> float | None:
    if not parameters.get(PIXEL_SIZE):
        return None
    return fields.number("data.order.pm", parameters[PIXEL_SIZE], 0.01, 100, "micrometres per pixel")
