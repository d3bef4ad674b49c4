"""From a prepared run to its zip: taken from the results kept before, or executed, checked and packed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynsvc import metrics, provenance
from dynsvc.algorithms import Algorithm
from dynsvc.cache import Kept, ResultCache, key_of
from dynsvc.execution import Executed, Owner, execute
from dynsvc.messages import Input, Message, Plan
from dynsvc.outputs import OutputLimits
from dynsvc.results import Packed, pack, pack_again
from dynsvc.runtime import Admission, Run, RunOutcome, Runtime, Seen

__all__ = ["Made", "Production"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A zip, and how it came about."""

    packed: Packed
    #: What was executed: the image's digest or the program's path.
    executed: str
    #: How long the algorithm ran, seconds; None for a result that was kept.
    duration_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Production:
    """Makes the zip of one order on this host."""

    runtime: Runtime
    admission: Admission
    #: None where results are not kept.
    cache: ResultCache | None
    limits: OutputLimits
    #: Name of this host.
    host: str

    def make(
        self,
        message: Message,
        plan: Plan,
        fetched: Input,
        algorithm: Algorithm,
        run: Run,
        *,
        seen: Seen,
        picture: Path,
        folder: Path,
        owner: Owner,
        on_line: Callable[[str], None],
        say: Callable[[str], None],
    ) -> Made:
        """Return the zip of *run*, written into *folder*.

        Parameters
        ----------
        run
            Its input folder is filled, its output folder empty.
        seen
            The two folders as the algorithm sees them.
        picture
            The region as it was fetched.
        owner, on_line, say
            As :func:`dynsvc.execution.execute` takes them.
        """
        known = provenance.facts(algorithm, plan, fetched, run, seen)
        key = key_of(algorithm, run, self.runtime, known) if self.cache and plan.order.cache else None
        kept = self.cache.find(key, algorithm.name, folder) if self.cache and key else None
        if key:
            metrics.cache_looked_up(algorithm.name, hit=kept is not None)
        if kept:
            owner.note(executed=kept.executed, kept=kept.origin)
            tell = self._teller(message, known, kept, None, cache=kept.origin)
            packed = pack_again(kept, algorithm, plan, picture=picture, folder=folder, tell=tell)
            return Made(packed=packed, executed=kept.executed, duration_s=None)
        executed = execute(
            run,
            self.runtime,
            self.admission,
            owner,
            on_line=on_line,
            say=say,
            memory_retry=algorithm.limits.memory_retry,
        )
        outcome = executed.outcome
        packed = pack(
            algorithm,
            plan,
            output_dir=run.output_dir,
            picture=picture,
            folder=folder,
            limits=self.limits,
            tell=self._teller(message, known, outcome, executed),
        )
        if self.cache and key:
            self.cache.keep(key, packed.zip_path)
        return Made(packed=packed, executed=outcome.executed, duration_s=outcome.duration_s)

    def _teller(
        self,
        message: Message,
        known: dict[str, Any],
        what: RunOutcome | Kept,
        executed: Executed | None,
        *,
        cache: dict[str, Any] | None = None,
    ) -> Callable[[int | None, str | None], bytes]:
        def tell(objects: int | None, picture: str | None) -> bytes:
            section = provenance.run_facts(message, self.host, executed, cache=cache)
            section |= {"picture": picture}
            return provenance.document(known, {"objects": objects}, section, what.executed, what.stated)

        return tell
