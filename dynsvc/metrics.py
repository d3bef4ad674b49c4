"""What Prometheus is told: the numbers of one process, and how they are counted.

Labels have few values: steps, algorithms, error classes, queues, GPUs of a host. No order, case or user is
ever one. Numbers that others keep (Kue's indices, the host's ledger) are read when somebody asks for them;
see ``bridge/status.py`` and ``workers/status.py``.
"""

from __future__ import annotations

import functools
import platform
from contextlib import AbstractContextManager

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector

from dynsvc import __version__
from dynsvc.messages import STEPS

__all__ = [
    "ARTIFACTS_BYTES",
    "ARTIFACTS_FILES",
    "ARTIFACTS_SWEPT",
    "LOOP_FAILURES",
    "LOOP_SUCCESS",
    "ORDERS_SENT",
    "REGISTRY",
    "attempt_ended",
    "cache_looked_up",
    "describe",
    "message_resent",
    "order_waited",
    "retried",
    "run",
    "run_admitted",
    "run_done",
    "step",
    "step_ended",
    "tile_ended",
    "worker_lost",
]

#: Of this process. The library's own default would mix with what other libraries count.
REGISTRY = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

_SHORT_S = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600, 4 * 3600, 24 * 3600)


def _step_name(task: str) -> str:
    return task.removeprefix("dynsvc.")


_INFO = Gauge(
    "dynsvc_process_info", "What this process is.", ["role", "host", "version", "python"], registry=REGISTRY
)
_STEPS_RUNNING = Gauge("dynsvc_steps_running", "Steps that run now.", ["step"], registry=REGISTRY)
_STEP = Histogram(
    "dynsvc_step_duration_seconds",
    "Time from a step's begin to its end. left: without effect, another worker's or nobody's to do.",
    ["step", "outcome"],
    buckets=_SHORT_S,
    registry=REGISTRY,
)
_RETRIES = Counter(
    "dynsvc_step_retries_total",
    "Tries of a step after a transient error, by the error's class.",
    ["error"],
    registry=REGISTRY,
)
_ATTEMPTS = Counter(
    "dynsvc_attempts_ended_total",
    "Attempts that ended: complete, retrying (Kue tries again) or failed; with the error's class.",
    ["algorithm", "outcome", "error"],
    registry=REGISTRY,
)
_ORDER_WAIT = Histogram(
    "dynsvc_order_wait_seconds",
    "Time from an order's creation in Kue to its first claim.",
    ["algorithm"],
    buckets=_SHORT_S,
    registry=REGISTRY,
)
_RUNS_RUNNING = Gauge(
    "dynsvc_runs_running", "Runs of algorithms that go on now.", ["algorithm", "device"], registry=REGISTRY
)
_RUN = Histogram(
    "dynsvc_run_duration_seconds",
    "Time that an algorithm ran; start warm: in a container that was kept from an earlier run.",
    ["algorithm", "device", "start"],
    buckets=_SHORT_S,
    registry=REGISTRY,
)
_RUN_WAIT = Histogram(
    "dynsvc_run_wait_seconds",
    "Time that a run waited until it fitted into the host.",
    ["algorithm", "device"],
    buckets=_SHORT_S,
    registry=REGISTRY,
)
_TILES = Counter(
    "dynsvc_tiles_total",
    "Tiles of whole slides and large regions: done, kept (found done) or failed (each try).",
    ["algorithm", "outcome"],
    registry=REGISTRY,
)
_CACHE = Counter(
    "dynsvc_cache_lookups_total",
    "Results looked for among those that are kept: hit or miss.",
    ["algorithm", "outcome"],
    registry=REGISTRY,
)
ARTIFACTS_BYTES = Gauge(
    "dynsvc_artifacts_bytes", "Size of the artifact store at the last sweep.", registry=REGISTRY
)
ARTIFACTS_FILES = Gauge(
    "dynsvc_artifacts_files", "Files in the artifact store at the last sweep.", registry=REGISTRY
)
ARTIFACTS_SWEPT = Gauge(
    "dynsvc_artifacts_last_sweep_timestamp_seconds",
    "When this process last swept the artifact store, seconds since the epoch; 0 before.",
    registry=REGISTRY,
)
ORDERS_SENT = Counter("dynsvc_orders_sent_total", "Orders handed to Celery.", registry=REGISTRY)
_RESENT = Counter(
    "dynsvc_messages_resent_total",
    "Messages sent again, as no worker had begun.",
    ["step"],
    registry=REGISTRY,
)
_LOST = Counter(
    "dynsvc_workers_lost_total", "Steps whose worker gave no sign of life.", ["step"], registry=REGISTRY
)
LOOP_FAILURES = Counter(
    "dynsvc_bridge_loop_failures_total",
    "Rounds of the bridge's loops that failed.",
    ["loop"],
    registry=REGISTRY,
)
LOOP_SUCCESS = Gauge(
    "dynsvc_bridge_loop_last_success_timestamp_seconds",
    "When the loop's last good round ended, seconds since the epoch.",
    ["loop"],
    registry=REGISTRY,
)


