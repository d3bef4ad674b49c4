"""The program's warm mode: one request is one run of ``-t img``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .arguments import parse
from .failures import UsageWrong
from .program import run
from .warm import serve

__all__ = ["serve_requests"]

#: Fields of a request, and the flags they stand for. The first ones are required.
_REQUIRED = {"input": "-i", "output_dir": "-o"}
_OPTIONAL = {
    "case_id": "-c",
    "subject_id": "-p",
    "analysis_id": "-a",
    "description": "-e",
    "mpp": "-m",
    "levels": "-v",
    "zip": "-z",
}
#: Ids are part of file names; a request that gives none gets these.
_DEFAULTS = ["-t", "img", "-c", "case", "-p", "subject", "-a", "nuclei"]
_PARAMETERS = frozenset("rwlukjnm")


def serve_requests(options: Sequence[str]) -> None:
    """Serve until standard input ends; *options* are flags for every request."""
    serve(lambda request, progress: run(parse([*_DEFAULTS, *options, *arguments(request, progress)])))


def arguments(request: dict[str, Any], progress: Callable[[float], None]) -> list[str]:
    """Return the flags that a request stands for.

    Raises
    ------
    UsageWrong
        A field is missing, or a parameter is unknown.
    """
    progress(0.0)
    flags: list[str] = []
    for field, flag in _REQUIRED.items():
        if not request.get(field):
            raise UsageWrong(f"the request has no {field}")
        flags += [flag, str(request[field])]
    for field, flag in _OPTIONAL.items():
        if request.get(field) is not None:
            flags += [flag, str(request[field])]
    region = request.get("region") or {}
    if region:
        width, height = region.get("width", region.get("w", 0)), region.get("height", region.get("h", 0))
        flags += ["-s", f"{region.get('x', 0)},{region.get('y', 0)}", "-b", f"{width},{height}"]
    for letter, value in (request.get("params") or {}).items():
        if letter not in _PARAMETERS:
            raise UsageWrong(
                f"unknown parameter {letter!r}, expected one of {', '.join(sorted(_PARAMETERS))}"
            )
        flags += [f"-{letter}", str(value)]
    return flags
