"""Orders that are done in tiles: which tiles are done, and who does the others.

Between two steps such an order waits (``AWAIT_TILES``) while batches of its tiles run, each with a lease of
its own. Which tiles are done is a set: a batch that is delivered twice, or done again after its worker was
lost, counts once. Few batches of an order wait for a worker at any time; each that begins makes room for
another. So the broker's memory does not grow with a slide, two slides get equal shares, and any number of
workers is kept busy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import redis

from dynsvc.kue import answering
from dynsvc.kue.scripts import Scripts
from dynsvc.leases.ledger import Entry, Ledger
from dynsvc.messages import RUN_TILES, SCHEMA, Batch

__all__ = ["AWAIT_TILES", "Spread", "SpreadState", "TileProgress"]

#: The step of an order whose tiles are being done. No message belongs to it.
AWAIT_TILES: Final = "tiles"


@dataclass(frozen=True, slots=True)
class TileProgress:
    """How far an order's tiles are."""

    done: int
    tiles: int
    #: Of those done, how many were not there already from an earlier attempt or order.
    computed: int
    elapsed_s: float

    @property
    def remaining_s(self) -> float | None:
        """How long it will go on at this rate; None before there is one."""
        if not self.computed:
            return None
        return self.elapsed_s / self.computed * (self.tiles - self.done)


@dataclass(frozen=True, slots=True)
class SpreadState:
    """What is known of an order's tiles."""

    progress: TileProgress
    #: Numbers of the tiles that are done, as far as they count: sorted.
    done: tuple[int, ...]
    #: Numbers of those that failed and were given up.
    holes: tuple[int, ...]
    #: Number of tiles done by each host.
    hosts: Mapping[str, int]


class Spread:
    """Face of the scripts. Parameters as for :class:`dynsvc.leases.ledger.Ledger`."""

    def __init__(self, client: redis.Redis, head: str, peer: str) -> None:
        self._client, self._peer = client, peer
        self._head = f"dynsvc:{head}"
        self._scripts = Scripts(client, self._head, peer, folder=Path(__file__).parent)
        #: The leases of batches, by their names.
        self.leases = Ledger(client, f"{head}tiles:", peer)

    def _run(self, script: str, *args: object) -> Any:
        return self._scripts.run(script, *map(str, args))

    def begin(
        self,
        order_id: str,
        token: str,
        runner: str,
        *,
        message: Mapping[str, Any],
        tiles: int,
        device: str,
        wait_s: float,
    ) -> bool:
        """End the running step, and begin with the tiles. False: no longer this execution's to do.

        Parameters
        ----------
        message
            For the step that follows the tiles.
        tiles
            Their number.
        device
            Queue of their batches.
        wait_s
            An order of which nothing is heard for so long is looked at by a bridge.
        """
        args = (AWAIT_TILES, json.dumps(message), round(wait_s * 1000), tiles, device)
        return bool(self._run("spread", order_id, token, runner, *args))

    def batches(
        self, order_id: str, token: str, *, begun: str = "", waiting: int, wait_s: float, batch_s: float
    ) -> list[Batch]:
        """Return new batches for the caller to send: as many as may wait.

        Parameters
        ----------
        begun
            A batch that waits no more.
        waiting
            How many of this order's may wait at a time.
        wait_s
            Lease of a waiting batch.
        batch_s
            How long a batch should take, by what the tiles done so far took.
        """
        args = (waiting, round(wait_s * 1000), round(batch_s * 1000), SCHEMA, RUN_TILES)
        texts = self._run("batches", order_id, token, begun, *args)
        return [Batch.model_validate_json(text) for text in texts]

    def tile_begins(self, batch: Batch, tile: int) -> int | None:
        """Note at which tile a batch is.

        Returns
        -------
        int or None
            How many steps of orders wait for a worker; None where the attempt has ended.
        """
        waiting = int(self._run("tile_begins", batch.order_id, batch.token, batch.batch, tile))
        return None if waiting < 0 else waiting

    def tile_done(self, batch: Batch, tile: int, host: str, took_s: float | None) -> TileProgress | None:
        """Count a tile whose part is stored; None where the attempt has ended.

        Parameters
        ----------
        took_s
            None for a tile that was there already.
        """
        took_ms = "" if took_s is None else max(1, round(took_s * 1000))
        found = self._run("tile_done", batch.order_id, batch.token, tile, took_ms, host)
        if not found:
            return None
        done, tiles, computed, elapsed_ms = (int(number) for number in found)
        return TileProgress(done, tiles, computed, elapsed_ms / 1000)

    def tile_failed(
        self, order_id: str, token: str, tile: int, *, tries: int, hole: bool
    ) -> Literal["again", "hole", "failed", ""]:
        """Note that a tile failed, and say what follows; an empty text where the attempt has ended."""
        verdict: Literal["again", "hole", "failed", ""] = self._run(
            "tile_failed", order_id, token, tile, tries, "1" if hole else ""
        )
        return verdict

    def batch_ends(self, batch: Batch, runner: str, rest: int | None = None) -> bool:
        """End a batch; its tiles from number *rest* on are not done and go back."""
        first, last = ("", "") if rest is None else (rest, batch.last)
        return bool(self._run("batch_ends", batch.order_id, batch.token, batch.batch, runner, first, last))

    def batch_lost(self, entry: Entry) -> int | None:
        """Take back the tiles of a batch whose worker is lost.

        Returns
        -------
        int or None
            The tile that the worker was at, which is the caller's to judge; None where there is none, or
            where another bridge was faster.
        """
        batch = Batch.model_validate(entry.message)
        args = (batch.order_id, batch.token, batch.batch, entry.runner)
        at = self._run("batch_lost", *args)[1]
        return int(at) if at else None

    def settle(self, order_id: str, token: str, *, step: str, wait_s: float) -> dict[str, Any] | None:
        """Go on to *step* when all tiles are done; True for one caller only.

        Returns
        -------
        dict or None
            The message for *step*, for the caller to send.
        """
        text = self._run("settle", order_id, token, step, round(wait_s * 1000))
        return json.loads(text) if text else None

    def state(self, order_id: str) -> SpreadState | None:
        """Return what is known of an order's tiles, or None where it has none."""
        slide = f"{self._head}slide:{order_id}"
        with answering(self._peer), self._client.pipeline(transaction=False) as pipeline:
            pipeline.hmget(slide, "tiles", "computed", "begun_ms")
            pipeline.execute_command("GETRANGE", f"{slide}:done", 0, -1, NEVER_DECODE=True)
            pipeline.smembers(f"{slide}:holes")
            pipeline.hgetall(f"{slide}:hosts")
            pipeline.time()
            known, bits, holes, hosts, (seconds, microseconds) = pipeline.execute()
        if known[0] is None:
            return None
        tiles = int(known[0])
        done = tuple(n for n in range(min(tiles, 8 * len(bits))) if bits[n // 8] >> (7 - n % 8) & 1)
        elapsed_s = int(seconds) + int(microseconds) / 1e6 - int(known[2]) / 1000
        progress = TileProgress(len(done), tiles, int(known[1] or 0), elapsed_s)
        numbers = tuple(sorted(int(hole) for hole in holes))
        return SpreadState(progress, done, numbers, {str(k): int(v) for k, v in hosts.items()})
