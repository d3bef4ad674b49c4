"""What ``dynsvc check`` asks of one peer, and what it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dynsvc.errors import DynsvcError

__all__ = ["Finding", "Probe"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one probe found."""

    #: ``broken`` makes the check fail; ``off``: not configured, and not needed.
    state: Literal["ok", "warning", "broken", "off"]
    text: str
    #: What to do about it.
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """A peer and its test."""

    name: str
    test: Callable[[], Finding]
    advice: str
    #: Whether orders can run without this peer.
    needed: bool = True

    def run(self) -> Finding:
        """Test the peer. Errors of ours become findings."""
        try:
            return self.test()
        except DynsvcError as error:
            return Finding("broken" if self.needed else "warning", str(error), self.advice)
