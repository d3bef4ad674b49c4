"""The program's warm mode: one request is one run of ``-t img``, or one survey."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .failures import UsageWrong
from .program import answer
from .warm import serve

__all__ = ["serve_requests"]

#: Fields of a request, and the flags they stand for.
_OPTIONAL = {
    "case_id": "-c",
    "subject_id": "-p",
    "analysis_id": "-a",
    "description": "-e",
    "mpp": "-m",
    "levels": "-v",
    "threshold": "--threshold",
    "zip": "-z",
}
#: Ids are part of file names; a request that gives none gets these.
_DEFAULTS = ["-t", "img", "-c", "case", "-p", "subject", "-a", "nuclei"]
_PARAMETERS = frozenset("rwlukjnm")


def serve_requests(options: Sequence[str]) -> None:
    """Serve until standard input ends; *options* are flags for every request."""
    serve(lambda request, progress: answer([*_DEFAULTS, *options, *arguments(request, progress)]))


def arguments(request: dict[str, Any], progress: Callable[[float], None]) -> list[str]:
    """Return the flags that a request stands for.

    Raises
    ------
    UsageWrong
        A field is missing, or a parameter is unknown.
    """
    progress(0.0)
    # A survey looks at all pictures of a folder, a run at one.
    looks = bool(request.get("survey"))
    flags: list[str] = ["--survey"] if looks else []
    for field, flag in (("input_dir" if looks else "input", "-i"), ("output_dir", "-o")):
        if not request.get(field):
            raise UsageWrong(f"the request has no {field}")
        flags += [flag, str(request[field])]
    for field, flag in _OPTIONAL.items():
        if request.get(field) is not None:
            flags += [flag, str(request[field])]
    region = request.get("region") or {}
    if region:
        x, y, width, height = (region.get(side, 0) for side in ("x", "y", "width", "height"))
        flags += ["-s", f"{x},{y}", "-b", f"{width},{height}"]
    for letter, value in (request.get("parameters") or {}).items():
        if letter not in _PARAMETERS:
            raise UsageWrong(
                f"unknown parameter {letter!r}, expected one of {', '.join(sorted(_PARAMETERS))}"
            )
        flags += [f"-{letter}", str(value)]
    return flags
