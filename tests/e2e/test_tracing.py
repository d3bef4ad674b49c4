"""The trace of an order, as a real OpenTelemetry exporter sends it to a collector on a socket."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from dynsvc.messages import STEPS
from tests.support.hospital import Hospital, eventually
from tests.support.orders import v4

pytestmark = [pytest.mark.services]


class Collector:
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                request = ExportTraceServiceRequest.FromString(body)
                spans.extend(
                    s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans
                )
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.close()


def facts(span: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in span.attributes}


def test_an_order_is_one_trace_over_bridge_broker_and_steps(site: Hospital, collector: Collector) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    site.install_copying_segmenter()
    worker, bridge = site.start_worker(**env), site.start_bridge(**env)
    good = site.kue.post_job("analysisJob", v4(x=10, y=20, w=64, h=48))
    bad = site.kue.post_job("analysisJob", {"order": {"no": "order"}})
    site.wait_ended(good, bad)
    steps = [name.removeprefix("dynsvc.") for name in STEPS]
    expected = {*steps, "order", "complete"}

    def of(order_id: str) -> list[Any]:
        return [span for span in collector.spans if facts(span)["dynsvc.order_id"] == order_id]

    eventually(lambda: {span.name for span in of(good)} == expected, 30, "all spans of the order")
    eventually(lambda: len(of(bad)) == 2, 30, "the spans of the order that failed")
    spans = {span.name: span for span in of(good)}
    job = site.jobs.read(good)
    assert job is not None
    # Who knows the attempt finds its trace.
    assert {span.trace_id.hex() for span in spans.values()} == {job.worker_id.removeprefix("dynsvc:")}
    root = spans.pop("order")
    assert root.parent_span_id == b""
    assert {span.parent_span_id for span in spans.values()} == {root.span_id}
    assert len({span.span_id for span in spans.values()}) == 5
    begins = [spans[name].start_time_unix_nano for name in steps]
    assert begins == sorted(begins)
    assert facts(spans["upload_zip"])["dynsvc.algorithm"] == "pathomics"
    (failed,) = [span for span in of(bad) if span.name == "fetch_order"]
    assert failed.status.code == failed.status.STATUS_CODE_ERROR
    assert {span.trace_id for span in of(bad)} != {root.trace_id}
    # Spans that are not sent yet go out when the process ends.
    assert (worker.stop(), bridge.stop()) == (0, 0)


def test_a_collector_that_is_away_holds_up_no_order(site: Hospital) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    site.install_copying_segmenter()
    site.start_worker(**env)
    site.start_bridge(**env)
    order_id = site.kue.post_job("analysisJob", v4(x=10, y=20, w=64, h=48))
    site.wait_ended(order_id)
    assert site.kue.get(f"/job/{order_id}")["state"] == "complete"
