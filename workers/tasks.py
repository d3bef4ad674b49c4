"""The Celery tasks: unpack the message, do one step of :mod:`dynsvc.pipeline`, hand on or end the order.

Each step runs at most once at a time and has its effect once, however often its message arrives: the ledger
lets one execution begin, and every write to the job is guarded by the attempt's token.
"""

from __future__ import annotations

import functools
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import structlog
from celery import Task
from celery.exceptions import Ignore
from pydantic import ValidationError

from dynsvc import messages, metrics, pipeline
from dynsvc.celery import app
from dynsvc.errors import AttemptEnded, DeliveryUnknown, DynsvcError, OrderOverdue
from dynsvc.kue.scripts import Call, together
from dynsvc.leases import AWAIT_LOADER, AWAIT_TILES, Start
from dynsvc.messages import Message
from dynsvc.sinks import Receipt
from dynsvc.site import Site, summary
from dynsvc.tracing import span
from dynsvc.wholeslide import merging
from workers import onward
from workers.attempts import LeasedAttempt, short
from workers.batches import send_batches
from workers.endings import error_details, fail, left, traced
from workers.insist import insist

__all__ = [
    "fetch_order",
    "fetch_roi",
    "merge_tiles",
    "run_algorithm",
    "site",
    "upload_zip",
]

log = structlog.get_logger(__name__)

Document = dict[str, Any]
T = TypeVar("T")
#: A step's work: the grown message, or at the end of the chain the receipt of the delivery.
Work = Callable[[Site, Message, LeasedAttempt], Message | Receipt]


@functools.cache
def site() -> Site:
    """Return this process's connections, opened by the first task."""
    return Site()


def _step(task: Task, document: Document) -> Document | None:
    """Run the step of a message, and those after it that this worker takes as well.

    Returns the message of the step after them.
    """
    try:
        message = Message.from_document(document)
    except ValidationError as error:
        # Not ours, or from a version we do not know. The order is still Kue's and is sent again.
        raise left(f"not a message of this version: {error.errors()[0]['msg']}") from None
    step = str(task.name)
    with structlog.contextvars.bound_contextvars(order_id=message.order_id, attempt=message.token, step=step):
        here = site()
        runner = f"{here.settings.host}:{task.request.id}:{uuid.uuid4().hex[:8]}"
        later = (*messages.following(step), AWAIT_TILES, messages.MERGE_TILES, AWAIT_LOADER)
        begun = insist(
            lambda: here.ledger.begin(
                message.order_id, message.token, step, runner, lease_s=here.settings.lease_s, later=later
            )
        )
        if begun.start is Start.DONE and begun.message is not None:
            return begun.message
        if begun.start is not Start.RUN:
            raise left(f"order {message.order_id}: {step} is {begun.start.value}")
        with LeasedAttempt(here, message, short(step), runner) as attempt:
            return _in_a_row(task, here, message, attempt)


def _in_a_row(task: Task, here: Site, message: Message, attempt: LeasedAttempt) -> Document | None:
    ended = _one_step(task, here, str(task.name), message, attempt)
    while ended.following is not None:
        step, task_id = ended.following
        attempt.goes_on(ended.message, step)
        # Until the task ends: what was bound before it is put back then.
        structlog.contextvars.bind_contextvars(step=step)
        try:
            with onward.monitored(task, step, task_id, ended.message):
                ended = _one_step(task, here, step, ended.message, attempt)
        except (DynsvcError, Ignore):
            # The step has said how it ended. The step of this task's own message ended well.
            task.request.chain = None
            return None
    return ended.document


@dataclass(frozen=True, slots=True)
class _Ended:
    """A step that ended well."""

    message: Message
    #: Name and task of the next step, where it runs here.
    following: tuple[str, str] | None = None
    #: The message of the next step, where it is sent.
    document: Document | None = None


def _one_step(task: Task, here: Site, step: str, message: Message, attempt: LeasedAttempt) -> _Ended:
    """Run one step under the lease of *attempt*."""
    with (
        span(attempt.step, message.token, _known(message), no_error=(Ignore,)),
        traced(attempt) as done,
    ):
        log.debug("step begun")
        try:
            insist(attempt.check_owner)
            grown, following = _worked(task, here, step, message, attempt)
        except AttemptEnded as ended:
            _given_up(here, message, attempt, step, ended)
            raise left(str(ended)) from ended
        except DynsvcError as error:
            attempt.tell()
            fail(here, message, error.headline, str(error), error_details(error))
            raise
        except Exception as error:
            # A bug of ours, or of a library. The order must not wait for a lease to run out because of it.
            log.exception("step failed unexpectedly")
            text = f"InternalError: {type(error).__name__}: {error}"
            attempt.tell()
            fail(here, message, text, text, traceback.format_exc())
            raise
        if isinstance(grown, Receipt):
            return _delivered(here, message, attempt, grown, done)
        if _spreads(step, grown):
            _at_last(attempt)
            _spread(here, grown, attempt)
        if following is None:
            return _hand_over(here, step, grown, attempt, done)
        # The last line of the order tells how long each step took.
        log.debug("step done", seconds=grown.timings_s.get(attempt.step))
        return _Ended(grown, following)


