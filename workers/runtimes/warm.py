"""The warm protocol: a program that stays is told of each run by one line of JSON, and answers by another."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from dynsvc.runtime import Run, Seen
from workers.pool import Unusable
from workers.runtimes.container import SEEN
from workers.runtimes.talk import Answer

__all__ = ["PROTOCOL", "Warm"]

PROTOCOL = 1
_TEXT = 2000


class Warm:
    """Speaks with a program of this protocol, as docs/reference/warm-protocol.md says.

    Parameters
    ----------
    seen
        Tells how the program names the folders of a run.
    """

    def __init__(self, seen: Callable[[Run], Seen] = lambda _run: SEEN) -> None:
        self._seen = seen

    def argv(self, run: Run) -> tuple[str, ...]:
        """Return the program that serves."""
        return run.argv_warm

    def is_ready(self, line: bytes) -> bool:
        """Return whether the program serves.

        Raises
        ------
        Unusable
            It speaks another protocol.
        """
        document = _document(line)
        if document is None or document.get("type") != "ready":
            return False
        if document.get("protocol") != PROTOCOL:
            raise Unusable(f"it speaks protocol {document.get('protocol')!r}, expected {PROTOCOL}")
        return True

    def message(self, run: Run, number: str) -> bytes:
        """Return the line for one run: its request, the folders, and when the time limit ends it."""
        names, seen = sorted(path.name for path in run.input_dir.iterdir()), self._seen(run)
        document: dict[str, Any] = {
            # Where there is one file, nobody needs to say which.
            **({"input": f"{seen.input_dir}/{names[0]}"} if len(names) == 1 else {}),
            **run.request,
            "id": number,
            "order_id": run.order_id,
            "input_dir": seen.input_dir,
            "output_dir": seen.output_dir,
            "deadline": round(time.time() + run.limits.timeout_s, 3),
        }
        return json.dumps(document, separators=(",", ":")).encode() + b"\n"

    def understand(self, line: bytes, number: str) -> Answer | str | None:
        """Return what a line of stdout means; anything that is no message is a line of the log.

        Raises
        ------
        Unusable
            It answers what was not asked, or asks for another try in a fresh container.
        """
        document = _document(line)
        if document is None:
            return None
        if document.get("type") == "ready":
            return ""
        if document.get("type") == "progress" and "fraction" in document:
            return _progress(document["fraction"])
        if "ok" not in document or "id" not in document:
            return None
        if document["id"] != number or not isinstance(document["ok"], bool):
            raise Unusable(f"it answered {str(document['id'])[:80]!r}, asked was {number!r}")
        if document["ok"]:
            return Answer()
        return _failure(document.get("error"))


def _failure(found: object) -> Answer:
    error = found if isinstance(found, dict) else {"message": found}
    if error.get("retry") is True:
        raise Unusable(f"it asks for another try: {str(error.get('message', ''))[:_TEXT]}")
    words = [str(error[name]) for name in ("type", "message") if error.get(name)]
    text = " ".join(": ".join(words).split())[:_TEXT] or "no reason"
    return Answer(error=lambda ending: ending.by_report(f"reported an error ({text})"))


def _progress(fraction: object) -> str:
    """Return the line that other programs print for their progress."""
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
        return ""
    return f"<filter-progress>{fraction:.4f}</filter-progress>"


def _document(line: bytes) -> dict[str, Any] | None:
    if not line.startswith(b"{"):
        return None
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
