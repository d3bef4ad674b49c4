"""Logging: events with fields, to stderr, as text for people or as JSON lines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import structlog
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.typing import EventDict, Processor

from dynsvc.settings import Settings

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["configure"]

#: These tell a line for each connection or task; at INFO that hides ours, which say whose order it is.
_TALKATIVE = ("urllib3", "docker", "fsspec", "PIL", "celery.worker.strategy", "celery.app.trace")


def configure(settings: Settings) -> None:
    """Send structlog's events and the standard library's records through one renderer to one stream."""
    facts: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[Processor]
    if settings.log_format == "json":
        rendering = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    elif sys.stderr.isatty():
        # The default would print every frame's variables, and with them secrets.
        rendering = [ConsoleRenderer(colors=True, exception_formatter=plain_traceback)]
    else:
        rendering = [_Text()]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=facts,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        processors=[*facts, lambda _logger, _method, event: ((event,), {})],
        # A record of the standard library for each event would cost several times what the line does.
        logger_factory=lambda name="dynsvc": _Lines(name, rendering, handler),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


class _Lines:
    """Writes events as lines to a handler's stream, under its lock. No failure of that reaches a caller."""

    def __init__(
        self, name: str, rendering: Sequence[Processor], handler: logging.StreamHandler[TextIO]
    ) -> None:
        self.name = name
        self._rendering = rendering
        self._handler = handler
        self._lock = handler.lock or nullcontext()

    def info(self, event: EventDict) -> None:
        """Write *event*; its level is one of its fields."""
        handler = self._handler
        try:
            line: Any = event
            for render in self._rendering:
                line = render(self, "", line)
            with self._lock:
                handler.stream.write(f"{line}\n")
                handler.stream.flush()
        except Exception:  # noqa: BLE001 - as handlers do: no order fails by what is told of it
            handler.handleError(logging.makeLogRecord({"name": self.name, "msg": "a line was lost"}))

    debug = warning = error = critical = info


class _Text:
    """Renders lines as structlog's ConsoleRenderer does without colours, in a fifth of the time."""

    #: What only some lines have, and the original does then.
    _RARE = frozenset({"exc_info", "exception", "stack", "logger_name"})
    _COLUMNS = frozenset({"timestamp", "level", "event", "logger"})
    #: Values with one of these are quoted.
    _QUOTED = frozenset(" \t=\r\n\"'")

    def __init__(self) -> None:
        self._original = ConsoleRenderer(colors=False, exception_formatter=plain_traceback)

    def __call__(self, logger: Any, method: str, event: EventDict) -> str:
        if not (self._RARE.isdisjoint(event) and self._COLUMNS.issubset(event)):
            return self._original(logger, method, event)
        timestamp, level, what, name = (
            event.pop(column) for column in ("timestamp", "level", "event", "logger")
        )
        fields = " ".join([f"{key}={self._shown(event[key])}" for key in sorted(event)])
        return f"{timestamp} [{level:<9}] {what!s:<30} [{name}] {fields}".rstrip(" ")

    def _shown(self, value: object) -> str:
        return value if isinstance(value, str) and self._QUOTED.isdisjoint(value) else repr(value)
