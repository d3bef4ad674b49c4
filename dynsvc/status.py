"""A small HTTP server that says how a process is: ``/metrics``, ``/healthz`` and ``/readyz``."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from dynsvc.errors import PeerUnavailable
from dynsvc.settings import Settings

__all__ = ["Problems", "StatusServer", "serve"]

log = structlog.get_logger(__name__)

#: Says what is wrong, one sentence each; empty where nothing is.
Problems = Callable[[], Sequence[str]]

_REQUEST_S: Final = 10.0


class StatusServer:
    """Answers until it is stopped, each request in a thread of its own.

    ``/healthz`` fails when only a restart helps, ``/readyz`` also while a peer is away or the process stops.
    Both answer with 200 or 503 and ``{"ok": …, "problems": […]}``.

    Parameters
    ----------
    host, port
        Where to listen.
    registry
        What ``/metrics`` tells.
    broken, unready
        What ``/healthz`` and ``/readyz`` look at.

    Raises
    ------
    PeerUnavailable
        The address cannot be listened on: another process has the port.
    """

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, *, broken: Problems, unready: Problems
    ) -> None:
        checks = {"/healthz": broken, "/readyz": unready}

        class Handler(BaseHTTPRequestHandler):
            timeout = _REQUEST_S
            server_version, sys_version = "dynsvc", ""

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    encode, kind = choose_encoder(self.headers.get("Accept") or "")
                    self._answer(HTTPStatus.OK, kind, encode(registry))
                elif path in checks:
                    problems = list(checks[path]())
                    body = json.dumps({"ok": not problems, "problems": problems}).encode()
                    status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
                    self._answer(status, "application/json", body)
                else:
                    self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"/metrics /healthz /readyz\n")

            def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
                log.debug("status asked", line=format % args)

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise PeerUnavailable(f"address {host}:{port}", error.strerror or str(error)) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="status", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()


def serve(
    settings: Settings, registry: CollectorRegistry, *, broken: Problems, unready: Problems
) -> StatusServer | None:
    """Start the server that *settings* ask for; None where they ask for none.

    A port that is taken is logged, not raised: orders go on without their numbers.
    """
    if settings.metrics_port is None:
        return None
    host, port = settings.metrics_host, settings.metrics_port
    try:
        server = StatusServer(host, port, registry, broken=broken, unready=unready)
    except PeerUnavailable as error:
        log.warning("no metrics and no health from this process", error=str(error))
        return None
    log.info("metrics and health", address=f"http://{host}:{port}/metrics")
    return server
