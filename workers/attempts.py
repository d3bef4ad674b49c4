"""An attempt, as long as this worker has its lease: renewed, reported, ended.

One thread renews the leases of all attempts of this process, looks whether they still own their jobs, and
writes what they have to tell.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import structlog

from dynsvc.errors import AttemptEnded, DynsvcError
from dynsvc.inhand import InHand
from dynsvc.kue.scripts import Call
from dynsvc.leases import Ledger
from dynsvc.messages import Message
from dynsvc.site import Site
from dynsvc.traces import Noted

__all__ = ["LeasedAttempt", "hand_back_all", "short"]

log = structlog.get_logger(__name__)

#: Leases are renewed, and jobs looked at, this often: a cancelled order stops within two seconds.
RENEW_S = 1.0
#: Reports that follow each other faster are written together.
_REPORT_S = 0.5
#: What is known of a job is taken for true this long. A cancelled order may begin another step meanwhile.
_FRESH_S = 0.1
_KEPT_LINES = 200
_TAKEN = "the job was removed, put back or given to another worker"
_OVERTAKEN = "its lease ran out and the order was taken from it"


def short(step: str) -> str:
    """Return a step's name as traces, metrics and timings have it."""
    return step.removeprefix("dynsvc.")


def hand_back_all() -> int:
    """Have all running steps of this process given up, and return their number."""
    running = _keeper.attempts()
    for attempt in running:
        attempt.hand_back()
    return len(running)


