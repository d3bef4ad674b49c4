"""One running step of an order: its lease, its reports, its end."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

import structlog

from dynsvc.errors import AttemptEnded, DynsvcError, PeerUnavailable
from dynsvc.kue import JobStore
from dynsvc.leases import Ledger
from dynsvc.messages import Message
from dynsvc.traces import StepTrace

__all__ = ["RunningStep", "hand_back_all", "insist"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: The lease is renewed, and the job looked at, this often: a cancelled order stops within two seconds.
RENEW_S = 1.0
#: A write that ends a step is tried for this long against a Redis that is away. It outlasts a restart.
_INSIST_S = 600.0
_KEPT_LINES = 200
_TAKEN = "the job was removed, put back or given to another worker"

#: The steps that run in this process now.
_running: set[RunningStep] = set()


def insist(write: Callable[[], T]) -> T:
    """Do *write* until the server answers, for at most ten minutes.

    Every write given here is guarded: done twice because its reply was lost, it counts once.

    Raises
    ------
    PeerUnavailable
        The server stayed away.
    """
    deadline, pause_s = time.monotonic() + _INSIST_S, 0.1
    while True:
        try:
            return write()
        except PeerUnavailable as error:
            if time.monotonic() + pause_s > deadline:
                raise
            log.warning("waits for Redis", error=str(error), pause_s=pause_s)
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 5.0)


def hand_back_all() -> int:
    """Have all running steps of this process given up, and return their number."""
    running = list(_running)
    for step in running:
        step.hand_back()
    return len(running)


class RunningStep:
    """Holds the lease of a step while it runs. Implements :class:`dynsvc.pipeline.Attempt`.

    A thread renews the lease and looks whether the attempt still owns the job. When it does not (removed,
    put back by hand, given to another worker), :meth:`ended` becomes true and the step stops.

    Parameters
    ----------
    runner
        Name of this execution, as the ledger knows it.
    trace
        Where :meth:`note` writes.
    """

    def __init__(
        self,
        jobs: JobStore,
        ledger: Ledger,
        message: Message,
        runner: str,
        *,
        lease_s: float,
        trace: StepTrace,
        lease: str = "",
    ) -> None:
        #: What the ledger knows the lease by.
        self._lease = lease or message.order_id
        self._jobs, self._ledger, self._message, self._trace = jobs, ledger, message, trace
        #: Name of this execution.
        self.runner = runner
        self._lease_s = lease_s
        self._ended, self._stopped = threading.Event(), threading.Event()
        self._reason = ""
        #: The order has taken longer than an order may.
        self.overdue = False
        #: The step is given up because this worker stops, and goes on elsewhere.
        self.handed_back = False
        self._unwritten: list[str] = []
        # What the log says of the step, it says in this thread too.
        self._thread = threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._renew,),
            name=f"lease-{message.order_id}",
            daemon=True,
        )

    def __enter__(self) -> Self:
        _running.add(self)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _running.discard(self)
        self._stopped.set()
        self._thread.join()

    def report(self, percent: int, *lines: str) -> None:
        """Write progress and lines to the job. A Redis that is away costs only the report's punctuality.

        Raises nothing: what a step has done must not be undone because it could not be told.
        """
        self._unwritten = [*self._unwritten, *lines][-_KEPT_LINES:]
        # Kue keeps the percentage of an earlier attempt; this one begins again.
        begins = self._message.plan is None
        order_id, token, lines = self._message.order_id, self._message.token, tuple(self._unwritten)
        try:
            owned = self._jobs.progress(order_id, token, percent, log=lines, backwards=begins)
        except DynsvcError as error:
            log.warning("progress not written", error=str(error), percent=percent)
            return
        if not owned:
            self._end(_TAKEN)
        self._unwritten = []

    def note(self, **facts: object) -> None:
        """Keep facts of this step in the order's trace."""
        self._trace.note(**facts)

    def hand_back(self) -> None:
        """End the step's work, so that another worker can begin it. Safe in a signal handler."""
        self.handed_back = True
        self._end("the worker stops")

    def ended(self) -> bool:
        """Say whether the attempt no longer owns the order."""
        return self._ended.is_set()

    def wait(self, seconds: float) -> None:
        """Wait, but not longer than the attempt lasts."""
        self._ended.wait(seconds)

    def check_owner(self) -> None:
        """Ask Kue whether the attempt still owns the job, and raise as :meth:`check` where it does not."""
        if not self._jobs.owns(self._message.order_id, self._message.token):
            self._end(_TAKEN)
        self.check()

    def check(self) -> None:
        """Raise where the attempt no longer owns the order.

        Raises
        ------
        AttemptEnded
            Says why.
        """
        if self._ended.is_set():
            raise AttemptEnded(self._message.order_id, self._reason)

    def _end(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._ended.set()

    def _renew(self) -> None:
        order_id, token = self._message.order_id, self._message.token
        pause_s = min(RENEW_S, self._lease_s / 5)
        while not self._stopped.wait(pause_s):
            try:
                if not self._ledger.renew(self._lease, token, self.runner, lease_s=self._lease_s):
                    self._end("its lease ran out and the order was taken from it")
                elif not self._jobs.owns(order_id, token):
                    self._end(_TAKEN)
            except DynsvcError as error:
                # The step goes on: nobody can take the order while Redis is away, and writes are fenced.
                log.warning("lease not renewed", error=str(error))
            if self._message.expires_at_s is not None and time.time() > self._message.expires_at_s:
                self.overdue = True
                self._end("the order's time limit has passed")
            if self._ended.is_set():
                return
