"""Slicer CLI descriptions: the XML that a program of the Slicer execution model answers to ``--xml``.

As in slicer_cli_web, a description tells parameters, the input picture and output files, but neither image
nor program: those come from the adaptation. The picture that an order's run gets is its region already, so
that a ``region`` element keeps its default, "all of the picture".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

from dynsvc.descriptors import Algorithm
from dynsvc.errors import DescriptorInvalid
from dynsvc.importers.adaptation import aliases_of, completed, program_of, slug, version_of
from dynsvc.importers.elements import Element, parse_xml

__all__ = ["read"]

_SCALARS: Final = {
    "integer": "integer",
    "float": "number",
    "double": "number",
    "boolean": "choice",
    "string": "text",
}
_VECTORS: Final = {"integer-vector": "numbers", "float-vector": "numbers", "double-vector": "numbers"} | {
    "string-vector": "text"
}
_TYPES: Final = _SCALARS | _VECTORS
_ENUMERATIONS: Final = tuple(f"{kind}-enumeration" for kind in ("string", "integer", "float", "double"))
_BOOLEANS: Final = {"True": "true", "1": "true", "False": "false", "0": "false"}
#: A parameter's text is not longer.
_MAX_CHARACTERS: Final = 200
_PICTURES: Final = ("image", "item", "file")
_KNOWN: Final = (*_TYPES, *_ENUMERATIONS, "region", *_PICTURES)
_FILES: Final = ("image", "file")
#: Filled in by the Girder server that slicer_cli_web belongs to.
_SERVERS_OWN: Final = ("girderApiUrl", "girderToken")
_RETURNED: Final = "returnparameters.txt"


def read(text: str, *, path: str = "algorithm.xml", adaptation: Mapping[str, Any]) -> Algorithm:
    """Return the algorithm of a Slicer CLI description, as :class:`dynsvc.importers.Importer` says."""
    return _Description(text, path, adaptation).algorithm()


class _Description:
    """One description on its way to a descriptor."""

    def __init__(self, text: str, path: str, adaptation: Mapping[str, Any]) -> None:
        self._path, self._adaptation = path, adaptation
        #: Python programs of the model (ctk_cli) want true or false after the flag, C++ programs nothing.
        self._booleans = adaptation.get("booleans", "value")
        if self._booleans not in ("value", "switch"):
            raise DescriptorInvalid(path, "booleans", str(self._booleans), "value or switch")
        self._root = parse_xml(text, path)
        if self._root.tag != "executable":
            self._refuse(self._root, self._root.tag, "the element <executable>")
        self._elements = [
            element
            for group in self._root.all("parameters")
            for element in group.children
            if element.tag not in ("label", "description")
        ]
        self._taken = {self._name(element) for element in self._elements}
        self._input: Element | None = None
        self._parameters: dict[str, dict[str, Any]] = {}
        self._lines: dict[tuple[str, ...], int] = {}
        self._flagged: list[str] = []
        #: By index: what stands there, and the element.
        self._places: dict[int, tuple[str, Element]] = {}
        self._required: list[str] = []
        self._optional: list[str] = []
        self._returns = False

    def algorithm(self) -> Algorithm:
        adaptation = self._adaptation
        for element in self._elements:
            self._add(element)
        if self._input is None:
            self._refuse(self._root, None, "an image or file with channel input: the picture")
        program = program_of(adaptation, self._path)
        if program is None and "command" not in adaptation:
            expected = "the argument list that starts it, in import.toml: XML names none"
            raise DescriptorInvalid(self._path, "program", None, expected)
        title = self._root.of("title") or "Slicer CLI"
        document: dict[str, Any] = {
            "name": slug(title),
            "title": title[:200],
            "version": version_of(self._root.of("version")),
            "description": self._root.of("description"),
            "command": self._command(program or []),
            "parameters": self._parameters,
            "outputs": self._outputs(),
        }
        return completed(document, adaptation, self._path, self._lines)

    def _command(self, program: list[str]) -> list[str]:
        flagged = any(parameter.get("flag") for parameter in self._parameters.values())
        returned = ["--returnparameterfile", f"{{output_dir}}/{_RETURNED}"] if self._returns else []
        places = [self._places[index][0] for index in sorted(self._places)]
        return [*program, *(["{parameters}"] if flagged else []), *self._flagged, *returned, *places]

    def _outputs(self) -> dict[str, Any]:
        required, optional = self._required, self._optional
        if self._returns:
            optional = [*optional, _RETURNED]
        if not required:
            # All have flags: they are optional to the program, and asked for by us.
            required, optional = optional, []
        if not required:
            self._refuse(self._root, None, "an output: an image, a file or a value with channel output")
        return {"required": required, "optional": optional}

    def _add(self, element: Element) -> None:
        channel = element.of("channel", "input")
        if channel not in ("input", "output"):
            self._refuse(element, channel, "channel input or output")
        if element.attributes.get("multiple", "false") != "false":
            self._refuse(element, 'multiple="true"', "a single value")
        if channel == "output":
            self._add_output(element)
        elif element.tag in (*_TYPES, *_ENUMERATIONS):
            self._add_parameter(element)
        elif element.tag == "region":
            if element.child("default") is None:
                self._refuse(element, "a region without default", "a default that means the whole picture")
        elif element.tag in _PICTURES:
            if self._input is not None:
                self._refuse(element, "another input", f"{self._name(self._input)} as the only one")
            self._input = element
            self._put(element, "{input}")
        else:
            self._refuse(
                element, element.tag, f"one of {', '.join((*_TYPES, *_ENUMERATIONS, 'region', *_PICTURES))}"
            )

    def _add_output(self, element: Element) -> None:
        if element.tag in (*_TYPES, *_ENUMERATIONS):
            self._returns = True
            return
        if element.tag not in _FILES:
            self._refuse(element, element.tag, "an image, a file or a simple value as output")
        extensions = element.attributes.get("fileExtensions", "").replace("|", ",").split(",")
        extension = extensions[0].strip().lstrip("*") or ".png"
        name = f"{self._name(element)}{extension if extension.startswith('.') else f'.{extension}'}"
        (self._optional if element.child("index") is None else self._required).append(name)
        self._put(element, f"{{output_dir}}/{name}")

    def _put(self, element: Element, value: str) -> None:
        """Let *value* stand where the element's index or flag says."""
        if (index := element.child("index")) is None:
            self._flagged += [self._flags(element)[0], value]
            return
        if not index.text.isdecimal() or int(index.text) in self._places:
            self._refuse(element, f"index {index.text}", "a whole number that no other element has")
        self._places[int(index.text)] = (value, element)

    def _add_parameter(self, element: Element) -> None:
        name = self._name(element)
        if name in _SERVERS_OWN:
            return
        if name in self._parameters:
            self._refuse(element, name, "a name that no other element has")
        parameter = self._declared(element)
        flags: list[str] = []
        if element.child("index") is None:
            flags = self._flags(element)
            parameter["flag"] = flags[0]
        else:
            self._put(element, f"{{parameters.{name}}}")
        for tag in element.children:
            for key in ("alias", "deprecatedalias"):
                flags += tag.attributes.get(key, "").split(",")
        parameter["aliases"] = aliases_of(name, flags, self._taken)
        self._parameters[name] = parameter
        self._lines["parameters", name] = element.line

    def _declared(self, element: Element) -> dict[str, Any]:
        """Return type, default, choices and range of a parameter."""
        kind = "choice" if element.tag in _ENUMERATIONS else _TYPES[element.tag]
        parameter: dict[str, Any] = {"type": kind, "help": element.of("description") or element.of("label")}
        default = element.of("default")
        if default.startswith("{#") or (kind == "text" and len(default) > _MAX_CHARACTERS):
            # {#…#} is filled in by slicer_cli_web's page. By this format, the program has the default too.
            default = ""
        if element.tag == "boolean":
            default = _BOOLEANS.get(default, default) or "false"
            if self._booleans == "value":
                parameter |= {"choices": ["true", "false"], "map": _BOOLEANS}
            elif default == "false":
                parameter["type"] = "switch"
            else:
                self._refuse(element, f"default {default}", "false with booleans = switch")
        elif kind == "choice":
            parameter["choices"] = [choice.text for choice in element.all("element")]
        if default:
            parameter["default"] = default
        elif element.child("index"):
            parameter["required"] = True
        limits = element.child("constraints")
        for bound, ours in (("minimum", "min"), ("maximum", "max")):
            if limits and limits.child(bound):
                parameter[ours] = self._number(element, bound, limits.of(bound))
        return parameter

    def _flags(self, element: Element) -> list[str]:
        long, short = element.of("longflag").lstrip("-"), element.of("flag").lstrip("-")
        flags = [*([f"--{long}"] if long else []), *([f"-{short}"] if short else [])]
        if not flags:
            self._refuse(element, "neither flag nor index", "one of <flag>, <longflag>, <index>")
        return flags

    def _name(self, element: Element) -> str:
        name = element.of("name") or element.of("longflag").lstrip("-")
        return name or self._refuse(element, "no name", "a <name>")

    def _number(self, element: Element, tag: str, text: str) -> float:
        try:
            return float(text)
        except ValueError:
            return self._refuse(element, f"{tag} {text}", "a number")

    def _refuse(self, element: Element, found: object, expected: str) -> NoReturn:
        name = element.of("name")
        raise DescriptorInvalid(
            f"{self._path}:{element.line}", f"<{element.tag}>{f' {name}' if name else ''}", found, expected
        )
