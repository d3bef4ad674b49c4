"""The status server, the counters, and what a worker tells of its readiness."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import requests
from prometheus_client import CollectorRegistry, Gauge

from dynsvc import metrics
from dynsvc.errors import PeerUnavailable
from dynsvc.settings import Settings
from dynsvc.status import StatusServer, serve
from workers.status import Readiness


@pytest.fixture
def registry() -> CollectorRegistry:
    found = CollectorRegistry()
    Gauge("dynsvc_test_seconds", "For a test.", registry=found).set(3)
    return found


def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(address: int, path: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"http://127.0.0.1:{address}{path}", timeout=5)


def test_the_three_pages_and_no_other(registry: CollectorRegistry) -> None:
    problems: list[str] = []
    address = port()
    server = StatusServer("127.0.0.1", address, registry, broken=lambda: (), unready=lambda: problems)
    try:
        assert "dynsvc_test_seconds 3.0" in get(address, "/metrics").text
        assert get(address, "/readyz").json() == {"ok": True, "problems": []}
        problems.append("Redis is away")
        answer = get(address, "/readyz?verbose")
        assert (answer.status_code, answer.json()["problems"]) == (503, ["Redis is away"])
        assert get(address, "/healthz").status_code == 200
        assert get(address, "/").status_code == 404
        with pytest.raises(PeerUnavailable, match=str(address)):
            StatusServer("127.0.0.1", address, registry, broken=lambda: (), unready=lambda: ())
    finally:
        server.stop()
    with pytest.raises(requests.ConnectionError):
        get(address, "/healthz")


def test_without_a_port_nothing_listens_and_a_taken_one_ends_nothing(registry: CollectorRegistry) -> None:
    settings = Settings()
    assert serve(settings, registry, broken=lambda: (), unready=lambda: ()) is None
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Settings(metrics_port=taken.getsockname()[1])
        assert serve(settings, registry, broken=lambda: (), unready=lambda: ()) is None


def value(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


def test_what_ends_a_step_or_an_attempt_is_one_of_few_words() -> None:
    def failed() -> float:
        return value("dynsvc_step_duration_seconds_count", step="fetch_roi", outcome="failed")

    before = failed()
    metrics.step_ended("fetch_roi", "SlideNotFound: order 7: no slide /a/b", 1.0)
    assert failed() == before + 1
    labels = {"algorithm": "", "outcome": "failed", "error": "SlideNotFound"}
    before = value("dynsvc_attempts_ended_total", **labels)
    metrics.attempt_ended(None, "final", "SlideNotFound: order 7: no slide /a/b")
    metrics.attempt_ended(None, "lost", "SlideNotFound: order 7")
    assert value("dynsvc_attempts_ended_total", **labels) == before + 1


class _Answers:
    ledger: Any

    def __init__(self, *, connected: bool, redis: bool) -> None:
        self.connection = self
        self.connected = connected
        self.ledger = self
        self._redis = redis

    def in_flight(self) -> int:
        if not self._redis:
            raise PeerUnavailable("the orders' Redis", "refused")
        return 0


@pytest.mark.parametrize(
    ("connected", "redis", "problem"),
    [(True, True, None), (False, True, "broker is lost"), (True, False, "the orders' Redis")],
)
def test_a_worker_is_ready_when_broker_and_redis_are_there(
    connected: bool, redis: bool, problem: str | None
) -> None:
    peers = _Answers(connected=connected, redis=redis)
    readiness = Readiness(peers)  # type: ignore[arg-type]
    assert readiness.unready()[0] == "not connected to the broker yet"
    readiness.consumer = peers
    found = readiness.unready()
    assert (problem is None) == (found == []), found
    assert problem is None or any(problem in line for line in found)
    readiness.stopping = True
    assert "the worker stops" in readiness.unready()
