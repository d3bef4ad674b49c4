"""Where commands print: results to stdout, warnings of the library to stderr."""

from __future__ import annotations

import logging
import sys

import structlog
from rich.console import Console

__all__ = ["console"]


def console() -> Console:
    """Return a console on stdout that takes all text literally, and keep chatter off the screen."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        # Asked for at each line: whoever calls commands from a program may have replaced the stream.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
    return Console(markup=False, highlight=False, emoji=False, soft_wrap=True)