# What every order counts. The library looks labels up under a lock, one by one; they have few values.
_step_running, _step = functools.cache(_STEPS_RUNNING.labels), functools.cache(_STEP.labels)
_run_running, _run = functools.cache(_RUNS_RUNNING.labels), functools.cache(_RUN.labels)
_run_wait, _attempts = functools.cache(_RUN_WAIT.labels), functools.cache(_ATTEMPTS.labels)
_order_wait = functools.cache(_ORDER_WAIT.labels)

# Seen as 0 before they grow: otherwise Prometheus takes the first loss for no increase.
for _task in STEPS:
    _RESENT.labels(_step_name(_task))
    _LOST.labels(_step_name(_task))


def describe(role: str, host: str) -> None:
    """Say what this process is: ``bridge`` or ``worker``, and on which host."""
    _INFO.labels(role, host, __version__, platform.python_version()).set(1)


def step(name: str) -> AbstractContextManager[None]:
    """Count a step as running while the block runs."""
    return _step_running(name).track_inprogress()


def step_ended(name: str, outcome: str, took_s: float) -> None:
    """Note the end of a step.

    Parameters
    ----------
    outcome
        ``done``, ``left`` or anything else, which is an error; what follows a colon is not looked at.
    """
    word = outcome.partition(":")[0]
    _step(name, word if word in {"done", "left"} else "failed").observe(took_s)


def order_waited(algorithm: str | None, waited_s: float) -> None:
    """Note how long an order waited for its first claim."""
    _order_wait(algorithm or "").observe(waited_s)


def message_resent(task: str) -> None:
    """Note that the message of *task* was sent again."""
    _RESENT.labels(_step_name(task)).inc()


def worker_lost(task: str) -> None:
    """Note that the worker that ran *task* gave no sign of life."""
    _LOST.labels(_step_name(task)).inc()


def tile_ended(algorithm: str | None, outcome: str) -> None:
    """Note the end of one try of a tile: ``done``, ``kept`` or ``failed``."""
    _TILES.labels(algorithm or "", outcome).inc()


def retried(error: BaseException) -> None:
    """Note that a step is tried again."""
    _RETRIES.labels(type(error).__name__).inc()


def attempt_ended(algorithm: str | None, outcome: str, error: str = "") -> None:
    """Note the end of an attempt.

    Parameters
    ----------
    algorithm
        Its name; None before the order was read.
    outcome
        ``complete``, or as :class:`dynsvc.kue.Failed` has it; ``lost``, where nothing was written, is no end.
    error
        Headline of the error: what stands before its colon counts.
    """
    if outcome != "lost":
        word = "failed" if outcome == "final" else outcome
        _attempts(algorithm or "", word, error.partition(":")[0].strip()).inc()


def run(algorithm: str, device: str) -> AbstractContextManager[None]:
    """Count a run as going on while the block runs."""
    return _run_running(algorithm, device).track_inprogress()


def run_admitted(algorithm: str, device: str, waited_s: float) -> None:
    """Note how long a run waited for its turn."""
    _run_wait(algorithm, device).observe(waited_s)


def run_done(algorithm: str, device: str, took_s: float, *, warm: bool) -> None:
    """Note the duration of a run that ended well."""
    _run(algorithm, device, "warm" if warm else "cold").observe(took_s)


def cache_looked_up(algorithm: str, *, hit: bool) -> None:
    """Note that a kept result was looked for."""
    _CACHE.labels(algorithm, "hit" if hit else "miss").inc()
