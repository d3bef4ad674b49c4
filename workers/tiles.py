"""The Celery task of a batch of tiles.

A batch is a loan: it holds a lease of its own, and its tiles count one by one, as soon as each one's part is
stored. What is not done when it ends, for whatever reason, goes back and is done by another batch.
"""

from __future__ import annotations

import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import structlog
from celery import Task
from celery.exceptions import Ignore
from pydantic import ValidationError

from dynsvc import messages, metrics, pipeline
from dynsvc.celery import app
from dynsvc.errors import AttemptEnded, DynsvcError, OrderOverdue
from dynsvc.leases import Start
from dynsvc.leases.spread import TileProgress
from dynsvc.messages import Batch, Message
from dynsvc.site import Site
from dynsvc.slides import Picture
from dynsvc.steps import ALGORITHM_FROM, ALGORITHM_TO, workspace
from dynsvc.tiles import Tile
from dynsvc.tracing import span
from dynsvc.wholeslide.tilework import TileWork, tiles_of
from workers.attempts import LeasedAttempt
from workers.batches import send_batches, settle
from workers.endings import error_details, fail, left
from workers.insist import insist
from workers.tasks import site

__all__ = ["run_tiles"]

log = structlog.get_logger(__name__)

#: A line with the time that remains is written for each tenth.
_LINES = 10


@app.task(bind=True, name=messages.RUN_TILES, throws=(DynsvcError,))
def run_tiles(self: Task, document: dict[str, Any]) -> None:
    """Do a batch of tiles."""
    try:
        batch = Batch.model_validate(document)
    except ValidationError as error:
        raise left(f"not a message of this version: {error.errors()[0]['msg']}") from None
    with structlog.contextvars.bound_contextvars(
        order_id=batch.order_id, attempt=batch.token, step=messages.RUN_TILES, batch=batch.batch
    ):
        runner = f"{site().settings.host}:{self.request.id}:{uuid.uuid4().hex[:8]}"
        facts = {"order_id": batch.order_id, "tiles": f"{batch.first} to {batch.last - 1}"}
        with metrics.step("run_tiles"), span("run_tiles", batch.token, facts, no_error=(Ignore,)):
            _run(site(), batch, runner)


def _run(here: Site, batch: Batch, runner: str) -> None:
    leases = here.spread.leases
    begun = insist(
        lambda: leases.begin(
            batch.batch, batch.token, messages.RUN_TILES, runner, lease_s=here.settings.lease_s, later=()
        )
    )
    if begun.start is not Start.RUN:
        raise left(f"batch {batch.batch} is {begun.start.value}")
    document = insist(lambda: here.ledger.message(batch.order_id, batch.token))
    if document is None:
        insist(lambda: here.spread.batch_ends(batch, runner))
        raise left(f"order {batch.order_id}: the attempt has ended")
    message = Message.from_document(document)
    rest: int | None = batch.first
    with LeasedAttempt(here, message, "run_tiles", runner, leases=leases, lease=batch.batch) as attempt:
        send_batches(here, batch.order_id, batch.token, begun=batch.batch)
        try:
            rest = _Work(here, batch, message, attempt).run()
        except AttemptEnded as ended:
            rest = _given_up(here, batch, message, attempt, ended)
        except DynsvcError as error:
            attempt.tell()
            fail(here, message, error.headline, str(error), error_details(error))
            raise
        except Exception as error:
            log.exception("batch failed unexpectedly")
            text = f"InternalError: {type(error).__name__}: {error}"
            attempt.tell()
            fail(here, message, text, text, "")
            raise
    insist(lambda: here.spread.batch_ends(batch, runner, rest))
    send_batches(here, batch.order_id, batch.token)
    settle(here, batch.order_id, batch.token)


def _given_up(
    here: Site, batch: Batch, message: Message, attempt: LeasedAttempt, ended: AttemptEnded
) -> int | None:
    """Leave a batch whose attempt, lease or worker has ended. Returns the first of the tiles that go back."""
    attempt.tell()
    if attempt.overdue:
        error = OrderOverdue(message.order_id, "run_tiles", here.settings.order_limit_s)
        fail(here, message, error.headline, str(error), "")
        return None
    log.info("batch ended", reason=ended.reason)
    if not attempt.handed_back and not insist(lambda: here.jobs.owns(message.order_id, message.token)):
        insist(lambda: here.ledger.release(message.order_id, message.token))
    # Those of them that are done are passed over by whoever gets them.
    return batch.first


