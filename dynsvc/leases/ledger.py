"""The ledger: which orders are in flight, at which step, run by whom, and until when that counts.

It lies in the orders' Redis beside Kue's keys, under a prefix of its own. Kue's hash says who owns an order
(the token); the ledger says whether the owner is alive. An order is in flight from the moment a bridge
reserves it until somebody ends the attempt, and has one record:

``waiting``
    A message for *step* is on its way. The lease is long; when it runs out the message is sent again. That
    is harmless: beginning a step is one compare-and-set here, so of two messages one runs.
``running``
    A worker runs *step* and renews a short lease. When it runs out, the worker is lost.

Each operation is one Lua script. Times are the Redis server's, in milliseconds.
"""

from __future__ import annotations

import enum
import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis

from dynsvc.errors import AttemptEnded
from dynsvc.kue import answering
from dynsvc.kue.scripts import Call, Scripts, together

__all__ = ["AWAIT_LOADER", "CANCELLED", "Begun", "Entry", "Ledger", "Start", "Upload"]

#: The step of an order that waits for the loader's own job. No message belongs to it.
AWAIT_LOADER: Final = "loader"

#: First word of what :meth:`Ledger.tell_cancelled` publishes.
CANCELLED: Final = "cancelled"

#: The mark of the data is renewed with each look; a day without a bridge, and there is nobody to compare it.
_BIRTH_S: Final = 24 * 3600


class Start(enum.Enum):
    """What a task that wants to begin a step is told."""

    RUN = "run"
    #: The step was finished before; its message for the next step is returned again.
    DONE = "done"
    #: Another execution has the step, or has got further.
    BUSY = "busy"
    #: The attempt has ended.
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Begun:
    """Answer of :meth:`Ledger.begin`."""

    start: Start
    message: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Entry:
    """An order in flight whose lease has run out."""

    order_id: str
    token: str
    step: str
    #: Empty: the step waits for a worker.
    runner: str
    loader_job_id: str
    #: The message for *step*.
    message: dict[str, Any]
    #: When the lease ran out, by the Redis server's clock, ms. A living worker changes it every second.
    due_ms: str


@dataclass(frozen=True, slots=True)
class Upload:
    """An earlier upload of an order: begun, and ended if the loader's job id is known."""

    #: By the orders' Redis' clock, ms since the epoch.
    started_ms: int
    #: How long ago that was.
    age_ms: int
    loader_job_id: str


def scripts(client: redis.Redis, head: str, peer: str) -> Scripts:
    """Return the scripts of the ledger beside the Kue with this key *head*."""
    # With Kue's {q}: the ledger shares Kue's slot; otherwise it just is a prefix.
    return Scripts(client, f"dynsvc:{head}", peer, folder=Path(__file__).parent)


