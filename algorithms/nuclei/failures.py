"""How the program can fail. Each failure knows its exit status; 0 is success.

::

    Failure
    ├── UsageWrong        2   the command line cannot be used
    ├── InputUnreadable   3   the picture or slide cannot be used
    └── OutputFailed      4   a result could not be written
"""

from __future__ import annotations

from typing import ClassVar

__all__ = ["Failure", "InputUnreadable", "OutputFailed", "UsageWrong"]


class Failure(Exception):
    """Base of all failures; the text is one sentence for the user."""

    exit_status: ClassVar[int] = 1


class UsageWrong(Failure):
    """The command line cannot be used."""

    exit_status = 2


class InputUnreadable(Failure):
    """The picture or slide cannot be used."""

    exit_status = 3


class OutputFailed(Failure):
    """A result could not be written."""

    exit_status = 4
