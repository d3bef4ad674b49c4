"""Connections change hands: none is used by two, and none that is spent."""

from __future__ import annotations

import os

import pytest
import redis

from dynsvc.kue import connect
from tests.support.redis import RedisProcess, running_redis

pytestmark = pytest.mark.services


def test_a_connection_is_used_again_until_the_server_closes_it(client: redis.Redis) -> None:
    first = client.client_id()
    assert client.client_id() == first
    with client.pipeline() as pipeline:
        pipeline.client_id()
        assert pipeline.execute() == [first]
    client.client_kill_filter(_id=str(first), skipme=False)
    assert client.client_id() != first


def test_two_at_a_time_have_two_connections(client: redis.Redis) -> None:
    pool = client.connection_pool
    one, other = pool.get_connection(), pool.get_connection()
    assert one is not other
    pool.release(one)
    pool.release(other)
    assert pool.get_connection() in (one, other)


def test_a_reply_that_nobody_waited_for_is_nobody_elses(client: redis.Redis) -> None:
    pool = client.connection_pool
    connection = pool.get_connection()
    connection.send_command("ECHO", "late")
    assert connection.can_read(timeout=5)
    pool.release(connection)
    assert client.echo("mine") == "mine"


def test_a_closed_client_leaves_no_connection(own_server: RedisProcess, client: redis.Redis) -> None:
    leaver = connect(own_server.settings, name="leaver")
    connections = [leaver.connection_pool.get_connection() for _ in range(3)]
    for connection in connections[1:]:
        leaver.connection_pool.release(connection)
    assert [each["name"] for each in client.client_list()].count("leaver") == 3
    leaver.close()
    assert not any(connection.is_connected for connection in connections)


def test_a_server_that_is_away_costs_no_connection(redis_program: str) -> None:
    with running_redis() as server, connect(server.settings) as client:
        assert client.ping()
        server.stop()
        for _ in range(3):
            with pytest.raises(redis.ConnectionError):
                client.ping()
        server.start()
        assert client.ping()
        assert len(client.client_list()) == 1


def test_a_fork_has_connections_of_its_own(client: redis.Redis) -> None:
    mine = client.client_id()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, str(client.client_id()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = int(os.read(reader, 20))
    os.close(reader)
    os.close(writer)
    assert theirs != mine
    assert client.client_id() == mine
