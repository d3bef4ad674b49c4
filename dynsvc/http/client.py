"""HTTP to the hospital's servers: limits, retries and errors in one place.

Every answer has a time limit and a size limit. A redirect is followed on the same server only. Texts of
errors and log lines hold no header, no query and no userinfo of a URL.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import structlog
from pydantic import SecretStr
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError

from dynsvc.errors import DeliveryUnknown, PeerRefused, PeerUnavailable, StorageUnavailable
from dynsvc.http.answers import Answer, Verdict, named, refusal
from dynsvc.http.bodies import beginning, complete
from dynsvc.http.connections import NoAnswerError, broken
from dynsvc.http.multipart import Form
from dynsvc.http.patience import Patience
from dynsvc.http.sessions import Session

__all__ = ["Answer", "Http", "Patience", "Verdict", "named", "refusal"]

log = structlog.get_logger(__name__)

#: What is read of an answer that is no success: enough for its text.
_ERROR_BYTES = 64 * 1024
_DOCUMENT_BYTES = 4 * 1024 * 1024
#: Redirects followed on one server: iipsrv sends a bare identifier to its info.json.
_REDIRECTS = 3
#: A gateway got no usable answer: the server behind it may have done what it was asked.
_GATEWAY = frozenset({502, 504})
_REDIRECTED = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A request, and what is accepted as its answer."""

    peer: str
    method: str
    url: str
    patience: Patience
    verdict: Verdict = refusal
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    secret_headers: Mapping[str, SecretStr] = field(default_factory=dict)
    form: Form | None = None
    #: None: the body is not asked for.
    max_bytes: int | None = _DOCUMENT_BYTES