def _worked(
    task: Task, here: Site, step: str, message: Message, attempt: LeasedAttempt
) -> tuple[Message | Receipt, tuple[str, str] | None]:
    """Do a step's work. Returns what came of it, and name and task of the next step where it runs here."""

    def persisting(work: Callable[[], T]) -> T:
        return pipeline.persisting(attempt, here.retry_policy, work, message.order_id)

    grown = persisting(lambda: _WORK[step](here, message, attempt))
    attempt.check()
    if isinstance(grown, Receipt) or _spreads(step, grown):
        return grown, None
    following = onward.following(task, grown)
    if following is None:
        persisting(lambda: pipeline.put_away(grown, here.ports, attempt))
    return grown, following


def _spreads(step: str, grown: Message) -> bool:
    """Say whether the tiles of an order are to be done next."""
    return step == messages.RUN_ALGORITHM and grown.tiles is not None


def _known(message: Message) -> dict[str, str | None]:
    return {"order_id": message.order_id, "algorithm": message.algorithm, "host": site().settings.host}


def _given_up(here: Site, message: Message, attempt: LeasedAttempt, step: str, ended: AttemptEnded) -> None:
    """Leave a step that has no effect: another worker's to do, or nobody's."""
    attempt.tell()
    if attempt.overdue:
        error = OrderOverdue(message.order_id, step, here.settings.order_limit_s)
        fail(here, message, error.headline, str(error), "")
    elif attempt.handed_back:
        try:
            pipeline.put_away(message, here.ports, attempt)
        except DynsvcError as error:
            # Nobody can go on with it. The order begins anew when the lease has run out.
            log.warning("step not handed back", error=str(error))
            return
        log.info("step handed back")
        attempt.record()
        insist(lambda: here.ledger.hand_back(message.order_id, message.token, attempt.runner))
    else:
        log.info("step ended without effect", reason=ended.reason)
        insist(lambda: here.ledger.release(message.order_id, message.token))


def _hand_over(
    here: Site, step: str, grown: Message, attempt: LeasedAttempt, done: Callable[[], None]
) -> _Ended:
    """Have the next step wait for its message, which is sent when this task has ended."""
    document = grown.to_document()
    call = here.ledger.handing_over(
        grown.order_id,
        grown.token,
        attempt.runner,
        step=messages.following(step)[0],
        message=document,
        lease_s=here.settings.resend_s,
    )
    done()
    if not _at_last(attempt, call)[-1]:
        raise left(f"order {grown.order_id}: another execution has taken over")
    log.info("step done", seconds=grown.timings_s.get(attempt.step))
    return _Ended(grown, document=document)


def _at_last(attempt: LeasedAttempt, *calls: Call) -> list[Any]:
    """Write what the attempt has not told yet, and then what ends it here. Returns the replies of *calls*."""
    words = attempt.last_words()
    return insist(lambda: together([*words, *calls]))[len(words) :]


def _spread(here: Site, grown: Message, attempt: LeasedAttempt) -> NoReturn:
    """Have the tiles done, by this worker and all others; the chain ends here and goes on with the merge."""
    plan, tiles = pipeline.planned(grown), grown.tiles
    assert tiles is not None  # noqa: S101 - the caller has looked
    begun = insist(
        lambda: here.spread.begin(
            grown.order_id,
            grown.token,
            attempt.runner,
            message=grown.to_document(),
            tiles=tiles.count,
            device=plan.device,
            wait_s=here.settings.resend_s,
        )
    )
    if begun:
        send_batches(here, grown.order_id, grown.token)
        log.info("tiles begun", tiles=tiles.count)
    raise left(f"order {grown.order_id}: its tiles are being done")


def _delivered(
    here: Site, message: Message, attempt: LeasedAttempt, receipt: Receipt, done: Callable[[], None]
) -> _Ended:
    """End the order, or let it wait for the loader's own job."""
    order_id, token, loader_job_id = message.order_id, message.token, receipt.loader_job_id or ""
    calls: list[Call] = []
    if here.settings.sink_kind == "loader":
        keep_s = here.settings.keep_s
        calls.append(here.ledger.taking_loader_job(order_id, token, loader_job_id, keep_s=keep_s))
    done()
    if loader_job_id and here.loader_jobs.configured:
        waiting = here.ledger.handing_over(
            order_id,
            token,
            attempt.runner,
            step=AWAIT_LOADER,
            message=message.to_document(),
            lease_s=here.settings.loader_timeout_s,
            loader_job_id=loader_job_id,
        )
        _at_last(attempt, *calls, waiting)
        log.info("delivered, waits for the loader", loader_job_id=loader_job_id, seconds=message.timings_s)
        return _Ended(message)
    completing = here.jobs.completing(order_id, token, summary(message, receipt.place))
    if _at_last(attempt, *calls, completing, here.ledger.releasing(order_id, token))[-2]:
        metrics.attempt_ended(message.algorithm, "complete")
    here.discard_artifacts(order_id)
    log.info("order complete", place=receipt.place, seconds=message.timings_s)
    return _Ended(message)


