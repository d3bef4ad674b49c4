"""What the stand-ins share: an HTTP server in a thread, with an owner."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

import structlog

__all__ = ["Reply", "Request", "Standin", "json_reply"]

log = structlog.get_logger(__name__)


class Request:
    """One request as a stand-in sees it. *path* is still percent-encoded."""

    def __init__(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> None:
        parts = urlsplit(target)
        self.method = method
        self.target = target
        self.path = parts.path
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.body = body


class Reply:
    """What a stand-in answers."""

    def __init__(self, status: int, body: bytes = b"", media_type: str = "text/plain") -> None:
        self.status, self.body, self.media_type = status, body, media_type


def json_reply(status: int, document: Any) -> Reply:
    """Return *document* as an answer."""
    return Reply(status, json.dumps(document).encode(), "application/json")


class _Server(ThreadingHTTPServer):
    """Knows its connections, so that a stopped server is as silent on kept ones as on new ones."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Standin:
    """An HTTP server on a socket of its own. Use it as a context manager, or call start and stop.

    Parameters
    ----------
    host
        Address to listen on; this machine only by default.
    port
        0 for any free one.
    """

    #: Largest request body that is taken.
    max_body_bytes: ClassVar[int] = 1024**3

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._address = (host, port)
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        #: All requests so far, for whoever wants to know what was asked.
        self.requests: list[Request] = []

    def answer(self, request: Request) -> Reply:
        """Return the answer to *request*; called in a thread for each connection."""
        raise NotImplementedError

    @property
    def port(self) -> int:
        """The port that is listened on."""
        if self._server is None:
            raise RuntimeError("the stand-in is not started")
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """The server's URL without a slash at its end."""
        return f"http://{self._address[0]}:{self.port}"

    def start(self) -> None:
        """Listen; returns when connections are accepted."""
        standin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def _serve(self) -> None:
                length = self.headers.get("Content-Length", "0")
                size = int(length) if length.isdigit() else 0
                if size > standin.max_body_bytes:
                    self.send_error(413)
                    self.close_connection = True
                    return
                request = Request(self.command, self.path, dict(self.headers.items()), self.rfile.read(size))
                standin.requests.append(request)
                reply = standin.answer(request)
                with contextlib.suppress(ConnectionError):
                    self.send_response(reply.status)
                    self.send_header("Content-Type", reply.media_type)
                    self.send_header("Content-Length", str(len(reply.body)))
                    self.end_headers()
                    self.wfile.write(reply.body)

            do_GET = do_POST = do_DELETE = _serve  # noqa: N815 - names that http.server calls

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                log.debug("standin.request", server=type(standin).__name__, line=format % args)

        server = _Server(self._address, Handler)
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.05,), name=type(self).__name__)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and cut all connections; requests in progress are not waited for."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join(timeout=10)
            self._server.server_close()
        self._server = self._thread = None

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
