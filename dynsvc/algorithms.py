"""The algorithms of an installation, and the choice of one for an order."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dynsvc.commands import Placeholders
from dynsvc.descriptor_text import parse, read_toml
from dynsvc.descriptors import Algorithm, Device, Outputs, ResourceLimits, json_schema
from dynsvc.errors import DescriptorInvalid, SettingsInvalid, UnknownAlgorithm
from dynsvc.importers import ADAPTATION, FORMATS

__all__ = [
    "DESCRIPTION",
    "Algorithm",
    "Catalog",
    "Device",
    "Outputs",
    "Placeholders",
    "ResourceLimits",
    "described_in",
    "json_schema",
    "read_descriptor",
    "read_text",
]

#: Our own description of an algorithm.
DESCRIPTION = "algorithm.toml"


def described_in(folder: Path) -> Path | None:
    """Return the description of the algorithm in *folder*: our own, else a foreign one, else None."""
    names = (DESCRIPTION, *(name for name, _ in FORMATS.values()))
    # A link to nowhere counts: reading it tells what is wrong.
    return next((folder / name for name in names if os.path.lexists(folder / name)), None)


def read_descriptor(path: Path) -> Algorithm:
    """Read one description, whose name tells its format. A foreign one is adapted by what lies beside it.

    Raises
    ------
    DescriptorInvalid
        The file cannot be read, or something in it is not as expected.
    """
    text = read_text(path)
    importer = next((importer for name, importer in FORMATS.values() if name == path.name), None)
    if importer is None:
        return parse(text, str(path))
    beside = path.with_name(ADAPTATION)
    adaptation = read_toml(read_text(beside), str(beside)) if beside.is_file() else {}
    return importer(text, path=str(path), adaptation=adaptation)


def read_text(path: Path) -> str:
    """Return the text of one file.

    Raises
    ------
    DescriptorInvalid
        It cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise DescriptorInvalid(str(path), "the file", reason, "a readable file") from error
    except UnicodeDecodeError as error:
        raise DescriptorInvalid(str(path), "the file", str(error), "text in UTF-8") from error


@dataclass(frozen=True, slots=True)
class Catalog:
    """The algorithms of this installation. A broken descriptor does not hide the others."""

    #: By name, sorted.
    algorithms: Mapping[str, Algorithm]
    problems: tuple[DescriptorInvalid, ...] = ()

    def __iter__(self) -> Iterator[Algorithm]:
        return iter(self.algorithms.values())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the description in each folder below *folder*.

        Raises
        ------
        SettingsInvalid
            There is no such folder.
        """
        if not folder.is_dir():
            raise SettingsInvalid(
                "DYNSVC_ALGORITHMS", f"{folder} (no such folder)", "a folder with one folder per algorithm"
            )
        found: dict[str, Algorithm] = {}
        paths: dict[str, Path] = {}
        problems: list[DescriptorInvalid] = []
        for path in filter(None, map(described_in, sorted(folder.glob("*/")))):
            try:
                algorithm = read_descriptor(path)
            except DescriptorInvalid as problem:
                problems.append(problem)
                continue
            name = algorithm.name
            if name in found:
                expected = f"a name of its own, {paths[name]} has this one"
                problems.append(DescriptorInvalid(str(path), "name", name, expected))
            else:
                found[name], paths[name] = algorithm, path
        return cls(dict(sorted(found.items())), tuple(problems))

    def find(self, name: str) -> Algorithm | None:
        """Return the algorithm of that exact name, else the one whose pattern matches *name* most closely."""
        if name in self.algorithms:
            return self.algorithms[name]
        best = max(self, key=lambda algorithm: algorithm.answers_to(name), default=None)
        return best if best and best.answers_to(name) else None

    def choose(self, name: str, default: str, order_id: str) -> Algorithm:
        """Return the algorithm for an order.

        Parameters
        ----------
        name
            As ordered.
        default
            Name of the algorithm for all other names; empty or ``none`` for no such default.
        order_id
            For the error.

        Raises
        ------
        UnknownAlgorithm
            Nothing answers to the name, or the default does not exist (permanent).
        """
        if algorithm := self.find(name):
            return algorithm
        wanted = name if default in ("", "none") else default
        if wanted in self.algorithms:
            return self.algorithms[wanted]
        close = difflib.get_close_matches(wanted, self.algorithms, n=1)
        raise UnknownAlgorithm(order_id, wanted, close[0] if close else None)
