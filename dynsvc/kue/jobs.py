"""Kue's record of a job, read from its hash or from its HTTP API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dynsvc.errors import PeerRefused
from dynsvc.kue.encoding import stringify

__all__ = ["Job", "decoded", "job_from_api", "job_from_hash"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it was when it was read."""

    id: str
    type: str
    #: JSON text as it is stored: it may be malformed. ``{}`` where the job has none.
    data_text: str
    #: As stored; foreign programs write words of their own. Ask the predicates.
    state: str
    priority: float = 0
    #: The token of the last attempt, empty before the first.
    worker_id: str = ""
    attempts_made: int = 0
    max_attempts: int = 1
    #: Milliseconds since the epoch; None where unknown.
    created_at_ms: int | None = None
    started_at_ms: int | None = None
    updated_at_ms: int | None = None
    failed_at_ms: int | None = None
    ttl_ms: int | None = None
    #: Percent.
    progress: int = 0
    #: Text of the last failure; a later success does not clear it.
    error: str | None = None
    #: JSON text, None where nothing was returned.
    result_text: str | None = None
    #: Everything in the hash, undecoded.
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_waiting(self) -> bool:
        """In the queue, or about to be taken from it."""
        return self.state == "inactive"

    @property
    def is_running(self) -> bool:
        """An attempt owns it."""
        return self.state == "active"

    @property
    def is_done(self) -> bool:
        """Ended well."""
        return self.state == "complete"

    @property
    def is_failed(self) -> bool:
        """Ended badly. A native worker passes through this state for a moment before each retry."""
        return self.state == "failed"

    @property
    def is_delayed(self) -> bool:
        """Waits for its time."""
        return self.state == "delayed"

    @property
    def data(self) -> Any:
        """The decoded data, or None where it is not JSON."""
        return decoded(self.data_text)

    @property
    def attempts_left(self) -> int:
        """Attempts that remain, never negative."""
        return max(0, self.max_attempts - self.attempts_made)


def job_from_hash(job_id: str, fields: Mapping[str, str]) -> Job | None:
    """Return the job in a hash, or None where it has no type: half written, or half removed."""
    if not fields.get("type"):
        return None
    return Job(
        id=job_id,
        type=fields["type"],
        data_text=fields.get("data") or "{}",
        state=fields.get("state", ""),
        priority=_number(fields.get("priority")) or 0,
        worker_id=fields.get("workerId", ""),
        attempts_made=_integer(fields.get("attempts")) or 0,
        max_attempts=_integer(fields.get("max_attempts")) or 1,
        created_at_ms=_integer(fields.get("created_at")),
        started_at_ms=_integer(fields.get("started_at")),
        updated_at_ms=_integer(fields.get("updated_at")),
        failed_at_ms=_integer(fields.get("failed_at")),
        ttl_ms=_integer(fields.get("ttl")),
        progress=_integer(fields.get("progress")) or 0,
        error=fields.get("error"),
        result_text=fields.get("result"),
        fields=dict(fields),
    )


def job_from_api(document: object, *, peer: str = "Kue's API") -> Job:
    """Return the job in an answer of Kue's HTTP API to ``GET /job/<id>``.

    Raises
    ------
    PeerRefused
        The answer is an error document, which Kue sends with status 200, or it is no job (permanent).
    """
    if not isinstance(document, dict):
        raise PeerRefused(peer, f"a JSON {type(document).__name__} instead of a job")
    if not isinstance(document.get("type"), str) or "id" not in document:
        error = document.get("error")
        raise PeerRefused(
            peer, f"{error:.200}" if isinstance(error, str) else "an object without id and type"
        )
    attempts = document.get("attempts")
    counts = attempts if isinstance(attempts, dict) else {}
    flat = {"attempts": counts.get("made"), "max_attempts": counts.get("max")}
    flat |= {name: value for name, value in document.items() if name not in {"id", "attempts"}}
    fields = {name: _field(name, value) for name, value in flat.items() if value is not None}
    if "result" in document:
        fields["result"] = stringify(document["result"])
    job = job_from_hash(str(document["id"]), fields)
    if job is None:
        raise PeerRefused(peer, "a job without a type")
    return job


def _field(name: str, value: object) -> str:
    """Return a property of the API as the hash holds it."""
    encoded = name in {"data", "progress_data"} or not isinstance(value, str)
    return stringify(value) if encoded else str(value)


def decoded(text: str | None) -> Any:
    """Return the JSON value in *text*, or None where there is none."""
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None


def _number(text: str | None) -> float | None:
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    # Also leaves out what is not a number.
    return number if abs(number) < 2**53 else None


def _integer(text: str | None) -> int | None:
    number = _number(text)
    return None if number is None else int(number)