class Ledger:
    """Face of the scripts.

    Parameters
    ----------
    client
        The orders' Redis.
    head
        Kue's key head; each Kue in one Redis has a ledger of its own.
    peer
        The server's name in errors.
    """

    def __init__(self, client: redis.Redis, head: str, peer: str) -> None:
        self._client, self._peer = client, peer
        self._scripts = scripts(client, head, peer)
        self._head = self._scripts.head

    @property
    def wake_channel(self) -> str:
        """Channel on which a bridge hears that a place in the window became free."""
        return f"{self._head}wake"

    @property
    def leases(self) -> str:
        """Name of the sorted set with the ids of all orders in flight."""
        return f"{self._head}leases"

    def _call(self, script: str, *args: object) -> Call:
        return Call(self._scripts, script, tuple(map(str, args)))

    def _run(self, script: str, *args: object) -> Any:
        return self._call(script, *args).run()

    def in_flight(self) -> int:
        """Return the number of orders in flight."""
        with answering(self._peer):
            return int(self._client.zcard(self.leases))

    def tell_cancelled(self, order_id: str, sentence: str) -> None:
        """Tell the bridges, for their logs, who removed an order: Kue forgets the order and its log."""
        with answering(self._peer):
            self._client.publish(self.wake_channel, f"{CANCELLED} {order_id} {sentence}")

    def birth(self) -> str:
        """Return the mark of this Redis' data, made by the first who asks. Lost data has lost its mark."""
        name = f"{self._head}birth"
        with answering(self._peer), self._client.pipeline() as pipeline:
            pipeline.set(name, uuid.uuid4().hex, nx=True)
            pipeline.expire(name, _BIRTH_S)
            pipeline.get(name)
            return str(pipeline.execute()[-1])

    def holds(self, order_ids: Sequence[str]) -> list[bool]:
        """Say for each order whether it is in flight."""
        if not order_ids:
            return []
        with answering(self._peer), self._client.pipeline(transaction=False) as pipeline:
            for order_id in order_ids:
                pipeline.zscore(self.leases, order_id)
            scores = pipeline.execute()
        return [score is not None for score in scores]

    def reserve(
        self, orders: Iterable[tuple[str, str, dict[str, Any]]], *, step: str, window: int, wait_s: float
    ) -> list[str]:
        """Take orders into the window, first come first; those already in flight are passed over.

        Parameters
        ----------
        orders
            Order id, token and first message of each candidate.
        step
            The step that the message is for.
        window
            Largest number of orders in flight, over all bridges.
        wait_s
            Lease of a waiting step, seconds.

        Returns
        -------
        list of str
            The ids of the orders that are the caller's to send.
        """
        args: list[object] = [window, round(wait_s * 1000)]
        for order_id, token, message in orders:
            args += [order_id, token, step, json.dumps(message)]
        return list(self._run("reserve", *args)) if len(args) > 2 else []

    def begin(
        self, order_id: str, token: str, step: str, runner: str, *, lease_s: float, later: Sequence[str]
    ) -> Begun:
        """Begin *step* if this attempt is at it and nobody else runs it.

        Parameters
        ----------
        runner
            Name of this execution, unique to it.
        later
            The steps that come after *step*: at one of them, *step* has been done.
        """
        start, message = self._run("begin", order_id, token, step, runner, round(lease_s * 1000), *later)
        return Begun(Start(start), json.loads(message) if message else None)

    def renew(self, order_id: str, token: str, runner: str, *, lease_s: float) -> bool:
        """Renew the lease of a running step. False: this execution no longer holds it."""
        return self.renew_each([(order_id, token, runner)], lease_s=lease_s)[0]

    def renew_each(self, leases: Sequence[tuple[str, str, str]], *, lease_s: float) -> list[bool]:
        """Renew the lease of each ``(order id, token, runner)``, in one round trip."""
        lease_ms = round(lease_s * 1000)
        return [bool(kept) for kept in together([self._call("renew", *each, lease_ms) for each in leases])]

    def handing_over(
        self,
        order_id: str,
        token: str,
        runner: str,
        *,
        step: str,
        message: dict[str, Any],
        lease_s: float,
        goes_on: bool = False,
        loader_job_id: str = "",
    ) -> Call:
        """Return the call that ends the running step and makes *step* the next.

        Its reply is 1, or 0 where that is no longer this execution's to do.

        Parameters
        ----------
        lease_s
            Lease of the next step, seconds.
        goes_on
            The same execution runs the next step too, from now on; otherwise that waits for one.
        """
        lease_ms = round(lease_s * 1000)
        args = (order_id, token, runner, step, json.dumps(message), lease_ms, loader_job_id, int(goes_on))
        return self._call("hand_over", *args)

    def hand_back(self, order_id: str, token: str, runner: str) -> bool:
        """Give up the running step unfinished: another worker begins it again. False: it was not ours."""
        return bool(self._run("hand_back", order_id, token, runner))

    def release(self, order_id: str, token: str, *, keep_losses: bool = False) -> bool:
        """Take an order out of flight, because its attempt has ended."""
        return bool(self.releasing(order_id, token, keep_losses=keep_losses).run())

    def releasing(self, order_id: str, token: str, *, keep_losses: bool = False) -> Call:
        """Return the call of :meth:`release`; its reply is 1, or 0 where the order was not this attempt's."""
        return self._call("release", order_id, token, int(keep_losses))

    def expired(self, limit: int = 100) -> list[Entry]:
        """Return orders whose lease has run out, the oldest first."""
        return [
            Entry(order_id, token, step, runner, loader_job_id, json.loads(message), due_ms)
            for order_id, token, step, runner, loader_job_id, message, due_ms in self._run("expired", limit)
        ]

    def sent_again(self, entry: Entry, *, wait_s: float, longest_s: float) -> int:
        """Note that a waiting step's message was sent again; the next lease is twice as long.

        Returns
        -------
        int
            How often it has been sent; 0 where another bridge was faster or a worker has begun. A message
            sent twice does no harm.
        """
        args = (entry.order_id, entry.token, entry.step, round(wait_s * 1000), round(longest_s * 1000))
        return int(self._run("sent_again", *args))

    def take_lost(self, entry: Entry, runner: str, *, lease_s: float, keep_s: float) -> int:
        """Take over an order whose worker is lost, to end its attempt. Its losses are counted for *keep_s*.

        Returns
        -------
        int
            How often this order has lost its worker, this time included; 0 where somebody else was faster.
        """
        lease_ms, keep_ms = round(lease_s * 1000), round(keep_s * 1000)
        args = (entry.order_id, entry.token, entry.runner, runner, lease_ms, keep_ms)
        return int(self._run("take_lost", *args))

    def awaiting_loader(self) -> dict[str, tuple[str, str]]:
        """Return the loader's job id -> (order id, token) for each order that waits for the loader."""
        with answering(self._peer):
            rows = self._client.hgetall(f"{self._head}loader")
        return {str(loader_job_id): _pair(str(text)) for loader_job_id, text in rows.items()}

    def message(self, order_id: str, token: str) -> dict[str, Any] | None:
        """Return the message of the attempt's present step, or None where the attempt has ended."""
        with answering(self._peer):
            owner, text = self._client.hmget(f"{self._head}attempt:{order_id}", "token", "message")
        return json.loads(text) if owner == token and text else None

    def begin_upload(self, order_id: str, token: str, runner: str, *, keep_s: float) -> Upload | None:
        """Record the intent to upload, before the first byte is sent.

        Returns
        -------
        Upload or None
            The earlier upload of this order where there was one; None for the first.

        Raises
        ------
        AttemptEnded
            This execution no longer holds the lease and must not upload.
        """
        answer = self._run("upload_begin", order_id, token, runner, round(keep_s * 1000))
        if answer[0] == "gone":
            raise AttemptEnded(order_id, "another execution has taken over")
        return Upload(int(answer[1]), int(answer[2]), answer[3]) if answer[0] == "earlier" else None

    def take_loader_job(self, order_id: str, token: str, loader_job_id: str, *, keep_s: float) -> bool:
        """Record a job of the loader as the end of this order's upload. False: it is another order's."""
        return bool(self.taking_loader_job(order_id, token, loader_job_id, keep_s=keep_s).run())

    def taking_loader_job(self, order_id: str, token: str, loader_job_id: str, *, keep_s: float) -> Call:
        """Return the call of :meth:`take_loader_job`; its reply is 1, or 0 where it is another order's."""
        return self._call("loader_job", order_id, token, loader_job_id, round(keep_s * 1000))

    def forget_upload(self, order_id: str, token: str) -> bool:
        """Forget an upload that certainly did not arrive, or whose loader job failed.

        False where there was none, or where the attempt has ended: then another one's upload is recorded.
        """
        return bool(self._run("upload_forget", order_id, token))


def _pair(text: str) -> tuple[str, str]:
    order_id, _, token = text.partition(" ")
    return order_id, token
