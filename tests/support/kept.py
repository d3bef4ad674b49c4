"""Runs in kept containers, for tests: programs that serve, and a runtime whose left-overs are looked for."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynsvc import templates
from dynsvc.runtime import Keep, Limits, Run, RunOutcome
from tests.support.images import base_image, engine
from workers.runtimes.docker import DockerRuntime

__all__ = ["ECHO", "Keeping", "eventually", "once", "serving"]

_HELPER = (Path(templates.__file__).parent / "dynsvc_warm.py").read_text()

#: Copies its input and tells who it is.
ECHO = """
import os
def work(request, progress):
    print("works on", request["order_id"])
    progress(0.5)
    seen = sorted(os.listdir("/input")), sorted(os.listdir("/output"))
    with open("/output/result", "w") as result:
        result.write(open(request["input"]).read() + f" {os.getpid()} {seen}")
"""


def serving(program: str) -> tuple[str, ...]:
    """Return the command of a warm program whose function is called ``work``."""
    return ("python3", "-c", f"{_HELPER}\n{program}\nserve(work)\n")


def once(program: str) -> tuple[str, ...]:
    """Return the command that calls the same function a single time."""
    call = 'work({"input": "/input/tile", "order_id": "once"}, lambda fraction: None)'
    return ("python3", "-c", f"{program}\n{call}\n")


def eventually(condition: Callable[[], Any], within_s: float = 20) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


@dataclass
class Keeping:
    """A runtime that keeps containers, with a folder for runs."""

    folder: Path
    worker: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:8]}")
    lines: list[str] = field(default_factory=list)
    _count: int = 0

    def __post_init__(self) -> None:
        self.runtime = DockerRuntime(scratch=self.folder / "scratch", worker_id=self.worker)

    def made(
        self,
        argv: tuple[str, ...],
        argv_warm: tuple[str, ...] = (),
        *,
        text: str = "pixels",
        mode: Any = "warm",
        trust_domain: str = "hospital",
        keep: Keep | None = None,
        request: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
        **limits: Any,
    ) -> Run:
        self._count += 1
        folder = self.folder / f"run-{self._count}"
        for name in ("input", "output"):
            (folder / name).mkdir(parents=True)
        (folder / "input" / "tile").write_text(text)
        given = {"timeout_s": 20.0, "memory_mib": 128, "cpus": 1.0, "pids": 64, "tmp_mib": 16} | limits
        return Run(
            algorithm="seg",
            version="1",
            image=base_image(),
            argv=argv,
            argv_warm=argv_warm,
            input_dir=folder / "input",
            output_dir=folder / "output",
            limits=Limits(**given),
            order_id=f"order-{self._count}",
            attempt=uuid.uuid4().hex,
            env=env or {},
            mode=mode,
            request=request or {},
            trust_domain=trust_domain,
            keep=keep or Keep(),
        )

    def go(self, run: Run, *, ended: Callable[[], bool] = lambda: False) -> RunOutcome:
        return self.runtime.run(run, on_line=self.lines.append, ended=ended)

    def warm(self, program: str, **options: Any) -> tuple[Run, RunOutcome]:
        run = self.made(once(program), serving(program), **options)
        return run, self.go(run)

    def shim(self, *argv: str, **options: Any) -> tuple[Run, RunOutcome]:
        run = self.made(argv, mode="shim", **options)
        return run, self.go(run)

    def containers(self, role: str = "") -> list[dict[str, Any]]:
        labels = [f"dynsvc.worker={self.worker}", *([f"dynsvc.role={role}"] if role else [])]
        return list(engine().containers(all=True, filters={"label": labels}))

    def inspected(self, role: str = "kept") -> dict[str, Any]:
        (container,) = self.containers(role)
        return dict(engine().inspect_container(container["Id"]))
