"""Images in the layout of grand-challenge: sockets below ``/input``, results below ``/output``.

The platform keeps an algorithm's sockets in its database, not in the image. ``grand-challenge.toml`` restates
them with the platform's own words (slug, kind, relative_path). The image finds the picture as TIFF in
``/input/images/…``, each value as a JSON file, and ``/input/inputs.json``, which lists the sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

from dynsvc.descriptor_text import read_toml, toml_line
from dynsvc.descriptors import Algorithm
from dynsvc.errors import DescriptorInvalid
from dynsvc.importers.adaptation import completed, program_of

__all__ = ["read"]

#: The platform's kinds that are pictures, and those that an order can give as a parameter.
_PICTURES: Final = ("image", "segmentation", "heat map", "displacement field")
_VALUES: Final = {
    "integer": "integer",
    "float": "number",
    "string": "text",
    "bool": "switch",
    "choice": "choice",
}
_PICTURE_NAME: Final = "tile.tif"
_SOCKET: Final = {
    *("slug", "kind", "relative_path", "description"),
    *("default", "minimum", "maximum", "choices", "unit", "required"),
}


def read(text: str, *, path: str = "grand-challenge.toml", adaptation: Mapping[str, Any]) -> Algorithm:
    """Return the algorithm of ``grand-challenge.toml``, as :class:`dynsvc.importers.Importer` says."""
    return _Description(text, path).algorithm(adaptation)


class _Description:
    """One description on its way to a descriptor."""

    def __init__(self, text: str, path: str) -> None:
        self._text, self._path = text, path
        self._document = read_toml(text, path)
        self._files: dict[str, Any] = {}
        self._listed: list[dict[str, Any]] = []
        self._parameters: dict[str, dict[str, Any]] = {}
        self._lines: dict[tuple[str, ...], int] = {}
        self._picture: str | None = None

    def algorithm(self, adaptation: Mapping[str, Any]) -> Algorithm:
        for number, socket in enumerate(self._sockets("inputs")):
            self._add_input(number, socket)
        if self._picture is None:
            self._refuse("inputs", None, "an input of kind Image: the picture", None)
        required, optional = self._outputs()
        program = program_of({**self._document, **adaptation}, self._path)
        if program is None:
            self._refuse("program", None, "the image's entry point and command as one list", None)
        own = {
            key: value for key, value in self._document.items() if key not in ("inputs", "outputs", "program")
        }
        for key, value in own.items():
            for place in ((key,), *((key, inner) for inner in (value if isinstance(value, dict) else ()))):
                self._lines[place] = toml_line(self._text, place) or 1
        document = {
            **own,
            "command": program,
            "parameters": self._parameters,
            "input": {
                "format": "tiff",
                "name": f"{self._picture}/{_PICTURE_NAME}",
                "files": {**self._files, "inputs.json": self._listed},
            },
            "outputs": {"required": required, "optional": optional},
        }
        return completed(document, adaptation, self._path, self._lines)

    def _add_input(self, number: int, socket: Mapping[str, Any]) -> None:
        slug, kind = self._word("inputs", number, "slug"), self._word("inputs", number, "kind").lower()
        described = {"slug": slug, "kind": socket["kind"], "relative_path": self._place(socket)}
        entry: dict[str, Any] = {"interface": described, "socket": described}
        if kind in _PICTURES:
            if self._picture is not None:
                self._refuse("inputs.kind", socket["kind"], "one input of kind Image only", number)
            self._picture = described["relative_path"]
            self._listed.append({**entry, "image": {"name": _PICTURE_NAME}})
            return
        if kind not in _VALUES:
            expected = ", ".join(("Image", *(name.title() for name in _VALUES)))
            self._refuse("inputs.kind", socket["kind"], f"one of {expected}", number)
        names = {"minimum": "min", "maximum": "max", "description": "help"}
        taken = ("default", "minimum", "maximum", "choices", "unit", "description")
        self._parameters[slug] = {"type": _VALUES[kind]} | {
            names.get(key, key): socket[key] for key in taken if key in socket
        }
        if "default" not in socket:
            self._parameters[slug]["required"] = True
        self._lines["parameters", slug] = self._line("inputs", number)
        self._files[described["relative_path"]] = f"{{parameters.{slug}}}"
        self._listed.append({**entry, "value": f"{{parameters.{slug}}}"})

    def _outputs(self) -> tuple[list[str], list[str]]:
        required: list[str] = []
        optional: list[str] = []
        for number, socket in enumerate(self._sockets("outputs")):
            self._word("outputs", number, "slug")
            picture = self._word("outputs", number, "kind").lower() in _PICTURES
            pattern = f"{self._place(socket)}/*" if picture else self._place(socket)
            (required if socket.get("required", True) else optional).append(pattern)
        return required, optional

    def _place(self, socket: Mapping[str, Any]) -> str:
        slug, picture = socket["slug"], str(socket["kind"]).lower() in _PICTURES
        return str(socket.get("relative_path") or (f"images/{slug}" if picture else f"{slug}.json"))

    def _sockets(self, table: str) -> list[dict[str, Any]]:
        sockets = self._document.get(table)
        if not isinstance(sockets, list) or not all(isinstance(socket, dict) for socket in sockets):
            self._refuse(table, sockets, f"sockets, each in a table [[{table}]]", None)
        for number, socket in enumerate(sockets):
            if unknown := set(socket) - _SOCKET:
                self._refuse(f"{table}.{min(unknown)}", "set", f"only {', '.join(sorted(_SOCKET))}", number)
        return sockets

    def _word(self, table: str, number: int, key: str) -> str:
        word = self._document[table][number].get(key)
        if not isinstance(word, str) or not word:
            self._refuse(f"{table}.{key}", word, "a text", number)
        return word

    def _line(self, table: str, number: int | None) -> int:
        """Return the line of the numbered table of that name."""
        lines = self._text.splitlines()
        found = [n for n, line in enumerate(lines, 1) if line.strip().startswith(f"[[{table}]]")]
        return found[number] if number is not None and number < len(found) else (found or [1])[0]

    def _refuse(self, field: str, found: object, expected: str, number: int | None) -> NoReturn:
        line = self._line(field.partition(".")[0], number)
        shown = found if isinstance(found, str | int | float | None) else str(found)
        raise DescriptorInvalid(f"{self._path}:{line}", field, shown, expected)
