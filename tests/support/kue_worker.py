"""A worker that follows the steps in a job's data, as ``node/worker.js`` does, with dynsvc's store."""

from __future__ import annotations

import itertools
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from dynsvc.kue import Job, JobStore
from tests.support.redis import RedisProcess

PREFIX = "dynsvc:"


def percent_of(complete: float, total: float) -> float:
    """``complete * 100 / total | 0`` as far as the scenarios need it."""
    return 0 if total == 0 else math.trunc(complete * 100 / total)


class StepWorker:
    """Runs jobs one after the other in a thread, and Kue's timers between them."""

    def __init__(
        self,
        server: RedisProcess,
        types: Sequence[str] = ("order",),
        *,
        head: str = "q:",
        make: Callable[..., JobStore] = JobStore,
        name: str = "one",
    ) -> None:
        self._client = server.client()
        self.store = make(self._client, head)
        self._types, self._name = types, name
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.error: BaseException | None = None

    def __enter__(self) -> StepWorker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._client.set("release", "1")
        self._thread.join(20)
        self._client.delete("release")
        self._client.close()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.store.promote_due()
                if not self.run_one():
                    self._stop.wait(0.02)
        except BaseException as error:
            self.error = error
            raise

    def run_one(self) -> bool:
        """Run the first waiting job, if there is one."""
        for job_id, _ in self.store.waiting(self._types, 1).ids:
            token = f"{PREFIX}{self._name}:{next(self._numbers)}"
            job = self.store.claim(job_id, self._types, token)
            if job is not None:
                self._follow(job, token)
            return True
        return False

    def _follow(self, job: Job, token: str) -> None:
        attempts = json.loads(job.data_text).get("attempts") or [[]]
        steps = attempts[min(job.attempts_made, len(attempts) - 1)]
        for step, *rest in [*steps, ["done"]]:
            if step == "progress":
                data = rest[2] if len(rest) > 2 else None
                self.store.progressing(
                    job.id, token, percent_of(rest[0], rest[1]), data, backwards=True
                ).run()
            elif step == "log":
                self.store.log(job.id, token, [rest[0]])
            elif step == "hold":
                while not self._client.exists("release"):
                    time.sleep(0.02)
            elif step == "sleep":
                time.sleep(rest[0] / 1000)
            elif step == "fail":
                self._fail(job, token, rest[0])
                return
            else:
                self.store.complete(job.id, token, rest[0] if rest else None)
                return

    def _fail(self, job: Job, token: str, failure: Any) -> None:
        if isinstance(failure, str):
            self.store.fail(job.id, token, failure, message=failure, log_line_text="")
        else:
            text = failure.get("stack") or failure["message"]
            self.store.fail(job.id, token, text, message=failure["message"])


def main() -> None:
    """Work until stdin closes. Arguments: port of Redis, name, types."""
    port, name, *types = sys.argv[1:]
    with StepWorker(RedisProcess(port=int(port)), types, name=name):
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
