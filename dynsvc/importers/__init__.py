"""Foreign descriptions of algorithms, read unchanged: one module for each format.

An importer is a pure function ``read(text, *, path, adaptation) -> Algorithm``. What a format does not tell,
or a site wants otherwise, stands in the *adaptation*: fields of our own descriptor, and ``program``, the
argument list that starts the program.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from dynsvc.descriptors import Algorithm
from dynsvc.importers import biaflows, grand_challenge, slicer

__all__ = ["ADAPTATION", "FORMATS", "Importer", "format_of"]

#: The file beside a foreign description that holds the adaptation.
ADAPTATION: Final = "import.toml"


class Importer(Protocol):
    """Reads one foreign format."""

    def __call__(self, text: str, *, path: str, adaptation: Mapping[str, Any]) -> Algorithm:
        """Return the algorithm that *text* describes.

        Parameters
        ----------
        text
            The whole description.
        path
            Of its file, for errors.
        adaptation
            What the format does not tell.

        Raises
        ------
        DescriptorInvalid
            The first thing in it that cannot be used, with its element and line.
        """
        ...


#: Format: (name of the description in the algorithm's folder, its importer).
FORMATS: Final[Mapping[str, tuple[str, Importer]]] = {
    "slicer": ("algorithm.xml", slicer.read),
    "grand-challenge": ("grand-challenge.toml", grand_challenge.read),
    "biaflows": ("descriptor.json", biaflows.read),
}


def format_of(text: str) -> str | None:
    """Return the format of a description by its first characters, or None where they do not tell."""
    start = text.lstrip("\ufeff \t\r\n")
    if start.startswith("<"):
        return "slicer"
    if start.startswith("{"):
        return "biaflows"
    return "grand-challenge" if "[[inputs]]" in text else None
