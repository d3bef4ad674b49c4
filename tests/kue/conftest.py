"""One Redis with one Kue for the tests of the store; each test has a job type of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import redis

from dynsvc.kue import JobStore, connect
from tests.support.kue import KueApi, running
from tests.support.redis import RedisProcess, running_redis

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def own_server(redis_program: str) -> Iterator[RedisProcess]:
    with running_redis() as server:
        yield server


@pytest.fixture(scope="module")
def api(own_server: RedisProcess, node_kue: None) -> Iterator[KueApi]:
    process = KueApi(own_server.port)
    with running(process):
        yield process


@pytest.fixture
def client(own_server: RedisProcess) -> Iterator[redis.Redis]:
    with connect(own_server.settings) as connected:
        yield connected


@pytest.fixture
def store(client: redis.Redis) -> JobStore:
    return JobStore(client)


@pytest.fixture
def kind() -> str:
    """A job type that no other test uses."""
    return f"kind{next(_numbers)}"


class Published:
    """Messages on the channel."""

    def __init__(self, subscription: redis.client.PubSub) -> None:
        self._subscription = subscription

    def now(self) -> list[str]:
        """Return what has come since the last call. A script's messages come before its reply."""
        messages = []
        while (message := self._subscription.get_message(timeout=0.05)) is not None:
            if message["type"] == "message":
                messages.append(message["data"])
        return messages


@pytest.fixture
def published(client: redis.Redis, store: JobStore) -> Iterator[Published]:
    with client.pubsub() as subscription:
        subscription.subscribe(store.channel)
        subscription.get_message(timeout=5)
        yield Published(subscription)
