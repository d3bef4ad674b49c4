"""Warm mode for any algorithm: requests as JSON lines on standard input, answers on standard output.

The first line written is ``{"type": "ready", "protocol": 1}``. Each line read is a request with ``id``. The
answer is ``{"id", "ok": true, "result"}`` or ``{"id", "ok": false, "error"}``, where the error has ``type``,
``message`` and ``retry``; ``{"type": "progress", "id", "fraction"}`` may come before it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

__all__ = ["serve"]

Answer = Callable[[dict[str, Any], Callable[[float], None]], Any]


def serve(answer: Answer, requests: Iterable[str] | None = None) -> None:
    """Answer requests one by one until there are no more.

    Parameters
    ----------
    answer
        Called with the request and a function that reports progress from 0 to 1; returns the result. An
        exception becomes an answer with its type and text, and the next request is served.
    requests
        Lines; those of standard input by default.
    """
    # Whatever else prints goes to standard error, so that no line of the protocol is ever torn.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(**message: Any) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    def progress(name: object, fraction: float) -> None:
        send(type="progress", id=name, fraction=fraction)

    with replies:
        send(type="ready", protocol=1)
        for line in requests or sys.stdin:
            name = None
            try:
                request = json.loads(line)
                name = request.get("id")
                if float(request.get("deadline") or "inf") <= time.time():
                    raise TimeoutError("the deadline had passed before the work began")  # noqa: TRY301
                send(id=name, ok=True, result=answer(request, partial(progress, name)))
            except Exception as error:  # noqa: BLE001 - one bad request must not end the others
                retry = isinstance(error, TimeoutError | MemoryError)
                what = {"type": type(error).__name__, "message": str(error), "retry": retry}
                send(id=name, ok=False, error=what)
