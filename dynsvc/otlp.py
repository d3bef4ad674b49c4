"""Spans to an OpenTelemetry collector. Needs the packages of ``dynsvc[tracing]``."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
    use_span,
)

__all__ = ["AttemptTracer"]


class _Ids(RandomIdGenerator):
    """Random ids, but for the root of an attempt's trace, which is known to all without a word."""

    def __init__(self) -> None:
        self.root = threading.local()

    def generate_trace_id(self) -> int:
        return getattr(self.root, "trace_id", None) or super().generate_trace_id()

    def generate_span_id(self) -> int:
        return getattr(self.root, "span_id", None) or super().generate_span_id()


class AttemptTracer:
    """Makes the spans of attempts, and sends them in the background; at the process's end the last ones."""

    def __init__(self, version: str) -> None:
        self._ids = _Ids()
        provider = TracerProvider(
            resource=Resource.create({"service.name": "dynsvc", "service.version": version}),
            id_generator=self._ids,
        )
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = provider.get_tracer("dynsvc", version)

    @contextmanager
    def of(
        self,
        trace: str,
        name: str,
        facts: Mapping[str, str | None],
        *,
        root: bool,
        no_error: tuple[type[BaseException], ...],
    ) -> Iterator[None]:
        """Have a span of the trace with this id, 32 hexadecimal digits, while the block runs."""
        trace_id, root_id = int(trace, 16), int(trace[:16], 16) or 1
        context = None
        if not root:
            sampled = TraceFlags(TraceFlags.SAMPLED)
            parent = SpanContext(trace_id, root_id, is_remote=True, trace_flags=sampled)
            context = set_span_in_context(NonRecordingSpan(parent))
        else:
            self._ids.root.trace_id, self._ids.root.span_id = trace_id, root_id
        try:
            started = self._tracer.start_span(
                name,
                context=context,
                kind=SpanKind.PRODUCER if root else SpanKind.CONSUMER,
                attributes={f"dynsvc.{key}": value for key, value in facts.items() if value is not None},
            )
        finally:
            self._ids.root.__dict__.clear()
        with use_span(started, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield
            except no_error:
                raise
            except BaseException as error:
                started.record_exception(error)
                started.set_status(StatusCode.ERROR, f"{type(error).__name__}: {error}")
                raise
