"""Job ids: what counts as one, before any key is built from it."""

from __future__ import annotations

import re

__all__ = ["checked_id", "is_job_id"]

# Kue's own encoder never ends for an id of 100 characters; 15 digits also keep every reader's numbers exact.
_ID = re.compile(r"[1-9][0-9]{0,14}")


def is_job_id(text: object) -> bool:
    """Return whether *text* is a job id: a positive decimal number of at most 15 digits, as text."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def checked_id(text: str) -> str:
    """Return *text* unchanged.

    Raises
    ------
    ValueError
        It is no job id (see :func:`is_job_id`).
    """
    if not is_job_id(text):
        raise ValueError(f"a job id is a positive number of at most 15 digits, not {text!r:.60}")
    return text
