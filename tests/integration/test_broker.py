"""The broker's transport on a real Redis, and messages on their way to real brokers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from kombu import Connection, Exchange, Queue
from kombu.simple import SimpleQueue
from kombu.transport import redis

from dynsvc import messages
from dynsvc.broker import Transport
from dynsvc.celery import app
from tests.support.hospital import ROOT
from tests.support.rabbitmq import RabbitProcess, running_rabbitmq
from tests.support.redis import RedisProcess, running_redis

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


def test_what_is_not_acknowledged_lies_where_kombu_looks_for_it(redis_server: RedisProcess) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}/6"

    def kept() -> tuple[set[str], set[str]]:
        return set(client.hkeys("unacked")), set(client.zrange("unacked_index", 0, -1))

    with (
        redis_server.client(6) as client,
        Connection(url) as connection,
        SimpleQueue(connection, "letters") as queue,
    ):
        for number in range(3):
            queue.put({"number": number})
        first, second, third = (queue.get(timeout=5) for _ in range(3))
        rest = {second.delivery_tag, third.delivery_tag}
        assert kept() == (rest | {first.delivery_tag}, rest | {first.delivery_tag})
        first.ack()
        assert kept() == (rest, rest)
        second.requeue()
        assert queue.get(timeout=5).payload == {"number": 1}
        # A worker that had the third one is gone; the original transport of another one finds it.
        client.zadd("unacked_index", {third.delivery_tag: 1})
        with Connection(url, transport=redis.Transport) as other:
            other.channel().qos.restore_visible()
        again = queue.get(timeout=5)
        assert again.payload == {"number": 2}
        assert again.headers["redelivered"]
        # What a server that was killed leaves at most.
        client.zadd("unacked_index", {"half": 1})
        Connection(url).channel().qos.restore_visible()
        assert "half" not in kept()[1]


def test_a_message_that_cannot_be_noted_is_an_error_of_the_channel(redis_program: str) -> None:
    with (
        running_redis() as server,
        server.client() as client,
        Connection(server.url) as connection,
        SimpleQueue(connection, "letters") as queue,
    ):
        queue.put({"a": 1})
        client.config_set("maxmemory", 1)
        with pytest.raises(connection.channel_errors, match="maxmemory"):
            queue.get(timeout=5)
        assert not client.exists("unacked", "unacked_index"), "all of it or nothing"


QUEUE = Queue(messages.IO, Exchange(messages.IO), routing_key=messages.IO, max_priority=9)

#: Sends a message for each word that it reads, and tells how it went.
SENDER = """
import sys
from dynsvc.celery import Sender
from dynsvc.errors import PeerUnavailable
from dynsvc.messages import FETCH_ORDER
send = Sender()
for line in sys.stdin:
    try:
        send(FETCH_ORDER, {"schema": 1, "order_id": line.strip(), "token": "t"})
        print("sent", flush=True)
    except PeerUnavailable as error:
        print(error, flush=True)
"""


class Sender:
    """A process that sends messages to a broker."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SENDER],
            env={**os.environ, "DYNSVC_BROKER_URL": url},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def send(self, order_id: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{order_id}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def end(self) -> None:
        with self._process as process:
            process.kill()


@contextmanager
def sender_to(url: str) -> Iterator[Sender]:
    sender = Sender(url)
    try:
        yield sender
    finally:
        sender.end()


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest, redis_program: str) -> Iterator[RedisProcess | RabbitProcess]:
    with running_redis() if request.param == "redis" else running_rabbitmq() as server:
        yield server


def test_chains_over_one_connection(broker: RedisProcess | RabbitProcess) -> None:
    """No worker was ever here: who sends asks for the queue."""
    with sender_to(broker.url) as sender, Connection(broker.url) as connection:
        assert [sender.send(order_id) for order_id in ("1", "2", "3")] == ["sent"] * 3
        with SimpleQueue(connection, QUEUE) as queue:
            received = [queue.get(timeout=10) for _ in range(3)]
            for number, message in enumerate(received, 1):
                args, kwargs, embedded = message.payload
                assert args == [{"schema": 1, "order_id": str(number), "token": "t"}]
                assert kwargs == {}
                assert message.headers["task"] == messages.FETCH_ORDER
                assert message.headers["argsrepr"] == f"(order {number}, t)"
                assert message.headers["root_id"] == message.headers["id"]
                assert [task["task"] for task in reversed(embedded["chain"])] == list(messages.STEPS[1:])
                task_ids = {task["options"]["task_id"] for task in embedded["chain"]}
                assert len(task_ids | {message.headers["id"]}) == len(messages.STEPS)
                message.ack()


def test_a_broker_that_goes_away_between_two_messages(broker: RedisProcess | RabbitProcess) -> None:
    with sender_to(broker.url) as sender:
        assert sender.send("1") == "sent"
        broker.kill() if isinstance(broker, RabbitProcess) else broker.stop()
        assert sender.send("2").startswith("broker: ")
        broker.start()
        assert sender.send("3") == "sent"
        with (
            Connection(broker.url) as connection,
            SimpleQueue(connection, QUEUE) as queue,
        ):
            while queue.get(timeout=10).payload[0][0]["order_id"] != "3":
                pass
