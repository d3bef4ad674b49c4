"""One run as a conversation with a program that stays: what is said, and what the answer means."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dynsvc.errors import DynsvcError
from dynsvc.runtime import Run
from workers.pool import Unusable
from workers.runtimes.ending import Ending
from workers.runtimes.output import Output
from workers.runtimes.stream import Lines, LineTooLong, Streams

__all__ = ["Answer", "Conversation", "Language"]

_ASK_S = 0.25
#: stderr has a way of its own, so what was printed there before an answer may come a little after it.
_TRAIL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The end of one run."""

    #: Makes the error from the ending; None for a success.
    error: Callable[[Ending], DynsvcError | None] | None = None


class Language(Protocol):
    """How a kind of kept container is spoken to."""

    def argv(self, run: Run) -> tuple[str, ...]:
        """Return what the container executes."""
        ...

    def is_ready(self, line: bytes) -> bool:
        """Return whether *line* says that the container serves; Unusable is raised where it never will."""
        ...

    def message(self, run: Run, number: str) -> bytes:
        """Return what is written for one run."""
        ...

    def understand(self, line: bytes, number: str) -> Answer | str | None:
        """Return what a line of stdout means: the end, a line for the log in its place, or None for itself.

        Raises
        ------
        Unusable
            It breaks the protocol.
        """
        ...


class Conversation:
    """Speaks with one container about one run at a time."""

    def __init__(self, stream: Streams, language: Language) -> None:
        self._stream, self._language = stream, language
        self._lines = Lines()

    def wait_ready(self, run: Run, ended: Callable[[], bool]) -> None:
        """Wait until the program serves, for at most the run's time limit.

        Raises
        ------
        Unusable
            It ended, or said that it will never serve; its last lines are told.
        """
        output = Output(lambda _line: None)
        try:
            self._listen(
                run,
                output,
                ended,
                lambda line: Answer() if self._language.is_ready(line) else None,
                time.monotonic(),
            )
        except Unusable as error:
            raise Unusable(f"{error}; {output.last_lines[-500:]}") from error

    def ask(
        self, run: Run, number: str, output: Output, ended: Callable[[], bool]
    ) -> tuple[float, DynsvcError | None]:
        """Have one run done; return how long it took, in seconds, and the error that was answered.

        Raises
        ------
        Unusable
            The container is gone, or says what nobody understands.
        TimeLimitExceeded, AttemptEnded
            There is no answer yet, and the container still works.
        """
        begin = time.monotonic()
        if not self._stream.send(self._language.message(run, number)):
            raise Unusable("it does not take messages")
        answer = self._listen(run, output, ended, lambda line: self._language.understand(line, number), begin)
        if answer.error:
            self._trail(output)
        else:
            self._pieces(self._stream.receive(0) or [], output)
        output.finish()
        duration_s = time.monotonic() - begin
        error = answer.error(Ending(run, duration_s, output.last_lines)) if answer.error else None
        return duration_s, error

    def _listen(
        self,
        run: Run,
        output: Output,
        ended: Callable[[], bool],
        meaning: Callable[[bytes], Answer | str | None],
        begin: float,
    ) -> Answer:
        deadline, ask_at = begin + run.limits.timeout_s, begin
        while True:
            now = time.monotonic()
            if now >= ask_at:
                if ended():
                    raise Ending(run, now - begin, output.last_lines).by_owner()
                ask_at = now + _ASK_S
            if now >= deadline:
                raise Ending(run, now - begin, output.last_lines).by_time_limit()
            pieces = self._stream.receive(min(ask_at, deadline) - now)
            if pieces is None:
                raise Unusable("it has ended")
            answer: Answer | None = None
            for line in self._pieces(pieces, output):
                said = meaning(line) if answer is None else None
                if isinstance(said, Answer):
                    answer = said
                else:
                    output.feed((line if said is None else said.encode()) + b"\n")
            if answer:
                return answer

    def _pieces(self, pieces: list[tuple[int, bytes]], output: Output) -> list[bytes]:
        """Return the lines of stdout; what is on stderr goes to the log."""
        ended: list[bytes] = []
        for number, piece in pieces:
            if number == 2:
                output.feed(piece, 2)
                continue
            try:
                ended += self._lines.feed(piece)
            except LineTooLong as error:
                raise Unusable("a line of its output is longer than 1 MiB") from error
        return ended

    def _trail(self, output: Output) -> None:
        until = time.monotonic() + _TRAIL_S
        while (left_s := until - time.monotonic()) > 0 and (
            pieces := self._stream.receive(left_s)
        ) is not None:
            for line in self._pieces(pieces, output):
                output.feed(line + b"\n")