class _Owner:
    """The attempt, as a single tile sees it: what it notes would drown what the order's steps noted."""

    def __init__(self, attempt: LeasedAttempt, *, notes: bool) -> None:
        self._attempt, self._notes = attempt, notes

    def ended(self) -> bool:
        return self._attempt.ended()

    def note(self, **facts: object) -> None:
        if self._notes:
            self._attempt.note(**facts)


class _Work:
    """The tiles of one batch. While one is computed, the pixels of the next are fetched."""

    def __init__(self, here: Site, batch: Batch, message: Message, attempt: LeasedAttempt) -> None:
        self._here, self._batch, self._message, self._attempt = here, batch, message, attempt

    def run(self) -> int | None:
        """Do the tiles.

        Returns
        -------
        int or None
            Number of the first tile that is not done, because a step of an order waits for a worker.
        """
        here, batch, ports = self._here, self._batch, self._here.ports
        tiles = tiles_of(self._message, ports, batch.first, batch.last)
        with (
            workspace(ports, self._message) as folder,
            ThreadPoolExecutor(1, thread_name_prefix="pixels") as reader,
        ):
            work = TileWork.of(self._message, ports, folder)
            ahead: Future[Picture | None] | None = None
            for place, tile in enumerate(tiles):
                number = batch.first + place
                waiting = insist(lambda number=number: here.spread.tile_begins(batch, number))  # type: ignore[misc]
                if waiting is None:
                    raise AttemptEnded(batch.order_id, "its tiles are no longer wanted")
                self._attempt.check()
                if waiting and place:
                    log.info("batch makes room", waiting=waiting, tiles_left=len(tiles) - place)
                    return number
                present = ahead or reader.submit(_fetched, work, tile)
                following = tiles[place + 1] if place + 1 < len(tiles) else None
                ahead = reader.submit(_fetched, work, following) if following else None
                self._do(work, tile, number, present)
        return None

    def _do(self, work: TileWork, tile: Tile, number: int, present: Future[Picture | None]) -> None:
        here, batch = self._here, self._batch
        began = time.monotonic()
        # Only the order's first tile tells how tiles are run.
        owner = _Owner(self._attempt, notes=number == 0)
        futures = [present]

        def once() -> bool:
            picture = futures.pop().result() if futures else _fetched(work, tile)
            if picture is None:
                return False
            work.do(tile, picture, owner, self._say, f"{batch.token}#{batch.batch}#{number}")
            picture.path.unlink(missing_ok=True)
            return True

        try:
            computed = pipeline.persisting(self._attempt, here.retry_policy, once, batch.order_id)
        except AttemptEnded:
            raise
        except DynsvcError as error:
            self._attempt.check()
            self._failed(work, tile, number, error)
            return
        took_s = time.monotonic() - began if computed else None
        progress = insist(lambda: here.spread.tile_done(batch, number, here.settings.host, took_s))
        if progress is None:
            raise AttemptEnded(batch.order_id, "its tiles are no longer wanted")
        metrics.tile_ended(self._message.algorithm, "done" if computed else "kept")
        self._report(progress)

    def _failed(self, work: TileWork, tile: Tile, number: int, error: DynsvcError) -> None:
        batch, tiling = self._batch, work.algorithm.tiling
        hole = tiling.on_failure == "hole"
        verdict = insist(
            lambda: self._here.spread.tile_failed(
                batch.order_id, batch.token, number, tries=tiling.tries, hole=hole
            )
        )
        metrics.tile_ended(self._message.algorithm, "failed")
        log.warning("tile failed", tile=str(tile), error=error.headline, verdict=verdict)
        if verdict == "failed":
            raise error
        if verdict:
            then = "it is tried again" if verdict == "again" else "it becomes a hole in the result"
            self._say(f"tile {tile}: {error.headline}; {then}")

    def _say(self, line: str) -> None:
        self._attempt.report(ALGORITHM_FROM, line)

    def _report(self, progress: TileProgress) -> None:
        tenth = max(1, progress.tiles // _LINES)
        line = progress.done % tenth == 0 and progress.done < progress.tiles
        percent = ALGORITHM_FROM + (ALGORITHM_TO - ALGORITHM_FROM) * progress.done // progress.tiles
        remaining_s = progress.remaining_s
        left_text = "" if remaining_s is None else f", about {_span(remaining_s)} left"
        lines = [f"{progress.done} of {progress.tiles} tiles done{left_text}"] if line else []
        self._attempt.report(percent, *lines)


def _fetched(work: TileWork, tile: Tile) -> Picture | None:
    """Return the tile's pixels, or None where it was done before."""
    return None if work.is_done(tile) else work.fetch(tile)


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
