"""Messages on Kue's channel. They are hints: any of them may be lost, doubled, malformed or forged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from dynsvc.kue.ids import is_job_id

__all__ = ["TO_FOLLOW", "Event", "parse_event"]

#: Names of the events that whoever works for Kue has to follow: jobs that come, vanish, or are out of time.
TO_FOLLOW: Final = ("enqueue", "remove", "ttl exceeded")

#: Longer messages are ignored; a job's result is the largest thing an honest one carries.
_LONGEST_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something happened to a job, by its own account."""

    job_id: str
    name: str
    #: What follows the name; meaning and length depend on it.
    args: tuple[Any, ...] = ()

    @property
    def is_enqueue(self) -> bool:
        """A job waits: new, promoted, to be tried again, or put back by hand."""
        return self.name == "enqueue"

    @property
    def is_start(self) -> bool:
        """An attempt began."""
        return self.name == "start"

    @property
    def is_progress(self) -> bool:
        """A running job reported progress."""
        return self.name == "progress"

    @property
    def is_complete(self) -> bool:
        """A job ended well; :attr:`result` is what it returned."""
        return self.name == "complete"

    @property
    def is_failed(self) -> bool:
        """The last attempt failed; :attr:`message` says why."""
        return self.name == "failed"

    @property
    def is_failed_attempt(self) -> bool:
        """An attempt failed and another will follow."""
        return self.name == "failed attempt"

    @property
    def is_ended(self) -> bool:
        """The job will not run again by itself."""
        return self.name in {"complete", "failed", "remove"}

    @property
    def is_removed(self) -> bool:
        """A job was deleted."""
        return self.name == "remove"

    @property
    def is_ttl_exceeded(self) -> bool:
        """A native timer found a running job to be out of time and wants an answer within one second."""
        return self.name == "ttl exceeded"

    @property
    def job_type(self) -> str | None:
        """The job's type, where this kind of event carries it."""
        named = self.name in {"enqueue", "start", "remove"} and self.args
        return self.args[0] if named and isinstance(self.args[0], str) else None

    @property
    def result(self) -> Any:
        """What a completed job returned, or None."""
        return self.args[0] if self.is_complete and self.args else None

    @property
    def message(self) -> str | None:
        """Why a job or an attempt failed, where this kind of event says so."""
        named = self.name in {"failed", "failed attempt", "error"} and self.args
        return self.args[0] if named and isinstance(self.args[0], str) else None


def parse_event(raw: object, names: Sequence[str] = ()) -> Event | None:
    """Return the event in a message, or None for anything that is none. Never raises.

    Parameters
    ----------
    raw
        The message, text or bytes. Its id may be a number or a text; :attr:`Event.job_id` is always a text
        that :func:`dynsvc.kue.ids.is_job_id` accepts.
    names
        The events that matter, if not all do. Others, which are most, need not be read to be told from them;
        some may be returned all the same.
    """
    if isinstance(raw, bytes | bytearray | memoryview):
        raw = bytes(raw).decode("utf-8", errors="replace")
    if not isinstance(raw, str) or len(raw) > _LONGEST_BYTES:
        return None
    if names and not any(name in raw for name in names):
        return None
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    job_id = document.get("id")
    if isinstance(job_id, int) and not isinstance(job_id, bool) and 0 < job_id < 10**15:
        job_id = str(job_id)
    args = document.get("args")
    args = args if isinstance(args, list) else []
    name = document.get("event", args[0] if args else None)
    if not isinstance(name, str) or not isinstance(job_id, str) or not is_job_id(job_id):
        return None
    return Event(job_id=job_id, name=name, args=tuple(args[1:]))
