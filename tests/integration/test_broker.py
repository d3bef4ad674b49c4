"""The broker's transport on a real Redis."""

from __future__ import annotations

import pytest
from kombu import Connection
from kombu.simple import SimpleQueue

from dynsvc.broker import Transport
from dynsvc.celery import app
from tests.support.redis import RedisProcess

pytestmark = pytest.mark.services


def test_one_client_serves_a_channel_until_it_is_disconnected(redis_server: RedisProcess) -> None:
    assert app.main == "dynsvc", "the app chooses the transport"
    with Connection(f"redis://127.0.0.1:{redis_server.port}/5") as connection:
        assert isinstance(connection.transport, Transport)
        channel = connection.channel()
        first = channel._create_client()
        assert channel._create_client() is first
        with SimpleQueue(channel, "letters") as queue:
            queue.put({"a": 1})
            message = queue.get(timeout=5)
            assert message.payload == {"a": 1}
            assert first.hlen(channel.unacked_key) == 1, "what is not acknowledged is kept"
            message.ack()
            assert first.hlen(channel.unacked_key) == 0
        channel._disconnect_pools()
        again = channel._create_client()
        assert again is not first
        assert again.ping()
