"""The HTTP client against servers that lie, on real sockets."""

from __future__ import annotations

import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from dynsvc.errors import (
    DeliveryUnknown,
    DynsvcError,
    PeerRefused,
    PeerUnavailable,
    StorageUnavailable,
    from_document,
    to_document,
)
from dynsvc.http import Answer, Http, Patience, named, refusal
from dynsvc.standins.form import read_form
from tests.support.misbehaving import (
    Behaviour,
    answer,
    broken_chunks,
    busy,
    cut_headers,
    dripping_headers,
    endless,
    misbehaving,
    raw,
    reset,
    stalled,
    truncated,
)
from tests.support.tls import Authority

QUICK = Patience(
    connect_s=1, read_s=0.3, answer_s=0.6, attempts=2, total_s=5, pause_s=0.001, pause_cap_s=0.01
)


@pytest.fixture
def http() -> Iterator[Http]:
    with Http(QUICK) as client:
        yield client


def test_a_document_is_read(http: Http) -> None:
    with misbehaving(answer(b'{"a": [1]}')) as server:
        assert http.get_json("peer", server.url, params={"q": "x y"}) == {"a": [1]}
    head, _ = server.requests[0]
    assert head.startswith("GET /?q=x+y HTTP/1.1")
    assert "User-Agent: dynsvc/" in head


def test_a_body_is_read_completely(http: Http) -> None:
    body = bytes(range(256)) * 1000
    with misbehaving(answer(body, media_type="image/png")) as server:
        got = http.get("peer", server.url, max_bytes=len(body))
    assert got.body == body
    assert (got.status, got.media_type) == (200, "image/png")


@pytest.mark.parametrize("length", ["", "Content-Length: two\r\n", f"Content-Length: {'9' * 5000}\r\n"])
def test_a_body_of_unknown_length_ends_with_the_connection(http: Http, length: str) -> None:
    with misbehaving(raw(f"HTTP/1.1 200 OK\r\n{length}\r\n".encode() + b"{}")) as server:
        assert http.get_json("peer", server.url) == {}
    without = raw(f"HTTP/1.1 200 OK\r\n{length}\r\n".encode())
    broken = pytest.raises(PeerUnavailable, match="broke off before the answer's body")
    with misbehaving(without) as server, broken:
        http.get("peer", server.url)


@pytest.mark.parametrize(
    ("behaviour", "detail"),
    [
        # fewer bytes than announced
        (truncated(b"abc"), "the answer is truncated"),
        # a chunk that ends early
        (broken_chunks(), "the answer is truncated"),
        # the connection ends within the headers: looks like an empty answer
        (cut_headers(), "broke off before the answer's body"),
        # no answer at all
        (stalled(), "no answer in 0.3 s"),
        (reset(), "the connection broke off"),
        # nothing but a closed connection
        (raw(b""), "the connection broke off"),
        # never silent for as long as the read time-out, and never done
        (endless(b"x", every_s=0.05), "not complete in time"),
        (endless(b"x", every_s=0.05, length=100_000), "not complete in time"),
        (dripping_headers(), "no answer in 0.3 s"),
        # two lengths
        (answer(b"{}", Content_length="3"), "the connection broke off"),
        # not HTTP
        (raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "the connection broke off"),
        # the peer says that it cannot now
        (busy(), 'answered 503 "busy"'),
        (busy("429 Too Many Requests"), 'answered 429 "busy"'),
        (busy("502 Bad Gateway"), 'answered 502 "busy"'),
    ],
)
def test_no_complete_answer_is_transient(http: Http, behaviour: Behaviour, detail: str) -> None:
    with misbehaving(behaviour) as server, pytest.raises(PeerUnavailable) as caught:
        http.get("image server", server.url, max_bytes=1_000_000)
    assert caught.value.peer == "image server"
    assert detail in caught.value.detail
    assert caught.value.detail.endswith("(attempt 2 of 2)")
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "behaviour",
    [
        # more than allowed, announced or not
        answer(b"x" * 2000),
        endless(),
        endless(length=10_000_000),
        # an encoding could unpack to anything
        answer(b"abc", Content_Encoding="gzip"),
        # plain refusals
        answer(b"no", status="404 Not Found"),
        answer(b"no", status="400 Bad Request"),
        answer(b"no", status="401 Unauthorized"),
        # a redirect to elsewhere, and one without a place
        answer(b"", status="302 Found", Location="http://127.0.0.2:1/elsewhere"),
        answer(b"", status="302 Found", Location="file:///etc/passwd"),
    ],
)
def test_a_refusal_is_permanent_and_asked_for_once(http: Http, behaviour: Behaviour) -> None:
    with misbehaving(behaviour) as server, pytest.raises(PeerRefused):
        http.get("peer", server.url, max_bytes=1000)
    assert len(server.requests) == 1


