"""The progress of an order, step by step: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

__all__ = ["STEPS", "Bars", "Display", "Lines", "Step", "StepClock", "display"]


@dataclass(frozen=True, slots=True)
class Step:
    """A step and the part of the order's progress that it fills, in percent."""

    name: str
    begins_at: int
    ends_at: int

    def fraction(self, percent: int) -> float:
        """Return how much of the step is done at an order's progress of *percent*: 0 to 1."""
        return min(1.0, max(0.0, (percent - self.begins_at) / (self.ends_at - self.begins_at)))


STEPS: Final = (
    Step("fetch_order", 0, 5),
    Step("fetch_roi", 5, 10),
    Step("run_algorithm", 10, 90),
    Step("upload_zip", 90, 95),
    Step("loader", 95, 100),
)


class StepClock:
    """Measures how long each step took, from when its end was seen."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began = now()
        self._ended: dict[str, float] = {}
        self._percent = 0

    def see(self, percent: int) -> None:
        """Take note of the order's progress. A smaller one than before means that a new attempt began."""
        if percent < self._percent:
            self._ended.clear()
            self._began = self._now()
        self._percent = percent
        for step in STEPS:
            if percent >= step.ends_at:
                self._ended.setdefault(step.name, self._now())

    def seconds(self, step: Step) -> float:
        """Return how long *step* took, or takes so far; 0 before it begins."""
        began = self._began
        for earlier in STEPS[: STEPS.index(step)]:
            if earlier.name not in self._ended:
                return 0.0
            began = self._ended[earlier.name]
        return self._ended.get(step.name, self._now()) - began

    @property
    def timings_s(self) -> dict[str, float]:
        """Seconds of each finished step."""
        return {step.name: self.seconds(step) for step in STEPS if step.name in self._ended}


class Display(Protocol):
    """Shows an order's progress."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, percent: int, clock: StepClock) -> None:
        """Show that the order's progress is *percent*."""
        ...

    def line(self, text: str) -> None:
        """Print one line of the order's log."""
        ...


class Bars:
    """One live bar per step."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("  {task.description:<14}", markup=False),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f} %", markup=False),
            TextColumn("{task.fields[took]}", style="dim", markup=False),
            console=console,
            refresh_per_second=12,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        for step in STEPS:
            self._tasks[step.name] = self._progress.add_task(step.name, total=1.0, took="")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()

    def show(self, percent: int, clock: StepClock) -> None:
        """Set each bar."""
        for step in STEPS:
            seconds = clock.seconds(step)
            took = f"{seconds:5.1f} s" if seconds else ""
            self._progress.update(self._tasks[step.name], completed=step.fraction(percent), took=took)

    def line(self, text: str) -> None:
        """Print above the bars."""
        self._progress.console.print(f"  {text}", style="dim")


class Lines:
    """One line at the end of each step, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._percent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def show(self, percent: int, clock: StepClock) -> None:
        """Print the steps that have ended since the last call."""
        if percent < self._percent:
            self._console.print("  another attempt begins")
            self._percent = 0
        for step in STEPS:
            if self._percent < step.ends_at <= percent:
                self._console.print(f"  {step.name:<14} done in {clock.seconds(step):.1f} s")
        self._percent = percent

    def line(self, text: str) -> None:
        """Print one line."""
        self._console.print(f"  {text}")


def display(console: Console) -> Display:
    """Return bars where *console* is a terminal, else lines."""
    return Bars(console) if console.is_terminal else Lines(console)