@app.task(bind=True, name=messages.FETCH_ORDER, throws=(DynsvcError,))
def fetch_order(self: Task, document: Document) -> Document | None:
    """Claim the job, parse the order, find its slide."""
    return _step(self, document)


def _fetch_order(here: Site, message: Message, attempt: LeasedAttempt) -> Message:
    job = here.jobs.claim(message.order_id, here.settings.job_types, message.token)
    if job is None:
        raise AttemptEnded(message.order_id, "the job no longer waits, or somebody else has it")
    attempt.has_claimed()
    expires_at_s = (job.started_at_ms or 0) / 1000 + here.settings.order_limit_s
    claimed = message.model_copy(update={"expires_at_s": expires_at_s})
    grown = pipeline.fetch_order(claimed, here.document_of(job), here.ports, attempt)
    if job.attempts_made == 0 and job.started_at_ms and job.created_at_ms:
        waited_s = max(0, job.started_at_ms - job.created_at_ms) / 1000
        metrics.order_waited(grown.algorithm, waited_s)
    return grown


@app.task(bind=True, name=messages.FETCH_ROI, throws=(DynsvcError,))
def fetch_roi(self: Task, document: Document) -> Document | None:
    """Fetch the region's pixels."""
    return _step(self, document)


def _fetch_roi(here: Site, message: Message, attempt: LeasedAttempt) -> Message:
    return pipeline.fetch_roi(message, here.ports, attempt)


@app.task(bind=True, name=messages.RUN_ALGORITHM, throws=(DynsvcError,))
def run_algorithm(self: Task, document: Document) -> Document | None:
    """Execute the algorithm."""
    return _step(self, document)


def _run_algorithm(here: Site, message: Message, attempt: LeasedAttempt) -> Message:
    return pipeline.run_algorithm(message, here.ports, attempt)


@app.task(bind=True, name=messages.MERGE_TILES, throws=(DynsvcError,))
def merge_tiles(self: Task, document: Document) -> Document | None:
    """Merge the tiles of a slide."""
    return _step(self, document)


def _merge_tiles(here: Site, message: Message, attempt: LeasedAttempt) -> Message:
    state = here.spread.state(message.order_id)
    holes, hosts = (state.holes, state.hosts) if state else ((), {})
    return merging.merge_tiles(message, here.ports, attempt, holes=holes, hosts=hosts)


@app.task(bind=True, name=messages.UPLOAD_ZIP, throws=(DynsvcError,))
def upload_zip(self: Task, document: Document) -> Document | None:
    """Deliver the result."""
    return _step(self, document)


def _upload_zip(here: Site, message: Message, attempt: LeasedAttempt) -> Receipt:
    """Upload once: the loader has no check for duplicates and would store every object again."""
    if here.settings.sink_kind != "loader":
        return pipeline.upload_zip(message, here.ports, attempt)
    order_id, token, keep_s = message.order_id, message.token, here.settings.keep_s

    def is_anothers(loader_job_id: str) -> bool:
        return not here.ledger.take_loader_job(order_id, token, loader_job_id, keep_s=keep_s)

    earlier = insist(lambda: here.ledger.begin_upload(order_id, token, attempt.runner, keep_s=keep_s))
    if earlier:
        case_id = pipeline.planned(message).order.case_id
        if receipt := here.loader_jobs.receipt_of(earlier, case_id, is_anothers):
            attempt.report(pipeline.UPLOADED, f"already delivered by an earlier attempt: {receipt.place}")
            return receipt
        # It never arrived. What is sent now begins a time of waiting of its own.
        insist(lambda: here.ledger.forget_upload(order_id, token))
        insist(lambda: here.ledger.begin_upload(order_id, token, attempt.runner, keep_s=keep_s))
    try:
        return pipeline.upload_zip(message, here.ports, attempt)
    except DeliveryUnknown:
        raise
    except DynsvcError:
        # It certainly did not arrive, so the next try may send it.
        insist(lambda: here.ledger.forget_upload(order_id, token))
        raise


#: What each step does.
_WORK: dict[str, Work] = {
    messages.FETCH_ORDER: _fetch_order,
    messages.MERGE_TILES: _merge_tiles,
    messages.FETCH_ROI: _fetch_roi,
    messages.RUN_ALGORITHM: _run_algorithm,
    messages.UPLOAD_ZIP: _upload_zip,
}
