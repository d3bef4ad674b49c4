"""What an algorithm prints: drained while it runs, remembered only as far as people need it."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable

__all__ = ["Output"]

#: Longer lines are cut: progress and complaints are short, and a line is kept in memory.
_LINE_BYTES = 2000
_LINES = 200
#: The lines travel in error messages and land in Kue's log.
_KEPT_CHARACTERS = 32_000
#: Control characters would reach terminals and pages where the lines are shown.
_CONTROL = dict.fromkeys([*range(9), *range(10, 32), *range(127, 160)])


class Output:
    """Splits a byte stream into lines, reports each, and keeps the last ones.

    A carriage return ends a line as a newline does, so that progress bars are seen moving. Blank lines are
    left out. Bytes that are not UTF-8 become replacement characters.

    Parameters
    ----------
    on_line
        Called with each line, without its end, from within :meth:`feed`.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        #: The line that each stream has begun, and the streams whose line got too long.
        self._begun: defaultdict[int, bytearray] = defaultdict(bytearray)
        self._cut: set[int] = set()
        self._lines: deque[str] = deque(maxlen=_LINES)

    def feed(self, data: bytes, stream: int = 1) -> None:
        """Take the next bytes of one of the streams."""
        if b"\r" in data:
            data = data.replace(b"\r", b"\n")
        *ended, begun = data.split(b"\n")
        for piece in ended:
            self._grow(piece, stream)
            self._end(stream)
        self._grow(begun, stream)

    def finish(self) -> None:
        """End the lines that were begun: the streams are at their end."""
        for stream in list(self._begun):
            self._end(stream)

    @property
    def last_lines(self) -> str:
        """The last lines, at most 200 and at most 32 000 characters."""
        kept: list[str] = []
        room = _KEPT_CHARACTERS
        for line in reversed(self._lines):
            room -= len(line) + 1
            if room < 0:
                break
            kept.append(line)
        return "\n".join(reversed(kept))

    def _grow(self, piece: bytes, stream: int) -> None:
        begun = self._begun[stream]
        room = _LINE_BYTES - len(begun)
        if len(piece) > room:
            self._cut.add(stream)
        begun += piece[:room]

    def _end(self, stream: int) -> None:
        begun = self._begun[stream]
        if not begun:
            return
        line = begun.decode(errors="replace").translate(_CONTROL).rstrip()
        if stream in self._cut:
            line += "…"
        begun.clear()
        self._cut.discard(stream)
        if line:
            self._lines.append(line)
            self._on_line(line)
