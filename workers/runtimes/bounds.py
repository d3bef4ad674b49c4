"""What a run may write: no engine has a limit for a folder of the host, so somebody has to look.

A file of its own can never grow beyond the limit of the output: the kernel holds that (``RLIMIT_FSIZE``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dynsvc.errors import AlgorithmFailed, DynsvcError, OutputRefused
from dynsvc.outputs import measure
from dynsvc.runtime import Limits, Run
from workers.runtimes.ending import Ending

__all__ = ["Bound", "bounded", "file_bytes"]

_MIB = 1 << 20
#: A folder is looked at each time that the run is asked after, but for at most this part of the time.
_SHARE = 0.1
#: The folders of a run that has just begun are empty; whoever asks at once asks again after 0.25 s.
_FRESH_S = 0.2


def file_bytes(limits: Limits) -> int:
    """Return how large one file may become: a little more than the limit, so that a look tells."""
    return max(limits.output_bytes, limits.tmp_mib * _MIB) + _MIB


class Bound:
    """Answers whether a run has ended, and ends one that writes too much.

    Parameters
    ----------
    run
        Whose limits hold.
    ended
        The question itself.
    output
        The folder of its results.
    tmp
        The folder of its temporary files, where that is one of the host.
    first_s
        After so many seconds a first look is worth it.
    """

    def __init__(
        self,
        run: Run,
        ended: Callable[[], bool],
        *,
        output: Path,
        tmp: Path | None = None,
        first_s: float = 0.0,
    ) -> None:
        self._run, self._ended, self._output, self._tmp = run, ended, output, tmp
        self._begin = time.monotonic()
        self._look_at = self._begin + first_s

    def __call__(self) -> bool:
        """Return whether the run has ended.

        Raises
        ------
        OutputRefused, AlgorithmFailed
            It has written too much (permanent).
        """
        begin = time.monotonic()
        if begin >= self._look_at:
            self.look()
            end = time.monotonic()
            self._look_at = end + (end - begin) / _SHARE
        return self._ended()

    def look(self) -> None:
        """Look at the folders now; the errors are those of a call."""
        limits = self._run.limits
        if measure(self._output, self._run.algorithm) > limits.output_bytes:
            reason = f"it has more than {limits.output_bytes} bytes; the run was ended"
            raise OutputRefused(self._run.algorithm, "its output folder", reason)
        if self._tmp and measure(self._tmp, self._run.algorithm) > limits.tmp_mib * _MIB:
            raise Ending(self._run, time.monotonic() - self._begin, "").by_tmp_limit()

    def told(self, error: DynsvcError | None) -> None:
        """Look once more where a run failed: the program may have met the limit before us."""
        if isinstance(error, AlgorithmFailed):
            self.look()


@contextmanager
def bounded(run: Run, ended: Callable[[], bool], *, output: Path, tmp: Path | None = None) -> Iterator[Bound]:
    """Give the question of a run that lasts as long as the block. Its folders are empty when it begins."""
    bound = Bound(run, ended, output=output, tmp=tmp, first_s=_FRESH_S)
    try:
        yield bound
    except AlgorithmFailed as error:
        bound.told(error)
        raise
