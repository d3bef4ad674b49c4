"""What the bridge tells of the queue and of itself, when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import Metric
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from bridge.listener import Listener
from bridge.loops import Loop
from dynsvc.errors import DynsvcError
from dynsvc.site import Site

__all__ = ["QueueNumbers", "broken", "unready"]

#: Kue's words for the states, by ours.
_STATES = ("waiting", "running", "done", "failed", "delayed")


class QueueNumbers(Collector):
    """Reads Kue's indices, the window and the broker's queues; a handful of replies, however long they are.

    Every bridge of a Kue tells the same numbers: take their maximum, not their sum.

    Parameters
    ----------
    queue_lengths
        Messages that wait in each of the broker's queues.
    """

    def __init__(self, site: Site, queue_lengths: Callable[[], Mapping[str, int]]) -> None:
        self._site, self._queue_lengths = site, queue_lengths

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering must not ask Redis."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Ask Redis and the broker; what does not answer is left out, and said to be away."""
        up = GaugeMetricFamily("dynsvc_peer_up", "Whether a peer answered just now.", labels=["peer"])
        for peer, read in (("orders_redis", self._orders), ("broker", self._queues)):
            try:
                yield from list(read())
                up.add_metric([peer], 1)
            except DynsvcError:
                up.add_metric([peer], 0)
        yield up

    def _orders(self) -> Iterable[Metric]:
        settings, jobs = self._site.settings, self._site.jobs
        orders = GaugeMetricFamily(
            "dynsvc_orders", "Orders in Kue by their state.", labels=["state", "job_type"]
        )
        for job_type in settings.job_types:
            counts = jobs.counts([job_type])
            for state in _STATES:
                orders.add_metric([state, job_type], getattr(counts, state))
        yield orders
        age_ms = jobs.oldest_waiting_ms(settings.job_types)
        yield GaugeMetricFamily(
            "dynsvc_oldest_waiting_order_age_seconds",
            "Time since the oldest of the waiting orders was created; 0 where none waits.",
            value=(age_ms or 0) / 1000,
        )
        yield GaugeMetricFamily(
            "dynsvc_orders_in_flight", "Orders in Celery's hands.", value=self._site.ledger.in_flight()
        )
        yield GaugeMetricFamily(
            "dynsvc_window", "Most orders in Celery's hands at a time.", value=settings.window
        )

    def _queues(self) -> Iterable[Metric]:
        waiting = GaugeMetricFamily(
            "dynsvc_queue_messages", "Messages that wait in a queue of the broker.", labels=["queue"]
        )
        for queue, count in self._queue_lengths().items():
            waiting.add_metric([queue], count)
        yield waiting


def broken(loops: Sequence[Loop]) -> list[str]:
    """Say which loops have ended."""
    return [f"the loop {loop.name} has ended" for loop in loops if not loop.alive]


def unready(loops: Sequence[Loop], listeners: Sequence[Listener]) -> list[str]:
    """Say what keeps the bridge from its work."""
    return [
        *broken(loops),
        *(f"the last round of {loop.name} failed" for loop in loops if loop.failing),
        *(f"no subscription at {listener.server}" for listener in listeners if not listener.connected),
    ]