def test_a_busy_peer_is_asked_again() -> None:
    with (
        misbehaving(busy(), reset(), truncated(b"{"), answer(b"[]")) as server,
        Http(Patience(attempts=4, pause_s=0.001)) as http,
    ):
        assert http.get_json("peer", server.url) == []
    assert len(server.requests) == 4


def test_no_attempt_begins_after_the_total_time() -> None:
    with (
        misbehaving(busy(Retry_After="9")) as server,
        Http(Patience(attempts=9, total_s=2, pause_cap_s=5)) as http,
        pytest.raises(PeerUnavailable),
    ):
        http.get("peer", server.url)
    assert len(server.requests) == 1


def test_pauses_grow_to_their_cap_and_follow_the_peers_wish() -> None:
    patience = Patience(pause_s=1, pause_cap_s=5)
    assert all(0.5 <= patience.pause(1) <= 1 for _ in range(20))
    assert all(2.5 <= patience.pause(9) <= 5 for _ in range(20))
    assert patience.pause(1, asked_s=3) == 3
    assert patience.pause(1, asked_s=3600) == 5


def test_a_redirect_on_the_same_server_is_followed_and_a_loop_is_not(http: Http) -> None:
    with misbehaving(answer(status="303 See Other", Location="/info.json"), answer(b'{"x": 1}')) as server:
        assert http.get_json("peer", f"{server.url}/a") == {"x": 1}
    assert server.requests[1][0].startswith("GET /info.json ")
    with misbehaving(answer(status="303 See Other", Location="/again")) as server, pytest.raises(PeerRefused):
        http.get_json("peer", server.url)
    assert len(server.requests) == 4


def test_an_endless_redirect_body_is_not_read(http: Http) -> None:
    head = b"HTTP/1.1 302 Found\r\nLocation: /ok\r\n\r\n"

    def endless_redirect(connection: socket.socket, stopped: threading.Event) -> None:
        connection.sendall(head)
        while not stopped.is_set():
            connection.sendall(b"x" * 65536)

    with misbehaving(endless_redirect, answer(b"1")) as server:
        assert http.get_json("peer", server.url) == 1


@pytest.mark.parametrize(
    ("url", "error", "detail"),
    [
        # nobody listens on port 1
        ("http://127.0.0.1:1/", PeerUnavailable, "connection refused"),
        ("http://no-such-host.invalid/", PeerUnavailable, "the host name is not known"),
        ("ftp://127.0.0.1/", PeerRefused, "its URL or a header is not usable"),
        ("http://", PeerRefused, "its URL or a header is not usable"),
        ("http://[::1", PeerRefused, "its URL or a header is not usable"),
    ],
)
def test_a_peer_that_cannot_be_reached_is_named_with_the_reason(
    http: Http, url: str, error: type[DynsvcError], detail: str
) -> None:
    with pytest.raises(error, match=detail):
        http.get("peer", url)


def test_an_answer_that_is_no_json_is_refused(http: Http) -> None:
    page = answer(b"<html><title>x</title><p>Welcome</p></html>")
    with misbehaving(page) as server, pytest.raises(PeerRefused, match='200 "Welcome", expected JSON'):
        http.get_json("peer", server.url)
    with misbehaving(answer(b"[" * 100_000)) as server, pytest.raises(PeerRefused):
        http.get_json("peer", server.url)


def test_no_secret_reaches_an_error_or_a_log(http: Http, tmp_path: Path) -> None:
    secret = "k3y/with spaces"
    quoting = answer(b"bad api key k3y/with spaces, also k3y%2Fwith%20spaces", status="403 Forbidden")
    texts = []
    for behaviour in (quoting, reset(), busy(), stalled()):
        with misbehaving(behaviour) as server, capture_logs() as logs:
            url = server.url.replace("http://", "http://user:pa55word@")
            with pytest.raises((PeerRefused, PeerUnavailable)) as caught:
                http.get(
                    named("peer", url),
                    url,
                    params={"api_key": "k3y-query"},
                    secret_headers={"api_key": SecretStr(secret)},
                )
            assert "api_key: k3y/with spaces" in server.requests[0][0]
            chain: list[object] = [caught.value, caught.value.__cause__]
            texts += [repr(chain), str(caught.value), str(logs)]
            assert caught.value.__suppress_context__ or caught.value.__context__ is None
    everything = "\n".join(texts)
    for word in ("k3y", "pa55word", "user:"):
        assert word not in everything
    assert "***" in everything


