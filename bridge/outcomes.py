"""The loader's own jobs: their end is the end of our orders."""

from __future__ import annotations

import structlog

from dynsvc import metrics
from dynsvc.errors import DynsvcError, LoaderFailed, PeerUnavailable
from dynsvc.kue import Outcome
from dynsvc.leases import AWAIT_LOADER
from dynsvc.messages import Message
from dynsvc.site import Site, summary
from dynsvc.tracing import span

__all__ = ["Outcomes"]

log = structlog.get_logger(__name__)

#: Beginning of the error of a loader job whose program printed something on stderr.
_STDERR = "E2"


class Outcomes:
    """Looks up the loader's job of each order that waits for one.

    An event of the loader only wakes this. The loader may finish before our upload's own answer was handled;
    then its job is looked up when the order begins to wait.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    def __call__(self) -> None:
        """Look once at every order that waits."""
        for loader_job_id, (order_id, token) in self._site.ledger.awaiting_loader().items():
            try:
                with structlog.contextvars.bound_contextvars(
                    order_id=order_id, attempt=token, step=AWAIT_LOADER
                ):
                    self._look(order_id, token, loader_job_id)
            except PeerUnavailable:
                raise
            except DynsvcError as error:
                # What is wrong with one job is no reason to keep the others waiting.
                log.warning("outcome not usable", order_id=order_id, error=str(error))

    def _look(self, order_id: str, token: str, loader_job_id: str) -> None:
        outcome = self._site.loader_jobs.outcome(loader_job_id)
        if outcome.state == "done":
            self._complete(order_id, token, loader_job_id)
        elif outcome.state == "failed":
            self._failed(order_id, token, loader_job_id, outcome)

    def _complete(self, order_id: str, token: str, loader_job_id: str) -> None:
        with span("complete", token, {"order_id": order_id, "loader_job_id": loader_job_id}):
            self._completed(order_id, token, loader_job_id)

    def _completed(self, order_id: str, token: str, loader_job_id: str) -> None:
        document = self._site.ledger.message(order_id, token)
        place = f"loader job {loader_job_id}"
        message = Message.from_document(document) if document else None
        result = summary(message, place) if message else {"place": place}
        if self._site.jobs.complete(order_id, token, result):
            metrics.attempt_ended(message.algorithm if message else None, "complete")
            log.info("order complete", loader_job_id=loader_job_id)
            self._site.discard_artifacts(order_id)
        self._site.ledger.release(order_id, token)

    def _failed(self, order_id: str, token: str, loader_job_id: str, outcome: Outcome) -> None:
        text = (outcome.error or "no reason given").strip()
        if text.startswith(_STDERR) and self._site.settings.annotations.on_stderr == "warn":
            self._site.jobs.log(order_id, token, [f"the loader's program printed on stderr: {text}"])
            self._complete(order_id, token, loader_job_id)
            return
        error = LoaderFailed(loader_job_id, text.splitlines()[0])
        # The loader does not have the data: another attempt has to upload again.
        self._site.ledger.forget_upload(order_id, token)
        failed = self._site.jobs.fail(order_id, token, f"{error.headline}\n{text}", message=str(error))
        metrics.attempt_ended(self._algorithm(order_id, token), failed.outcome, error.headline)
        self._site.ledger.release(order_id, token)
        log.warning("order failed at the loader", error=str(error), outcome=failed.outcome)

    def _algorithm(self, order_id: str, token: str) -> str | None:
        document = self._site.ledger.message(order_id, token)
        return Message.from_document(document).algorithm if document else None
