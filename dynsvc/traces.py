"""The trace of an order: which host did which step, for how long, with what. For ``dynsvc explain`` only.

It lies in the orders' Redis beside the ledger, as a list of small JSON documents that vanishes with time.
Nothing depends on it: what cannot be written is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from dynsvc.errors import PeerUnavailable
from dynsvc.kue import answering
from dynsvc.kue.scripts import Call
from dynsvc.leases.ledger import scripts

__all__ = ["Noted", "Traces"]

log = structlog.get_logger(__name__)

#: An order has about ten entries in each attempt.
_ENTRIES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """One entry."""

    attempt: str
    step: str
    host: str
    #: By the host's clock, seconds since the epoch.
    at_s: float
    facts: Mapping[str, Any] = field(default_factory=dict)


class Traces:
    """The traces of all orders of one Kue.

    Parameters
    ----------
    client
        The orders' Redis.
    head
        Kue's key head.
    peer
        The server's name in errors.
    keep_s
        How long an entry stays after the last one.
    """

    def __init__(self, client: Any, head: str, peer: str, *, keep_s: float) -> None:
        self._client, self._peer, self._keep_s = client, peer, keep_s
        self._scripts = scripts(client, head, peer)

    def add(self, order_id: str, entries: Sequence[Noted]) -> None:
        """Write entries, or none where Redis is away."""
        try:
            self.adding(order_id, entries).run()
        except PeerUnavailable as error:
            log.warning("trace not written", error=str(error))

    def adding(self, order_id: str, entries: Sequence[Noted]) -> Call:
        """Return the call that writes entries."""
        texts = [
            json.dumps(
                {
                    "attempt": entry.attempt,
                    "step": entry.step,
                    "host": entry.host,
                    "at_s": round(entry.at_s, 3),
                    "facts": dict(entry.facts),
                }
            )
            for entry in entries
        ]
        return Call(self._scripts, "trace", (order_id, _ENTRIES, round(self._keep_s * 1000), *texts))

    def read(self, order_id: str) -> list[Noted]:
        """Return the entries of an order, the oldest first.

        Raises
        ------
        PeerUnavailable
            Redis does not answer (transient).
        """
        with answering(self._peer):
            texts = self._client.lrange(f"{self._scripts.head}trace:{order_id}", 0, -1)
        return [Noted(**json.loads(text)) for text in texts]
