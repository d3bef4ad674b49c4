"""Removes what dead workers left on this host: containers whose attempt has ended, old folders, artifacts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import structlog

from dynsvc import metrics
from dynsvc.errors import DynsvcError
from dynsvc.kue import is_job_id
from dynsvc.messages import TOKEN_PREFIX
from dynsvc.outputs import discard
from dynsvc.site import Site

__all__ = ["Janitor", "Reaping"]

log = structlog.get_logger(__name__)

_ROUND_S = 3.0
_SWEEP_S = 3600.0
_DAY_S = 24 * 3600.0


@runtime_checkable
class Reaping(Protocol):
    """A runtime whose runs outlive a killed worker."""

    def reap(self, ended: Callable[[list[tuple[str, str]]], list[bool]]) -> int:
        """Remove this host's runs whose (order id, attempt) has ended, and return their number."""
        ...


class Janitor:
    """Looks every few seconds, in a thread. Any number of workers on a host may have one.

    What belongs to an attempt that still owns its order is left alone, whoever runs it: the truth is in Kue,
    not on this host.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._next_sweep = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    def start(self) -> None:
        """Begin with a round at once."""
        self._thread.start()

    def stop(self) -> None:
        """Have no further round."""
        self._stopped.set()

    def _run(self) -> None:
        while True:
            try:
                self.round()
            except DynsvcError as error:
                log.warning("janitor's round failed", error=str(error))
            except Exception:
                log.exception("janitor's round failed unexpectedly")
            if self._stopped.wait(_ROUND_S):
                return

    def round(self) -> None:
        """Look once."""
        if time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + _SWEEP_S
            self._sweep_folders()
            swept = self._site.artifacts.sweep(self._site.settings.keep_s)
            metrics.ARTIFACTS_FILES.set(swept.files)
            metrics.ARTIFACTS_BYTES.set(swept.size_bytes)
            metrics.ARTIFACTS_SWEPT.set_to_current_time()
            if swept.removed:
                log.info("old artifacts removed", count=swept.removed)
        runtime = self._site.ports.runtime()
        if isinstance(runtime, Reaping) and (count := runtime.reap(self._ended)):
            log.warning("leftover containers removed", count=count)

    def _sweep_folders(self) -> None:
        # A folder of a step that still runs is never this old.
        longest_s = self._site.settings.order_limit_s + _DAY_S
        for folder in (self._site.settings.scratch / "work").glob("*"):
            try:
                old = time.time() - folder.stat().st_mtime > longest_s
            except OSError:
                continue
            if old:
                discard(folder)
                log.warning("leftover folder removed", folder=str(folder))

    def _ended(self, attempts: list[tuple[str, str]]) -> list[bool]:
        ours = [pair for pair in attempts if is_job_id(pair[0]) and pair[1].startswith(TOKEN_PREFIX)]
        orders = [(order_id, attempt.partition("#")[0]) for order_id, attempt in ours]
        owned = dict(zip(ours, self._site.jobs.owns_each(orders), strict=True))
        # An attempt that is done in tiles has several runs, each for a batch that may have lost its worker.
        parts = {pair: pair[1].split("#")[1] for pair in ours if "#" in pair[1]}
        held = dict(zip(parts, self._site.spread.leases.holds(list(parts.values())), strict=True))
        # What was not ordered through Kue has no truth there; its deadline ends it.
        return [not owned.get(pair, True) or not held.get(pair, True) for pair in attempts]
