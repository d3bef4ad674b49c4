"""HTTP to the hospital's servers: limits, retries and errors in one place.

Every answer has a time limit and a size limit. A redirect is followed on the same server only. Texts of
errors and log lines hold no header, no query and no userinfo of a URL. The only module that imports requests.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import requests
import structlog
from pydantic import SecretStr
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError

from dynsvc import __version__
from dynsvc.errors import DeliveryUnknown, PeerRefused, PeerUnavailable
from dynsvc.http.answers import Answer, Verdict, named, refusal
from dynsvc.http.bodies import beginning, limited, storage, store
from dynsvc.http.connections import NoAnswerError, broken, limit_headers
from dynsvc.http.multipart import Form
from dynsvc.http.patience import Patience

__all__ = ["Answer", "Http", "Patience", "Verdict", "named", "refusal"]

log = structlog.get_logger(__name__)

#: What is read of an answer that is no success: enough for its text.
_ERROR_BYTES = 64 * 1024
_DOCUMENT_BYTES = 4 * 1024 * 1024
#: Redirects followed on one server: iipsrv sends a bare identifier to its info.json.
_REDIRECTS = 3
#: A gateway got no usable answer: the server behind it may have done what it was asked.
_GATEWAY = frozenset({502, 504})
#: Kept connections for each peer.
_CONNECTIONS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A request, and what becomes of its answer."""

    peer: str
    request: requests.Request
    secret_headers: Mapping[str, SecretStr]
    max_bytes: int
    verdict: Verdict
    patience: Patience
    consume: Callable[[Answer, Iterator[bytes]], Answer]


