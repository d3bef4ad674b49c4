"""Where Kue keeps its keys in a Redis, and whether that Redis keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import redis

from dynsvc.kue.connection import answering

__all__ = ["HEADS", "Layout", "inspect"]

#: What Kue's keys begin with: on the redis client, and on ioredis.
HEADS: Final = ("q:", "{q}:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a look at the orders' Redis found. Nothing was written."""

    version: str
    #: Policy of the server for a full memory; only ``noeviction`` never drops a key.
    eviction: str
    #: Whether a Kue with the key head asked for has saved jobs here.
    used: bool
    #: A usual key head under which jobs were found instead, if any.
    other_head: str | None
    #: Types of the jobs ever saved.
    types: tuple[str, ...]


def inspect(client: redis.Redis, head: str, *, peer: str = "the orders' Redis") -> Layout:
    """Look at the server and at Kue's keys with the key head *head*.

    Raises
    ------
    PeerUnavailable
        The server does not answer (transient).
    PeerRefused
        Wrong password or missing rights (permanent).
    """
    with answering(peer):
        info: Any = client.info()
        used = bool(client.exists(f"{head}ids"))
        others = [other for other in HEADS if other != head and client.exists(f"{other}ids")]
        types: Any = client.smembers(f"{head}job:types")
    return Layout(
        version=str(info.get("redis_version", "unknown")),
        eviction=str(info.get("maxmemory_policy", "unknown")),
        used=used,
        other_head=others[0] if others else None,
        types=tuple(sorted(types)),
    )