def test_a_key_that_is_no_header_is_refused_and_not_shown(http: Http) -> None:
    for key in ("a\r\nX: k3y", "ключ k3y"):
        with misbehaving(answer()) as server, pytest.raises(PeerRefused) as caught:
            http.get("peer", server.url, secret_headers={"api_key": SecretStr(key)})
        assert "k3y" not in str(caught.value)
        assert server.requests == []


def test_cookies_are_not_kept(http: Http) -> None:
    with misbehaving(answer(Set_Cookie="session=1; Path=/")) as server:
        http.get("peer", server.url)
        http.get("peer", server.url)
    assert "cookie" not in server.requests[1][0].lower()


def test_proxies_of_the_environment_are_ignored_unless_asked_for(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with misbehaving(answer(b"1")) as server:
        assert http.get_json("peer", server.url) == 1
        with Http(QUICK, use_environment=True) as asking, pytest.raises(PeerUnavailable):
            asking.get_json("peer", server.url)
    assert len(server.requests) == 1


def test_a_proxy_of_the_environment_is_asked_for_whole_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    with misbehaving(answer(b"1")) as proxy, Http(QUICK, use_environment=True) as http:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert http.get_json("peer", "http://peer.invalid/a", params={"q": "1"}) == 1
    assert proxy.requests[0][0].startswith("GET http://peer.invalid/a?q=1 HTTP/1.1")


def test_name_and_password_come_from_the_url_or_if_asked_for_from_the_environment(
    http: Http, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login us:er password pass\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with misbehaving(answer()) as server, Http(QUICK, use_environment=True) as asking:
        http.get("peer", server.url)
        http.get("peer", server.url.replace("http://", "http://user:p%40ss@"))
        asking.get("peer", server.url)
    none, ours, theirs = (head for head, _ in server.requests)
    assert "authorization" not in none.lower()
    assert f"Authorization: Basic {b64encode(b'user:p@ss').decode()}" in ours.splitlines()
    assert f"Authorization: Basic {b64encode(b'us:er:pass').decode()}" in theirs.splitlines()


def test_a_server_with_tls_is_believed_by_its_certificate(tmp_path: Path, archive: Path) -> None:
    authority = Authority(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("server", "127.0.0.1"))
    with misbehaving(answer(), tls=context) as server:
        url = server.url.replace("http:", "https:")
        with Http(QUICK, ca_bundle=authority.certificate) as http:
            assert http.get_json("peer", url) == {}
            assert post(http, url, archive).body == b"{}"
        with Http(QUICK) as http, pytest.raises(PeerUnavailable, match="no TLS connection"):
            http.get("peer", url)


def test_a_status_is_told_whatever_it_is(http: Http) -> None:
    with misbehaving(answer(b"x" * 100_000, status="418 I'm a teapot")) as server:
        assert http.status("peer", server.url) == 418
    with pytest.raises(PeerUnavailable, match="connection refused"):
        http.status("peer", "http://127.0.0.1:1/")


def post(http: Http, url: str, path: Path) -> Answer:
    return http.post_multipart("loader", url, {"case_id": "A 1"}, "zip", path, media_type="application/zip")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / 'out"put.zip'
    path.write_bytes(bytes(range(256)) * 5000 + b"\r\n--")
    return path


def test_a_form_arrives_byte_for_byte(http: Http, archive: Path) -> None:
    with misbehaving(answer(b'{"id": 3}')) as server:
        assert post(http, server.url, archive).body == b'{"id": 3}'
    head, body = server.requests[0]
    content_type = next(
        line.split(": ", 1)[1] for line in head.splitlines() if line.startswith("Content-Type")
    )
    form = read_form(content_type, body)
    assert form["case_id"] == (None, b"A 1")
    assert form["zip"] == ("out%22put.zip", archive.read_bytes())


def test_a_form_is_sent_once_and_a_lost_answer_is_told_apart(http: Http, archive: Path) -> None:
    with misbehaving(reset()) as server, pytest.raises(DeliveryUnknown) as caught:
        post(http, server.url, archive)
    assert len(server.requests) == 1
    assert caught.value.transient
    assert str(from_document(to_document(caught.value))) == str(caught.value)
    two_lengths = answer(b"{}", Content_length="3")
    gateways = busy("502 Bad Gateway"), busy("504 Gateway Timeout")
    for lost in (truncated(b"{"), stalled(), two_lengths, *gateways):
        with misbehaving(lost) as server, pytest.raises(DeliveryUnknown):
            post(http, server.url, archive)
        assert len(server.requests) == 1


def answering(times: int) -> Behaviour:
    """Answer so many requests on the connection, and say nothing of closing it."""

    def behave(connection: socket.socket, stopped: threading.Event) -> None:
        for _ in range(times):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            connection.recv(65536)

    return behave


def test_each_form_has_a_connection_of_its_own_even_where_the_peer_keeps_them(
    http: Http, archive: Path
) -> None:
    with misbehaving(answering(1)) as server:
        for _ in range(3):
            assert post(http, server.url, archive).body == b"{}"
        assert len(server.requests) == 3
        assert "Connection: close" in server.requests[0][0]


def test_connections_are_kept_for_other_requests(http: Http) -> None:
    with misbehaving(answering(3)) as server:
        for _ in range(3):
            assert http.get_json("peer", server.url) == {}
        assert len(server.requests) == 1


@pytest.mark.parametrize("size_bytes", [0, 1, 64 * 1024, 64 * 1024 + 1, 200_000])
def test_forms_of_all_sizes_arrive(http: Http, tmp_path: Path, size_bytes: int) -> None:
    archive = tmp_path / "x.zip"
    archive.write_bytes(bytes(index % 251 for index in range(size_bytes)))
    with misbehaving(answer(b'{"id": 3}')) as server:
        post(http, server.url, archive)
    head, body = server.requests[0]
    assert f"Content-Length: {len(body)}" in head
    content_type = next(line[14:] for line in head.splitlines() if line.startswith("Content-Type"))
    assert read_form(content_type, body)["zip"] == ("x.zip", archive.read_bytes())


def test_a_form_that_did_not_arrive_is_told_apart(http: Http, tmp_path: Path) -> None:
    # More than the sockets' buffers hold, so that the peer's refusal to read is noticed.
    archive = tmp_path / "big.zip"
    with archive.open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    undelivered = pytest.raises(PeerUnavailable, match="nothing was delivered")
    with undelivered as refused:
        post(http, "http://127.0.0.1:1/", archive)
    with misbehaving(reset(), reads_body=False) as server, undelivered as broken:
        post(http, server.url, archive)
    assert len(server.requests) == 1
    with misbehaving(stalled(), reads_body=False) as server, undelivered as slow:
        post(http, server.url, archive)
    for caught in (refused, broken, slow):
        assert not isinstance(caught.value, DeliveryUnknown)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("400 Bad Request", PeerRefused),
        ("413 Payload Too Large", PeerRefused),
        ("500 Internal Server Error", PeerUnavailable),
        ("503 Service Unavailable", PeerUnavailable),
    ],
)
def test_a_refused_form_quotes_the_peer(
    http: Http, archive: Path, status: str, error: type[DynsvcError]
) -> None:
    page = b"<html><style>p {}</style><pre>Error: Unexpected field</pre></html>"
    with misbehaving(answer(page, status=status)) as server, pytest.raises(error) as caught:
        post(http, server.url, archive)
    assert str(caught.value) == f'loader: answered {status[:3]} "Error: Unexpected field"'
    assert len(server.requests) == 1


