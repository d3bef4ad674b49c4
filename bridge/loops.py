"""A piece of work done again and again by a thread: when woken, and at the latest after an interval."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from dynsvc import metrics
from dynsvc.errors import DynsvcError
from dynsvc.retry import backoff_s

__all__ = ["Loop"]

log = structlog.get_logger(__name__)

#: Pauses while a server is away.
_FIRST_S, _CAP_S = 0.5, 10.0


class Loop:
    """Runs *work* in a thread of its own until it is stopped.

    Parameters
    ----------
    name
        For the log.
    work
        One round. An error of ours ends the round, not the loop; the next rounds come slower and slower.
    interval_s
        Longest time between two rounds.
    apart_s
        Shortest time between two rounds: one round does for all that woke it meanwhile.
    """

    def __init__(
        self, name: str, work: Callable[[], None], interval_s: float, *, apart_s: float = 0.0
    ) -> None:
        self._name, self._work, self._interval_s, self._apart_s = name, work, interval_s, apart_s
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin with the first round at once."""
        self._thread.start()

    def wake(self) -> None:
        """Have a round soon, however long the interval is."""
        self._wake.set()

    def stop(self) -> None:
        """Have no further round. Returns at once; :meth:`join` waits for the present one."""
        self._stopped.set()
        self._wake.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the present round. False: it still runs."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def name(self) -> str:
        """What it is called."""
        return self._name

    @property
    def failing(self) -> bool:
        """Whether its last round failed."""
        return self._failures > 0

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.clear()
            pause_s = self._round()
            if self._failures:
                # Wakes do not shorten the pause after a failure: a peer that is down is not to be hammered.
                self._stopped.wait(pause_s)
            elif not self._stopped.wait(self._apart_s):
                self._wake.wait(pause_s)

    def _round(self) -> float:
        failures = self._failures
        pause_s = self._try()
        if self._failures > failures:
            metrics.LOOP_FAILURES.labels(self._name).inc()
        else:
            metrics.LOOP_SUCCESS.labels(self._name).set_to_current_time()
        return pause_s

    def _try(self) -> float:
        try:
            self._work()
        except DynsvcError as error:
            self._failures += 1
            pause_s = backoff_s(self._failures, first_s=_FIRST_S, cap_s=_CAP_S)
            log.warning("round failed", loop=self._name, error=str(error), next_in_s=round(pause_s, 2))
            return pause_s
        except Exception:
            # A bug must not end a service that orders depend on; it is logged in full each time.
            self._failures += 1
            log.exception("round failed unexpectedly", loop=self._name)
            return _CAP_S
        if self._failures:
            log.info("works again", loop=self._name)
        self._failures = 0
        return self._interval_s