class _Session(requests.Session):
    """A session that keeps no cookies and follows no redirects."""

    def __init__(self, *, use_environment: bool, ca_bundle: Path | None) -> None:
        super().__init__()
        self.trust_env = use_environment
        if ca_bundle is not None:
            self.verify = str(ca_bundle)
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        # No encoding: an encoded body could unpack to any size.
        self.headers.update({"User-Agent": f"dynsvc/{__version__}", "Accept-Encoding": "identity"})
        for scheme in ("http://", "https://"):
            adapter = HTTPAdapter(pool_connections=_CONNECTIONS, pool_maxsize=_CONNECTIONS)
            limit_headers(adapter.poolmanager)
            self.mount(scheme, adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return no target: requests would read the redirect's whole body first, without a limit."""


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
        self._kept: tuple[int, _Session] | None = None

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
        dest: Path | None = None,
    ) -> Answer:
        """Return the answer to ``GET url``, its body in memory or in a file.

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
        dest
            File for the body; it appears complete or not at all. The caller deletes it.

        Raises
        ------
        PeerRefused
            The peer said no, redirected to another server, or sent more than *max_bytes* (permanent).
        PeerUnavailable
            No complete answer after all attempts (transient).
        StorageUnavailable
            *dest* cannot be written (transient).
        """
        call = _Call(
            peer=peer,
            request=requests.Request("GET", url, params=dict(params or {}), headers=dict(headers or {})),
            secret_headers=secret_headers or {},
            max_bytes=max_bytes,
            verdict=verdict,
            patience=patience or self.patience,
            consume=_in_memory if dest is None else _into(dest),
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

    def download(self, peer: str, url: str, dest: Path, *, max_bytes: int, **options: Any) -> Answer:
        """Write the body at *url* to *dest*; options and errors as for :meth:`get`."""
        return self.get(peer, url, dest=dest, max_bytes=max_bytes, **options)

    def status(self, peer: str, url: str) -> int:
        """Return the status of one quick ``GET url``, whatever it is.

        Raises
        ------
        PeerUnavailable
            Nobody answers within five seconds (transient).
        """
        call = _Call(
            peer=peer,
            request=requests.Request("GET", url),
            secret_headers={},
            max_bytes=0,
            verdict=refusal,
            patience=replace(self.patience, connect_s=5, read_s=5, answer_s=5),
            consume=lambda answer, _: answer,
        )
        try:
            return _exchange(call, self._kept_session()).status
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
        with storage(path):
            form = Form(fields, file_field, path, media_type, longest_s=patience.answer_s)
        # A connection of its own: a kept one that the peer just closed would look like a lost answer.
        with form, self._session() as session:
            call = _Call(
                peer=peer,
                request=requests.Request("POST", url, data=form, headers={"Content-Type": form.content_type}),
                secret_headers=secret_headers or {},
                max_bytes=_DOCUMENT_BYTES,
                verdict=verdict,
                patience=patience,
                consume=_in_memory,
            )
            try:
                answer = _exchange(call, session)
            except NoAnswerError as error:
                if form.sent_completely:
                    raise DeliveryUnknown(peer, f"{error}, after everything was sent") from None
                raise PeerUnavailable(peer, f"{error}; nothing was delivered") from None
        if answer.status in _GATEWAY and form.sent_completely:
            raise DeliveryUnknown(peer, f"a gateway {answer.sentence()}, after everything was sent")
        if not answer.success:
            raise verdict(peer, answer)
        return answer

    def _session(self) -> _Session:
        return _Session(use_environment=self._use_environment, ca_bundle=self._ca_bundle)

    def _kept_session(self) -> _Session:
        with self._lock:
            # A forked child must not speak on its parent's connections.
            if self._kept is None or self._kept[0] != os.getpid():
                self._kept = (os.getpid(), self._session())
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
                answer = _exchange(call, self._kept_session())
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


def _exchange(call: _Call, session: _Session) -> Answer:
    """Send the request once, and on redirects again; consume the body of a success."""
    deadline = time.monotonic() + call.patience.answer_s
    request = call.request
    for _ in range(_REDIRECTS + 1):
        with _translated(call), _usable(call):
            prepared = session.prepare_request(request)
            for name, value in call.secret_headers.items():
                prepared.headers[name] = value.get_secret_value()
            response = session.send(
                prepared,
                timeout=(call.patience.connect_s, min(call.patience.read_s, call.patience.answer_s)),
                allow_redirects=False,
                **session.merge_environment_settings(prepared.url, {}, True, None, None),
            )
        with response:
            if response.status_code in (301, 302, 303, 307, 308) and request.method == "GET":
                target = urljoin(str(prepared.url), response.headers.get("Location", ""))
                if _server(target) != _server(str(prepared.url)):
                    raise PeerRefused(call.peer, f"redirects to {named('another server,', target)}")
                request = requests.Request("GET", target, headers=request.headers)
                continue
            with _translated(call):
                return _read(call, response, deadline)
    raise PeerRefused(call.peer, f"redirects more than {_REDIRECTS} times")


def _read(call: _Call, response: requests.Response, deadline: float) -> Answer:
    wish = response.headers.get("Retry-After", "")
    values = [value.get_secret_value() for value in call.secret_headers.values()]
    answer = Answer(
        status=response.status_code,
        media_type=response.headers.get("Content-Type", "").partition(";")[0].strip().lower(),
        retry_after_s=float(wish) if wish.isascii() and wish.isdigit() else None,
        secrets=tuple(text for value in values for text in (value, quote(value, safe="")) if text),
    )
    if answer.success:
        return call.consume(answer, limited(call.peer, response.raw, answer, deadline, call.max_bytes))
    return replace(answer, body=beginning(response.raw, deadline, _ERROR_BYTES))


def _in_memory(answer: Answer, chunks: Iterator[bytes]) -> Answer:
    return replace(answer, body=b"".join(chunks))


def _into(dest: Path) -> Callable[[Answer, Iterator[bytes]], Answer]:
    def consume(answer: Answer, chunks: Iterator[bytes]) -> Answer:
        store(chunks, dest)
        return answer

    return consume


def _server(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


@contextmanager
def _usable(call: _Call) -> Iterator[None]:
    """Turn complaints about the request itself into PeerRefused; their texts hold the value itself."""
    try:
        yield
    except ValueError:
        raise PeerRefused(call.peer, "cannot be asked: its URL or a header is not usable") from None


@contextmanager
def _translated(call: _Call) -> Iterator[None]:
    """Turn errors of requests and urllib3 into ours, without their texts and chains: these hold URLs."""
    problems = requests.exceptions
    try:
        yield
    except problems.ConnectTimeout:
        raise NoAnswerError(f"no connection in {call.patience.connect_s:g} s") from None
    except (problems.Timeout, ReadTimeoutError):
        raise NoAnswerError(f"no answer in {call.patience.read_s:g} s") from None
    except (problems.RequestException, HTTPError, OSError) as error:
        raise NoAnswerError(broken(error)) from None