def test_a_refusal_before_the_body_was_read_is_still_heard(http: Http, tmp_path: Path) -> None:
    archive = tmp_path / "big.zip"
    with archive.open("wb") as file:
        file.truncate(16 * 1024 * 1024)

    def refuse_early(connection: socket.socket, stopped: threading.Event) -> None:
        answer(b"too large", status="413 Payload Too Large")(connection, stopped)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1024 * 1024):  # a server that drains what it does not want
            pass

    with misbehaving(refuse_early, reads_body=False) as server, pytest.raises(PeerRefused, match="too large"):
        post(http, server.url, archive)


def test_a_missing_file_is_not_sent(http: Http, tmp_path: Path) -> None:
    with misbehaving(answer()) as server, pytest.raises(StorageUnavailable):
        post(http, server.url, tmp_path / "none.zip")
    assert server.requests == []


def test_peers_are_named_without_userinfo_path_and_query() -> None:
    assert named("loader", "http://user:secret@host:3001/a?b=c") == "loader http://host:3001"
    assert named("image server", "https://[::1]/x") == "image server https://[::1]"


def test_a_long_answer_is_quoted_shortly_and_on_one_line() -> None:
    error = refusal("peer", Answer(status=500, media_type="", body=b"a\n\x00\xff" + b"b" * 10_000))
    assert len(str(error)) < 250
    assert "\n" not in str(error)
