"""Waiting orders on their way to the broker, on a real Redis: the window, and brokers that are away."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import redis

from bridge.intake import Intake
from dynsvc import messages
from dynsvc.errors import PeerUnavailable
from dynsvc.kue import JobStore
from dynsvc.leases import Ledger
from dynsvc.settings import Settings

pytestmark = pytest.mark.services


@pytest.fixture
def head() -> str:
    return f"{uuid.uuid4().hex}:"


@pytest.fixture
def store(client: redis.Redis, head: str) -> JobStore:
    return JobStore(client, head)


@pytest.fixture
def ledger(client: redis.Redis, head: str) -> Ledger:
    return Ledger(client, head, "Redis")


class FakeBroker:
    """Takes messages, as many as it is told to."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.room = 1000

    def send(self, step: str, document: dict[str, Any]) -> None:
        if not self.room:
            raise PeerUnavailable("broker", "it is full")
        self.room -= 1
        self.sent.append((step, document))

    @property
    def order_ids(self) -> list[str]:
        return [document["order_id"] for _, document in self.sent]


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def intake(store: JobStore, ledger: Ledger, broker: FakeBroker) -> Intake:
    return Intake(Settings(window=5, job_types=("order", "other")), store, ledger, broker.send)


def test_the_window_is_filled_with_the_most_urgent_orders(
    store: JobStore, ledger: Ledger, broker: FakeBroker, intake: Intake
) -> None:
    normal = [store.create("order", {}) for _ in range(4)]
    urgent = [store.create("other", {}, priority="high") for _ in range(3)]
    intake()
    assert broker.order_ids == [*urgent, *normal[:2]]
    assert {step for step, _ in broker.sent} == {messages.FETCH_ORDER}
    tokens = {document["order_id"]: document["token"] for _, document in broker.sent}
    assert all(ledger.message(order_id, token) for order_id, token in tokens.items())
    intake()
    assert len(broker.sent) == 5, "the window is full"
    # One ends, one is claimed by a worker: only the first makes room.
    store.remove(urgent[0])
    assert ledger.release(urgent[0], tokens[urgent[0]])
    assert store.claim(urgent[1], ["other"], tokens[urgent[1]])
    intake()
    assert broker.order_ids[5:] == [normal[2]]


def test_what_was_not_sent_is_not_in_flight(
    store: JobStore, ledger: Ledger, broker: FakeBroker, intake: Intake
) -> None:
    order_ids = [store.create("order", {}) for _ in range(4)]
    broker.room = 0
    with pytest.raises(PeerUnavailable, match="it is full"):
        intake()
    assert not any(ledger.holds(order_ids))
    broker.room = 2
    with pytest.raises(PeerUnavailable, match="it is full"):
        intake()
    assert broker.order_ids == order_ids[:2]
    assert ledger.holds(order_ids) == [True, True, False, False]
    broker.room = 10
    intake()
    assert broker.order_ids == order_ids
