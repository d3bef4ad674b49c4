"""What tells a file from all others."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

__all__ = ["Measured"]


class Measured(NamedTuple):
    """What tells a file's bytes from all others."""

    #: In hexadecimal.
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, content: bytes) -> Measured:
        """Measure bytes in memory."""
        return cls(hashlib.sha256(content).hexdigest(), len(content))