class Http:
    """An HTTP client with limits. One per process; safe to use from several threads, and after a fork.

    Parameters
    ----------
    patience
        Limits of every request that names no others.
    use_environment
        Take proxies and ``.netrc`` from the environment. Off by default: the hospital's servers are near, and
        a stray ``HTTP_PROXY`` must not see slides.
    ca_bundle
        File of the certificates that TLS peers are checked against.
    """

    def __init__(
        self,
        patience: Patience | None = None,
        *,
        use_environment: bool = False,
        ca_bundle: Path | None = None,
    ) -> None:
        self.patience = patience or Patience()
        self._use_environment = use_environment
        self._ca_bundle = ca_bundle
        self._lock = threading.Lock()
        self._kept: tuple[int, Session] | None = None

    def __enter__(self) -> Http:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the kept connections. The client opens new ones when it is used again."""
        with self._lock:
            kept, self._kept = self._kept, None
        if kept and kept[0] == os.getpid():
            kept[1].close()

    def get(
        self,
        peer: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        secret_headers: Mapping[str, SecretStr] | None = None,
        max_bytes: int = _DOCUMENT_BYTES,
        verdict: Verdict = refusal,
        patience: Patience | None = None,
    ) -> Answer:
        """Return the answer to ``GET url``.

        Parameters
        ----------
        peer
            Who is asked, for messages: see :func:`dynsvc.http.answers.named`.
        url, params, headers
            What is asked.
        secret_headers
            Headers whose values appear in no text.
        max_bytes
            A longer body is refused.
        verdict
            Gives the error for an answer outside 2xx. Where that is PeerUnavailable, the request is repeated.
        patience
            Limits of this request; the client's own by default.

        Raises
        ------
        PeerRefused
            The peer said no, redirected to another server, or sent more than *max_bytes* (permanent).
        PeerUnavailable
            No complete answer after all attempts (transient).
        """
        call = _Call(
            peer=peer,
            method="GET",
            url=url,
            params=params or {},
            headers=headers or {},
            secret_headers=secret_headers or {},
            max_bytes=max_bytes,
            verdict=verdict,
            patience=patience or self.patience,
        )
        return self._repeated(call)

    def get_json(self, peer: str, url: str, **options: Any) -> Any:
        """Return the JSON document at *url*; options and errors as for :meth:`get`.

        Raises
        ------
        PeerRefused
            Also where the answer is no JSON (permanent).
        """
        answer = self.get(peer, url, **options)
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError):
            raise PeerRefused(peer, f"{answer.sentence()}, expected JSON") from None

    def status(self, peer: str, url: str) -> int:
        """Return the status of one quick ``GET url``, whatever it is.

        Raises
        ------
        PeerUnavailable
            Nobody answers within five seconds (transient).
        """
        call = _Call(
            peer=peer,
            method="GET",
            url=url,
            max_bytes=None,
            patience=replace(self.patience, connect_s=5, read_s=5, answer_s=5),
        )
        try:
            return _exchange(call, self._session()).status
        except NoAnswerError as error:
            raise PeerUnavailable(peer, str(error)) from None

    def post_multipart(
        self,
        peer: str,
        url: str,
        fields: Mapping[str, str],
        file_field: str,
        path: Path,
        *,
        media_type: str = "application/octet-stream",
        secret_headers: Mapping[str, SecretStr] | None = None,
        verdict: Verdict = refusal,
        patience: Patience | None = None,
    ) -> Answer:
        """Send a form with one file, read from disk while it is sent. Sent once, whatever happens.

        Parameters
        ----------
        fields
            The form's text fields.
        file_field, path, media_type
            The form's file field, the file, and what it is. The peer learns the file's name, not its folder.
        secret_headers, verdict, patience
            As for :meth:`get`; the number of attempts is ignored.

        Raises
        ------
        PeerRefused
            The peer said no (permanent).
        DeliveryUnknown
            The last byte was sent and the answer was lost, on the way or at a gateway: the peer may have
            the form (transient).
        PeerUnavailable
            No connection, or it broke before the last byte, or the peer answered with a server error: it does
            not have the form (transient).
        StorageUnavailable
            The file cannot be read (transient).
        """
        patience = patience or self.patience
        try:
            form = Form(fields, file_field, path, media_type, longest_s=patience.answer_s)
        except OSError as error:
            raise StorageUnavailable(str(path.parent), f"{path.name}: {error.strerror or error}") from error
        with form:
            call = _Call(
                peer=peer,
                method="POST",
                url=url,
                headers={"Content-Type": form.content_type},
                secret_headers=secret_headers or {},
                form=form,
                verdict=verdict,
                patience=patience,
            )
            try:
                answer = _exchange(call, self._session())
            except NoAnswerError as error:
                if form.sent_completely:
                    raise DeliveryUnknown(peer, f"{error}, after everything was sent") from None
                raise PeerUnavailable(peer, f"{error}; nothing was delivered") from None
        if answer.status in _GATEWAY and form.sent_completely:
            raise DeliveryUnknown(peer, f"a gateway {answer.sentence()}, after everything was sent")
        if not answer.success:
            raise verdict(peer, answer)
        return answer

    def _session(self) -> Session:
        with self._lock:
            # A forked child must not speak on its parent's connections.
            if self._kept is None or self._kept[0] != os.getpid():
                session = Session(use_environment=self._use_environment, ca_bundle=self._ca_bundle)
                self._kept = (os.getpid(), session)
            return self._kept[1]

    def _repeated(self, call: _Call) -> Answer:
        """Exchange until there is an answer that need not be asked for again."""
        patience = call.patience
        began = time.monotonic()
        attempt = 0
        while True:
            attempt += 1
            asked_s = None
            try:
                answer = _exchange(call, self._session())
            except NoAnswerError as error:
                detail = str(error)
            else:
                if answer.success:
                    return answer
                refused = call.verdict(call.peer, answer)
                if not isinstance(refused, PeerUnavailable):
                    raise refused
                detail, asked_s = refused.detail, answer.retry_after_s
            pause_s = patience.pause(attempt, asked_s)
            if attempt >= patience.attempts or time.monotonic() - began + pause_s > patience.total_s:
                raise PeerUnavailable(call.peer, f"{detail} (attempt {attempt} of {patience.attempts})")
            log.debug("http.retry", peer=call.peer, attempt=attempt, pause_s=round(pause_s, 3), reason=detail)
            time.sleep(pause_s)


def _exchange(call: _Call, session: Session) -> Answer:
    """Send the request once, and on redirects again; read the body of the answer."""
    patience = call.patience
    deadline = time.monotonic() + patience.answer_s
    secrets = {name: value.get_secret_value() for name, value in call.secret_headers.items()}
    headers = {**call.headers, **secrets}
    url, params = call.url, call.params
    for _ in range(_REDIRECTS + 1):
        try:
            target, response = session.send(
                call.method,
                url,
                params=params,
                headers=headers,
                body=call.form,
                timeout=(patience.connect_s, min(patience.read_s, patience.answer_s)),
            )
        except ValueError:
            # Its text holds the value itself.
            raise PeerRefused(call.peer, "cannot be asked: its URL or a header is not usable") from None
        except (HTTPError, OSError) as error:
            raise _no_answer(patience, error) from None
        try:
            if response.status not in _REDIRECTED or call.method != "GET":
                return _read(call, response, deadline, secrets.values())
        except (HTTPError, OSError) as error:
            raise _no_answer(patience, error) from None
        finally:
            # Of an answer that was not read to its end, the connection cannot be kept.
            response.close()
            response.release_conn()
        url, params = urljoin(target, response.headers.get("Location", "")), {}
        if _server(url) != _server(target):
            raise PeerRefused(call.peer, f"redirects to {named('another server,', url)}")
    raise PeerRefused(call.peer, f"redirects more than {_REDIRECTS} times")


def _read(call: _Call, response: BaseHTTPResponse, deadline: float, secrets: Iterable[str]) -> Answer:
    answer = partial(
        Answer,
        status=response.status,
        media_type=response.headers.get("Content-Type", "").partition(";")[0].strip().lower(),
        secrets=tuple(text for value in secrets for text in (value, quote(value, safe="")) if text),
    )
    if not 200 <= response.status < 300:
        wish = response.headers.get("Retry-After", "")
        return answer(
            body=beginning(response, deadline, _ERROR_BYTES),
            retry_after_s=float(wish) if wish.isascii() and wish.isdigit() else None,
        )
    if call.max_bytes is None:
        return answer()
    return answer(body=complete(call.peer, response, answer().clean, deadline, call.max_bytes))


def _server(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _no_answer(patience: Patience, error: Exception) -> NoAnswerError:
    """Return the error for one of urllib3, without its text and chain: these hold URLs."""
    if isinstance(error, ReadTimeoutError):
        return NoAnswerError(f"no answer in {patience.read_s:g} s")
    if isinstance(error, ConnectTimeoutError) and not isinstance(error, NewConnectionError):
        return NoAnswerError(f"no connection in {patience.connect_s:g} s")
    return NoAnswerError(broken(error))
