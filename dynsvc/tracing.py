"""OpenTelemetry: one trace for each attempt of an order, over bridge, broker and steps. Off by default.

``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``) turns it on, where the extra
``dynsvc[tracing]`` is installed. The trace's id is the one in the attempt's token, so nothing has to travel
with the messages, and whoever knows the token finds the trace.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import structlog

from dynsvc import __version__

__all__ = ["span"]

log = structlog.get_logger(__name__)

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_TOKEN: Final = re.compile(r"dynsvc:([0-9a-f]{32})")


def span(
    name: str,
    token: str,
    facts: Mapping[str, str | None],
    *,
    root: bool = False,
    no_error: tuple[type[BaseException], ...] = (),
) -> AbstractContextManager[None]:
    """Have a span of the attempt's trace while the block runs; what leaves the block is its error.

    Parameters
    ----------
    name
        A step, or what a bridge does.
    token
        The attempt's token.
    facts
        What is known of the order; None is left out.
    root
        Whether this is the span that all others of the attempt belong to.
    no_error
        Exceptions that end a block well.
    """
    tracer = _tracer()
    match = _TOKEN.fullmatch(token) if tracer else None
    if match is None:
        return nullcontext()
    made: AbstractContextManager[None] = tracer.of(match[1], name, facts, root=root, no_error=no_error)
    return made


@functools.cache
def _tracer() -> Any:
    """Return what makes spans, or None where nobody wants them."""
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return None
    try:
        from dynsvc.otlp import AttemptTracer  # noqa: PLC0415  (an extra's packages)
    except ImportError as error:
        log.warning("no traces: pip install dynsvc[tracing]", error=str(error))
        return None
    return AttemptTracer(__version__)
