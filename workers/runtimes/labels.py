"""What an image says of itself, as far as a result should tell it."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["stated"]

#: The names that the Open Container Initiative gave, and ours for versions of libraries.
_NAMES = ("org.opencontainers.image.", "dynsvc.library.")
_MOST = 100
_CHARACTERS = 200


def stated(labels: object) -> dict[str, str]:
    """Return the labels that tell where an image comes from and what is in it, sorted and cut."""
    given = labels if isinstance(labels, Mapping) else {}
    told = sorted((str(name), str(text)) for name, text in given.items() if str(name).startswith(_NAMES))
    return {name[:_CHARACTERS]: text[:_CHARACTERS] for name, text in told[:_MOST]}
