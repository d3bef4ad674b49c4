"""What a worker tells of its host, its containers and itself, when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, Protocol, runtime_checkable

from prometheus_client import Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from dynsvc.devices import Gpu
from dynsvc.errors import DynsvcError
from dynsvc.site import Site
from workers.admission import HostAdmission
from workers.hostledger import Entry
from workers.pool import Pool

__all__ = ["HostNumbers", "Keeping", "Readiness"]

_MIB = 1 << 20


@runtime_checkable
class Keeping(Protocol):
    """A runtime that keeps containers between runs."""

    def kept(self) -> Pool[Any] | None:
        """Return the containers that this process keeps; None before the first."""
        ...


class HostNumbers(Collector):
    """Reads the host's ledger and this process's kept containers.

    All workers of a host tell the same numbers of the host: take their maximum, not their sum.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering must not look for GPUs."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Look at the host now; what cannot be read is left out."""
        try:
            admission, runtime = self._site.ports.admission(), self._site.ports.runtime()
            metrics = list(_host(admission)) if isinstance(admission, HostAdmission) else []
        except DynsvcError:
            return
        yield from metrics
        pool = runtime.kept() if isinstance(runtime, Keeping) else None
        yield from _containers(pool)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _host(admission: HostAdmission) -> Iterable[Metric]:
    capacity, running, waiting = admission.usage()
    runs = GaugeMetricFamily("dynsvc_host_runs", "Runs of this host: running or waiting.", labels=["state"])
    runs.add_metric(["running"], len(running))
    runs.add_metric(["waiting"], len(waiting))
    yield runs
    yield _gauge("dynsvc_host_cpus", "Processors that runs of this host may use together.", capacity.cpus)
    yield _gauge("dynsvc_host_cpus_held", "Processors that runs hold.", sum(entry.cpus for entry in running))
    yield _gauge(
        "dynsvc_host_memory_bytes",
        "Memory that runs of this host may use together.",
        capacity.memory_mib * _MIB,
    )
    held_mib = sum(entry.memory_mib for entry in running)
    yield _gauge("dynsvc_host_memory_held_bytes", "Memory that runs hold.", held_mib * _MIB)
    yield from _gpus(admission.gpus, running)


def _gpus(gpus: Iterable[Gpu], running: Iterable[Entry]) -> Iterable[Metric]:
    leases = GaugeMetricFamily("dynsvc_gpu_leases", "Runs that have the GPU.", labels=["gpu"])
    held = GaugeMetricFamily(
        "dynsvc_gpu_memory_leased_bytes", "Memory of the GPU that runs have.", labels=["gpu"]
    )
    has = GaugeMetricFamily("dynsvc_gpu_memory_bytes", "Memory of the GPU that runs share.", labels=["gpu"])
    holders = list(running)
    for gpu in gpus:
        parts = [entry.gpus[gpu.uuid] for entry in holders if gpu.uuid in entry.gpus]
        leases.add_metric([gpu.uuid], len(parts))
        if gpu.memory_mib is not None:
            # 0 stands for the whole of it.
            held.add_metric([gpu.uuid], sum(part or gpu.memory_mib for part in parts) * _MIB)
            has.add_metric([gpu.uuid], gpu.memory_mib * _MIB)
    yield from (leases, held, has)


def _containers(pool: Pool[Any] | None) -> Iterable[Metric]:
    kept = GaugeMetricFamily(
        "dynsvc_containers_kept", "Containers kept from run to run, by what they do now.", labels=["state"]
    )
    count, busy = (pool.count(), pool.busy()) if pool else (0, 0)
    kept.add_metric(["busy"], busy)
    kept.add_metric(["idle"], max(0, count - busy))
    yield kept
    ended = CounterMetricFamily(
        "dynsvc_containers_recycled", "Kept containers that were ended, by the reason.", labels=["reason"]
    )
    for reason, number in (asdict(pool.recycled) if pool else {}).items():
        ended.add_metric([reason], number)
    yield ended


class Readiness:
    """Whether this worker takes steps. Celery's signals tell it what happens."""

    def __init__(self, site: Site, draining: Callable[[], bool] = lambda: False) -> None:
        self._site, self._draining = site, draining
        #: Celery's consumer, from the moment that it is ready.
        self.consumer: Any = None
        self.stopping = False

    def unready(self) -> list[str]:
        """Say what keeps the worker from its work."""
        problems = []
        connection = getattr(self.consumer, "connection", None)
        if self.consumer is None:
            problems.append("not connected to the broker yet")
        elif connection is None or not connection.connected:
            problems.append("the connection to the broker is lost")
        if self.stopping:
            problems.append("the worker stops")
        if self._draining():
            problems.append("the worker drains")
        try:
            self._site.ledger.in_flight()
        except DynsvcError as error:
            problems.append(str(error))
        return problems
