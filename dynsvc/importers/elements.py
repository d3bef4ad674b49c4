"""XML as a small tree that knows its lines. Document types and entities are refused: nothing needs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

from dynsvc.errors import DescriptorInvalid

__all__ = ["Element", "parse_xml"]

_MAX_DEPTH = 32


@dataclass(frozen=True, slots=True)
class Element:
    """One element: its own text, its attributes, its children, and the line where it begins."""

    tag: str
    line: int
    attributes: Mapping[str, str]
    children: list[Element] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The element's own text, without blanks at its ends."""
        return "".join(self.pieces).strip()

    def child(self, tag: str) -> Element | None:
        """Return the first child with that tag."""
        return next(self.all(tag), None)

    def all(self, tag: str) -> Iterator[Element]:
        """Return the children with that tag."""
        return (child for child in self.children if child.tag == tag)

    def of(self, tag: str, default: str = "") -> str:
        """Return the text of the first child with that tag."""
        child = self.child(tag)
        return default if child is None else child.text


def parse_xml(text: str, path: str) -> Element:
    """Return the root of an XML document.

    Raises
    ------
    DescriptorInvalid
        It is not well formed, has a document type, or is nested too deeply.
    """
    # The text is decoded already, whatever encoding its first line declares.
    parser = expat.ParserCreate("utf-8")
    top = Element("", 0, {})
    stack = [top]

    def refuse(*_: object) -> None:
        raise DescriptorInvalid(
            f"{path}:{parser.CurrentLineNumber}", "DOCTYPE", "a document type", "XML without one"
        )

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, parser.CurrentLineNumber, attributes)
        stack[-1].children.append(element)
        stack.append(element)
        if len(stack) > _MAX_DEPTH:
            raise DescriptorInvalid(
                f"{path}:{element.line}", f"<{tag}>", "more elements in each other", f"at most {_MAX_DEPTH}"
            )

    def characters(piece: str) -> None:
        stack[-1].pieces.append(piece)

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _tag: stack.pop()
    parser.CharacterDataHandler = characters
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise DescriptorInvalid(f"{path}:{error.lineno}", "the file", str(error), "XML") from error
    return top.children[0]