class LeasedAttempt:
    """Holds the lease of an attempt while this worker does one step, or several in a row.

    Implements :class:`dynsvc.pipeline.Attempt`. When the attempt no longer owns the job (removed, put back by
    hand, given to another worker), :meth:`ended` becomes true and the step stops.

    Parameters
    ----------
    message
        Of the first step.
    step
        Its name, as traces know it.
    runner
        Name of this execution, as the ledger knows it.
    leases
        Where the lease is, if not in the ledger of orders.
    lease
        What the ledger knows the lease by, if not by the order's id.
    """

    def __init__(
        self,
        here: Site,
        message: Message,
        step: str,
        runner: str,
        *,
        leases: Ledger | None = None,
        lease: str = "",
    ) -> None:
        self._message = message
        #: The process's connections, and the present step's name, as traces know it.
        self.here, self.step = here, step
        self.order_id, self.token = message.order_id, message.token
        #: What the next step reads, where that runs here too.
        self.files = InHand(here.settings.scratch, message.order_id)
        #: Name of this execution.
        self.runner = runner
        self.leases = leases or here.ledger
        self.lease = lease or message.order_id
        self._ended = threading.Event()
        self._reason = ""
        #: The job has been claimed: from then on it tells whose it is.
        self.claimed = step != "fetch_order"
        #: When it was last seen to be its own.
        self._owned_at = float("-inf")
        #: The order has taken longer than an order may.
        self.overdue = False
        #: The step is given up because this worker stops, and goes on elsewhere.
        self.handed_back = False
        # What is not written yet. The step's thread and the keeper's both write it, one at a time.
        self._telling = threading.Lock()
        self._percent: int | None = None
        self._backwards = False
        self._lines: list[str] = []
        self._notes: list[Noted] = []
        # An order that is done at once writes it when it ends.
        self._began = self._told = time.monotonic()
        #: The step that runs, where the ledger has not heard of it.
        self._unrecorded = ""

    def __enter__(self) -> Self:
        _keeper.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _keeper.remove(self)
        self.tell()
        self.write_notes()
        self.files.close()

    @property
    def is_new(self) -> bool:
        """Whether it may be done in a moment, and what it has to tell be written with its end."""
        return time.monotonic() - self._began < _REPORT_S

    def has_claimed(self) -> None:
        """Begin to look whether the job, just claimed, stays the attempt's."""
        self._owned_at = time.monotonic()
        self.claimed = True

    def goes_on(self, message: Message, step: str) -> None:
        """Go on with the next step, under the same lease. The ledger hears of it with the next renewal."""
        with self._telling:
            self._message, self.step, self._unrecorded = message, short(step), step

    def record(self) -> bool:
        """Have the ledger know the step that runs, and its message.

        To be called before the step is handed back: those before it are then not done again.

        Returns
        -------
        bool
            False where Redis is away.
        """
        with self._telling:
            if not self._unrecorded:
                return True
            call = self.leases.handing_over(
                self.order_id,
                self.token,
                self.runner,
                step=self._unrecorded,
                message=self._message.to_document(),
                lease_s=self.here.settings.lease_s,
                goes_on=True,
            )
            try:
                kept = call.run()
            except DynsvcError as error:
                log.warning("step not recorded", order_id=self.order_id, error=str(error))
                return False
            self._unrecorded = ""
        if not kept:
            self.end(_OVERTAKEN)
        return True

    @property
    def pause_s(self) -> float:
        """How often the lease wants to be renewed, seconds."""
        return min(RENEW_S, self.here.settings.lease_s / 5)

    def report(self, percent: int, *lines: str) -> None:
        """Have progress and lines written to the job: at once, or soon where others were just written.

        Raises nothing: what a step has done must not be undone because it could not be told.
        """
        with self._telling:
            self._percent = percent
            # Kue keeps the percentage of an earlier attempt; this one begins again.
            self._backwards = self._backwards or self._message.plan is None
            self._lines = [*self._lines, *lines][-_KEPT_LINES:]
        if time.monotonic() - self._told >= _REPORT_S:
            self.tell()

    def note(self, **facts: object) -> None:
        """Keep facts of this step in the order's trace."""
        noted = Noted(
            attempt=self.token, step=self.step, host=self.here.settings.host, at_s=time.time(), facts=facts
        )
        with self._telling:
            self._notes = [*self._notes, noted][-_KEPT_LINES:]

    def tell(self) -> bool:
        """Write what is not written yet. A Redis that is away costs only the report's punctuality.

        To be called before the attempt is ended or handed on: nothing can be told of it afterwards.

        Returns
        -------
        bool
            False where Redis is away.
        """
        with self._telling:
            self._told = time.monotonic()
            report = self._report()
            if report is not None:
                try:
                    owned = report.run()
                except DynsvcError as error:
                    log.warning("progress not written", order_id=self.order_id, error=str(error))
                    return False
                self._reported()
                self._owned_at = time.monotonic()
                if not owned:
                    self.end(_TAKEN)
        return True

    def write_notes(self) -> None:
        """Write what was noted into the order's trace; the trace does without what Redis does not take."""
        with self._telling:
            notes, self._notes = self._notes, []
        if notes:
            self.here.traces.add(self.order_id, notes)

    def last_words(self) -> list[Call]:
        """Return the calls that write all that is not written yet.

        They belong in front of the calls that end the attempt or hand it on, in one round trip.
        """
        with self._telling:
            report, notes = self._report(), self._notes
            self._reported()
            self._notes, self._unrecorded = [], ""
        return [
            *([report] if report else []),
            *([self.here.traces.adding(self.order_id, notes)] if notes else []),
        ]

    def _report(self) -> Call | None:
        """Return the call that writes what was reported; None where nothing was."""
        if self._percent is None:
            return None
        return self.here.jobs.progressing(
            self.order_id, self.token, self._percent, log=tuple(self._lines), backwards=self._backwards
        )

    def _reported(self) -> None:
        self._percent, self._lines, self._backwards = None, [], False

    def hand_back(self) -> None:
        """End the step's work, so that another worker can begin it. Safe in a signal handler."""
        self.handed_back = True
        self.end("the worker stops")

    def ended(self) -> bool:
        """Say whether the attempt no longer owns the order."""
        return self._ended.is_set()

    def wait(self, seconds: float) -> None:
        """Wait, but not longer than the attempt lasts."""
        self._ended.wait(seconds)

    def check_owner(self) -> None:
        """Ask Kue whether the attempt still owns the job, and raise as :meth:`check` where it does not.

        A job that is not claimed yet is nobody's, and one that was seen just now is not looked at again.
        """
        now = time.monotonic()
        if self.claimed and now - self._owned_at > _FRESH_S:
            if not self.here.jobs.owns(self.order_id, self.token):
                self.end(_TAKEN)
            self._owned_at = now
        self.check()

    def check(self) -> None:
        """Raise where the attempt no longer owns the order.

        Raises
        ------
        AttemptEnded
            Says why.
        """
        if self._ended.is_set():
            raise AttemptEnded(self.order_id, self._reason)

    def look_at_clock(self) -> None:
        """End an attempt whose order has taken too long."""
        expires_at_s = self._message.expires_at_s
        if expires_at_s is not None and time.time() > expires_at_s:
            self.overdue = True
            self.end("the order's time limit has passed")

    def end(self, reason: str) -> None:
        """Have the work stop; the first reason counts."""
        self._reason = self._reason or reason
        self._ended.set()


