"""BIAFLOWS and Cytomine descriptions: ``descriptor.json`` of schema ``cytomine-0.1``.

A workflow is run as BIAFLOWS runs one without a server: ``--local`` with folders for input and output and no
metric computation. What the Cytomine server would set is left out. The description names neither version nor
output files, nor where in the image the program lies if that is not ``/app``.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from dynsvc.descriptors import Algorithm
from dynsvc.errors import DescriptorInvalid
from dynsvc.importers.adaptation import aliases_of, completed, literal, program_of, slug, version_of

__all__ = ["read"]

_SCHEMA: Final = "cytomine-0.1"
_TYPES: Final = {"number": "number", "string": "text", "boolean": "choice"}
#: No ground truth: the folder is empty when the program looks.
_LOCAL: Final = (
    *("--infolder", "{input_dir}"),
    *("--outfolder", "{output_dir}"),
    *("--gtfolder", "{output_dir}"),
    *("--local", "-nmc"),
)


def read(text: str, *, path: str = "descriptor.json", adaptation: Mapping[str, Any]) -> Algorithm:
    """Return the algorithm of a BIAFLOWS description, as :class:`dynsvc.importers.Importer` says."""
    return _Description(text, path).algorithm(adaptation)


class _Description:
    """One description on its way to a descriptor."""

    def __init__(self, text: str, path: str) -> None:
        self._text, self._path = text, path
        try:
            document = json.loads(text)
        except ValueError as error:
            line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise DescriptorInvalid(f"{path}{line}", "the file", str(error), "JSON") from error
        if not isinstance(document, dict):
            raise DescriptorInvalid(path, "the file", type(document).__name__, "a JSON object")
        self._document = document
        if document.get("schema-version") != _SCHEMA:
            self._refuse("schema-version", document.get("schema-version"), _SCHEMA)

    def algorithm(self, adaptation: Mapping[str, Any]) -> Algorithm:
        image = self._image()
        parameters, lines = self._parameters()
        title = self._document.get("name")
        if not isinstance(title, str) or not title:
            self._refuse("name", title, "a text")
        tag = image.rpartition(":")[2] if ":" in image.rpartition("/")[2] else ""
        document = {
            "name": slug(title),
            "title": title[:200],
            "version": version_of(tag),
            "description": str(self._document.get("description") or ""),
            "image": image,
            "command": [
                *(program_of(adaptation, self._path) or self._program()),
                *_LOCAL,
                *(["{parameters}"] if parameters else []),
            ],
            "parameters": parameters,
            # BIAFLOWS' workflows look for TIFF files in the folder, and most write one for each. That file is
            # not declared as a mask: without a table, a mask says that nothing was found.
            "input": {"format": "tiff"},
            "outputs": {"required": ["*.tif"]},
        }
        return completed(document, adaptation, self._path, lines)

    def _image(self) -> str:
        container = self._document.get("container-image")
        image = container.get("image") if isinstance(container, dict) else None
        if not isinstance(image, str) or not image:
            self._refuse("container-image", container, "an object with the image's name")
        return image

    def _program(self) -> list[str]:
        line = self._document.get("command-line")
        keys = {str(entry.get("id", "")).upper() for entry in self._inputs()}
        try:
            words = shlex.split(line) if isinstance(line, str) else []
        except ValueError:
            words = []
        program: list[str] = []
        for word in words:
            if word.strip("[]@") in keys or word.startswith(("-", "@", "[")):
                break
            # The template's Dockerfile puts the wrapper there, and its entry point names it so.
            program.append(literal(f"/app/{word}" if word.endswith(".py") and "/" not in word else word))
        if not program:
            self._refuse("command-line", line, "a program and its arguments")
        return program

    def _inputs(self) -> list[dict[str, Any]]:
        inputs = self._document.get("inputs")
        if not isinstance(inputs, list) or not all(isinstance(entry, dict) for entry in inputs):
            self._refuse("inputs", inputs, "a list of objects")
        return inputs

    def _parameters(self) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
        inputs = self._inputs()
        names = [str(entry.get("id", "")) for entry in inputs]
        taken = set(names)
        found: dict[str, Any] = {}
        lines: dict[tuple[str, ...], int] = {}
        for name, entry in zip(names, inputs, strict=True):
            if entry.get("set-by-server") is True:
                if not name.startswith("cytomine_") and not entry.get("optional"):
                    self._refuse(name, "set-by-server", "a value that an order can give", name)
                continue
            if not name or name in found:
                self._refuse("id", name, "an id of its own for each input", name)
            found[name] = self._parameter(name, entry, taken)
            line = self._line(name)
            if line:
                lines["parameters", name] = line
        return found, lines

    def _parameter(self, name: str, entry: Mapping[str, Any], taken: set[str]) -> dict[str, Any]:
        declared = str(entry.get("type", "")).lower()
        if declared not in _TYPES:
            self._refuse(f"{name}.type", entry.get("type"), "Number, String or Boolean", name)
        flag = str(entry.get("command-line-flag") or "--@id").replace("@ID", name).replace("@id", name)
        default = entry.get("default-value", entry.get("default"))
        choices = entry.get("value-choices")
        parameter: dict[str, Any] = {
            "flag": flag,
            "type": "choice" if choices else _TYPES[declared],
            "help": str(entry.get("description") or entry.get("name") or ""),
            "aliases": aliases_of(name, [flag], taken),
        }
        if declared == "boolean":
            parameter |= {"choices": ["true", "false"], "map": {"True": "true", "False": "false"}}
            default = str(default).lower() if isinstance(default, bool) else default
        elif choices:
            parameter["choices"] = [str(choice) for choice in choices]
            default = None if default is None else str(default)
        for bound, ours in (("minimum", "min"), ("maximum", "max")):
            if bound in entry:
                parameter[ours] = entry[bound]
        if default not in (None, ""):
            parameter["default"] = default
        elif not entry.get("optional"):
            parameter["required"] = True
        return parameter

    def _line(self, name: str) -> int | None:
        """Return the line with the id, or the key, *name*."""
        quoted = re.escape(json.dumps(name))
        match = re.search(rf'"id"\s*:\s*{quoted}', self._text) or re.search(rf"{quoted}\s*:", self._text)
        return self._text.count("\n", 0, match.start()) + 1 if match else None

    def _refuse(self, field: str, found: object, expected: str, name: str | None = None) -> NoReturn:
        line = self._line(name or field)
        shown = found if isinstance(found, str | int | float | None) else json.dumps(found)[:200]
        raise DescriptorInvalid(f"{self._path}:{line}" if line else self._path, field, shown, expected)
