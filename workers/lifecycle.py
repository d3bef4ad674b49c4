"""A worker's start and stop: said what it is, leftovers removed, running steps finished or handed back."""

from __future__ import annotations

import sys
import threading
from typing import Any

import structlog
from celery import bootsteps
from celery.signals import worker_init, worker_ready, worker_shutdown, worker_shutting_down

from dynsvc import metrics
from dynsvc.celery import app
from dynsvc.devices import gpus_present
from dynsvc.errors import DynsvcError
from dynsvc.status import StatusServer, serve
from workers import onward
from workers.attempts import hand_back_all
from workers.drain import draining
from workers.janitor import Janitor
from workers.status import HostNumbers, Readiness
from workers.tasks import site

__all__: list[str] = []

log = structlog.get_logger(__name__)


class _EventsFromMainThread(bootsteps.StartStopStep):  # type: ignore[misc]
    """Has only the main loop send events to monitors.

    Celery sends them from the thread of a task as soon as 24 are waiting. With RabbitMQ that thread then
    waits for a confirmation which the main loop may have read, for ever, and all others wait for it.
    """

    requires = ("celery.worker.consumer.events:Events",)

    def start(self, parent: Any) -> None:
        """Take the dispatcher of a new connection in hand."""
        parent.event_dispatcher.buffer_limit = sys.maxsize


app.steps["consumer"].add(_EventsFromMainThread)

_janitor: Janitor | None = None
_stopping: threading.Timer | None = None
_readiness: Readiness | None = None
_status: StatusServer | None = None


@worker_init.connect
def _begun(**_kwargs: Any) -> None:
    """Tell how it is from the begin, also while the broker is away."""
    global _readiness, _status  # noqa: PLW0603  (one worker is one process)
    _readiness = Readiness(site(), draining)
    metrics.describe("worker", site().settings.host)
    metrics.REGISTRY.register(HostNumbers(site()))
    _status = serve(site().settings, metrics.REGISTRY, broken=lambda: (), unready=_readiness.unready)


@worker_ready.connect
def _started(sender: Any = None, **_kwargs: Any) -> None:
    global _janitor  # noqa: PLW0603
    if _readiness is not None:
        _readiness.consumer = sender
    onward.watched_by(sender)
    settings = site().settings
    try:
        runtime = site().ports.runtime()
        log.info(
            "worker started", runtime=runtime.name, state=runtime.check(), gpus=gpus_present(settings.gpus)
        )
    except DynsvcError as error:
        # The worker stays: the engine may come back, and io steps need none.
        log.warning("worker started without a runtime", error=str(error))
    log.info("artifacts", place=site().artifacts.place, scratch=str(settings.scratch))
    _janitor = Janitor(site())
    _janitor.start()


@worker_shutting_down.connect
def _told_to_stop(how: str = "", **_kwargs: Any) -> None:
    """Let steps go on for a while; hand them back then, or at once when told again (or told to be quick)."""
    global _stopping  # noqa: PLW0603
    if _readiness is not None:
        _readiness.stopping = True
    if _stopping is not None or how == "Cold":
        hand_back_all()
        return
    _stopping = threading.Timer(site().settings.stop_limit_s, hand_back_all)
    _stopping.daemon = True
    _stopping.start()


@worker_shutdown.connect
def _stopped(**_kwargs: Any) -> None:
    if _stopping is not None:
        _stopping.cancel()
    if _janitor is not None:
        _janitor.stop()
    if _status is not None:
        _status.stop()