class _Keeper:
    """Keeps all attempts of this process, from one thread, with two round trips for all leases."""

    def __init__(self) -> None:
        self._attempts: set[LeasedAttempt] = set()
        self._lock, self._busy = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def attempts(self) -> list[LeasedAttempt]:
        """Return those that run now. Takes no lock, as signal handlers ask too."""
        return list(self._attempts)

    def add(self, attempt: LeasedAttempt) -> None:
        """Keep *attempt* from now on."""
        with self._lock:
            self._attempts.add(attempt)
            self._busy.set()
            # A forked process has no thread yet.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._keep, name="leases", daemon=True)
                self._thread.start()

    def remove(self, attempt: LeasedAttempt) -> None:
        """Keep *attempt* no longer."""
        with self._lock:
            self._attempts.discard(attempt)
            if not self._attempts:
                self._busy.clear()

    def _keep(self) -> None:
        while self._busy.wait():
            time.sleep(min((attempt.pause_s for attempt in self.attempts()), default=RENEW_S))
            running = [attempt for attempt in self.attempts() if not attempt.ended()]
            try:
                renewed = [
                    self._renew(leases, [attempt for attempt in running if attempt.leases is leases])
                    for leases in {attempt.leases for attempt in running}
                ]
                for attempt in running:
                    attempt.look_at_clock()
                # While Redis is away, each try takes its time; the leases need the thread more.
                if all(renewed):
                    for attempt in running:
                        if attempt.is_new:
                            continue
                        if not (attempt.record() and attempt.tell()):
                            break
                        attempt.write_notes()
            except Exception:
                # Steps end by themselves where their leases run out; the thread must not.
                log.exception("leases not kept")

    def _renew(self, leases: Ledger, attempts: Sequence[LeasedAttempt]) -> bool:
        """Renew the leases of *attempts* and look at their jobs. False where Redis is away."""
        here = attempts[0].here  # a process has one site
        # Before Redis is asked: a job that is claimed meanwhile was nobody's a moment ago.
        claimed = [attempt for attempt in attempts if attempt.claimed]
        try:
            leased = leases.renew_each(
                [(attempt.lease, attempt.token, attempt.runner) for attempt in attempts],
                lease_s=here.settings.lease_s,
            )
            owned = here.jobs.owns_each([(attempt.order_id, attempt.token) for attempt in claimed])
        except DynsvcError as error:
            # The steps go on: nobody can take their orders while Redis is away, and writes are fenced.
            log.warning("leases not renewed", error=str(error), steps=len(attempts))
            return False
        for attempt, kept in zip(attempts, leased, strict=True):
            if not kept:
                attempt.end(_OVERTAKEN)
        for attempt, kept in zip(claimed, owned, strict=True):
            if not kept:
                attempt.end(_TAKEN)
        return True


_keeper = _Keeper()
