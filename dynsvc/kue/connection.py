"""Connections to a Redis server, and its errors in our words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dynsvc.errors import PeerRefused, PeerUnavailable
from dynsvc.kue.pool import Pool
from dynsvc.settings import RedisServer

__all__ = ["answering", "connect", "exchange", "in_our_words"]

#: A script takes milliseconds; a server that is silent for this long is away.
_ANSWER_S = 10.0
_CONNECT_S = 5.0
#: An idle connection is tried before it is used, so that one cut by a firewall is noticed.
_HEALTH_CHECK_S = 15

_REFUSALS = (redis.exceptions.AuthenticationError, redis.exceptions.AuthorizationError)
# Answers of a server that is there but cannot serve now.
_PASSING = (
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
)
_PASSING_CODES = frozenset({"OOM", "READONLY", "CLUSTERDOWN", "TRYAGAIN", "MISCONF", "BUSY", "NOREPLICAS"})
# Redis before 7 wraps the error of a command in a script: "Error running script …: 12: -OOM command not …".
_CODE = re.compile(r"(?:^|: -)([A-Z]{3,}) ")


def connect(server: RedisServer, *, db: int | None = None, name: str = "dynsvc") -> redis.Redis:
    """Return a client of *server*. It connects with its first command; the caller closes it.

    Nothing is repeated behind the caller's back: a lost reply surfaces as an error, because only the caller
    knows whether its command may run twice.

    Parameters
    ----------
    server
        Address and password.
    db
        Database, if not the server's.
    name
        Shown by the server's list of clients.
    """
    pool = Pool(
        redis.SSLConnection if server.tls else redis.Connection,
        host=server.host,
        port=server.port,
        db=server.db if db is None else db,
        username=server.username,
        password=server.password.get_secret_value() if server.password else None,
        client_name=name,
        decode_responses=True,
        # A foreign program may have stored anything in a job.
        encoding_errors="replace",
        socket_timeout=_ANSWER_S,
        socket_connect_timeout=_CONNECT_S,
        socket_keepalive=True,
        health_check_interval=_HEALTH_CHECK_S,
        retry=Retry(NoBackoff(), 0),
        # The old protocol serves us as well, and servers before Redis 6 know no other.
        protocol=2,
    )
    return redis.Redis.from_pool(pool)


def exchange(client: redis.Redis, commands: Sequence[tuple[str | int, ...]]) -> list[Any]:
    """Send *commands* in one round trip and return their replies.

    Commands and pipelines of the client do the same in three times the time: they look at each command,
    argument and reply for what we do not have, a cluster's keys, transactions, caches and callbacks.

    Raises
    ------
    redis.exceptions.ResponseError
        The first error that the server told; the other commands have run.
    redis.exceptions.RedisError
        The connection broke; some or all commands may have run.
    """
    # Its types know commands of one word only.
    packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]
    pool = client.connection_pool
    connection = pool.get_connection()
    try:
        connection.send_packed_command([b"".join(packed)])
        replies = [_reply(connection) for _ in commands]
    finally:
        pool.release(connection)
    for reply in replies:
        if isinstance(reply, redis.exceptions.ResponseError):
            raise reply
    return replies


def _reply(connection: redis.Connection) -> Any:
    try:
        return connection.read_response()
    except redis.exceptions.ResponseError as error:
        return error


@contextmanager
def answering(peer: str) -> Iterator[None]:
    """Turn errors of the Redis client into ours.

    Raises
    ------
    PeerUnavailable
        No connection, no answer in time, or the server cannot serve now (transient).
    PeerRefused
        Wrong password, missing rights, or a key of another kind (permanent).
    """
    try:
        yield
    except redis.exceptions.RedisError as error:
        raise in_our_words(peer, error) from error


def in_our_words(peer: str, error: redis.exceptions.RedisError) -> PeerRefused | PeerUnavailable:
    """Return what :func:`answering` raises for an error of the Redis client."""
    if isinstance(error, _REFUSALS):
        return PeerRefused(peer, _sentence(error))
    if isinstance(error, redis.exceptions.ResponseError) and not isinstance(error, _PASSING):
        code = _CODE.search(str(error))
        if not code or code.group(1) not in _PASSING_CODES:
            return PeerRefused(peer, _sentence(error))
    return PeerUnavailable(peer, _sentence(error))


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"
