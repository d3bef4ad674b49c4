"""Turns a function into a warm algorithm: a program that starts once and does one region after the other.

Copy this file next to your program; it needs nothing but the standard library. Version 1 of the protocol::

    from dynsvc_warm import serve

    def segment(request, progress):
        pixels = read(request["input"])
        progress(0.5)
        write(request["output_dir"], ...)
        return {"count": 42}                # optional

    serve(segment)
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

__all__ = ["serve"]

Request = dict[str, Any]
Function = Callable[[Request, Callable[[float], None]], "dict[str, Any] | None"]


def serve(function: Function) -> None:
    """Call *function* with each request until stdin ends, and answer with what it returns or raises."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    # Libraries read nothing of it, and all that anybody prints goes the answers' way: so it stays in order.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(1, 2)

    def say(**message: Any) -> None:
        # Somebody may have begun a line and not ended it.
        line = memoryview(b"\n" + json.dumps(message).encode() + b"\n")
        while line:
            line = line[os.write(1, line) :]

    say(type="ready", protocol=1)
    for line in requests:
        request = json.loads(line)
        number = request["id"]

        def progress(fraction: float, number: str = number) -> None:
            say(type="progress", id=number, fraction=float(fraction))

        answer: dict[str, Any] = {"id": number}
        try:
            result = json.loads(json.dumps(function(request, progress) or {}))
            answer |= {"ok": True, "result": result}
        except Exception as error:  # noqa: BLE001  (it is the function's, and is told)
            traceback.print_exc()
            answer |= {"ok": False, "error": {"type": type(error).__name__, "message": str(error)}}
        sys.stdout.flush()
        sys.stderr.flush()
        say(**answer)
