"""What the steps of an order have in common: ports, attempt, working folder, the run of an algorithm."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from dynsvc.algorithms import Algorithm, Catalog, Placeholders
from dynsvc.artifacts import ArtifactStore
from dynsvc.descriptors import Mode
from dynsvc.errors import InvalidOrder, StorageUnavailable
from dynsvc.inhand import InHand, remove_folder, working_folder
from dynsvc.messages import Message, Plan
from dynsvc.orders import Order, safe_name
from dynsvc.regions import Region
from dynsvc.runtime import Admission, Run, Runtime, Seen
from dynsvc.settings import Settings
from dynsvc.sinks import ResultSink
from dynsvc.slides import Slide
from dynsvc.sources import ImageSource

__all__ = [
    "ALGORITHM_FROM",
    "ALGORITHM_TO",
    "CLAIMED",
    "REGION_FETCHED",
    "UPLOADED",
    "Attempt",
    "Locator",
    "Ports",
    "artifact_key",
    "disk_errors",
    "places",
    "planned",
    "run_of",
    "timed",
    "workspace",
]

#: Kue's progress, in percent, at the end of each step. The algorithm's own progress fills 15 to 90.
CLAIMED, REGION_FETCHED, ALGORITHM_FROM, ALGORITHM_TO, UPLOADED = 5, 10, 15, 90, 95


class Attempt(Protocol):
    """One claim of a job, seen from the steps."""

    #: What the next step reads, where that runs here too.
    files: InHand

    def report(self, percent: int, *lines: str) -> None:
        """Write progress and log lines to the job, if this attempt still owns it."""
        ...

    def ended(self) -> bool:
        """Say whether this attempt no longer owns the order."""
        ...

    def note(self, **facts: object) -> None:
        """Keep facts of this step for who asks later what happened. They are no part of the result."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait, but not longer than the attempt lasts."""
        ...


class Locator(Protocol):
    """Finds slides by case id."""

    def locate(self, order: Order) -> Slide:
        """Return where the order's slide is and what its record says of it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What the steps reach the world through."""

    settings: Settings
    catalog: Catalog
    locator: Locator
    source: Callable[[Slide], ImageSource]
    artifacts: ArtifactStore
    runtime: Callable[[], Runtime]
    admission: Callable[[], Admission]
    sink: ResultSink


@contextmanager
def workspace(ports: Ports, message: Message) -> Iterator[Path]:
    """A fresh folder of this host for one step; gone afterwards."""
    folder = working_folder(ports.settings.scratch, message.order_id)
    try:
        yield folder
    finally:
        remove_folder(folder)


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """A full disk or a share that went away is transient, and says which."""
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(str(error.filename or place), error.strerror or str(error)) from error


def timed(message: Message, name: str, began: float) -> dict[str, float]:
    """Return the message's timings with the seconds since *began* (monotonic) under *name*."""
    return {**message.timings_s, name: round(time.monotonic() - began, 4)}


def _trust_domain(settings: Settings, order: Order) -> str:
    """Name those whose runs may share a container with this order's; empty: nobody's."""
    match settings.share_containers:
        case "site":
            # A worker serves one Kue, and a Kue one site.
            return f"site {settings.orders.redis} {settings.kue_head}"
        case "subject":
            return f"subject {settings.orders.redis} {settings.kue_head} {order.subject_id}"
        case "none":
            return ""


def places(
    plan: Plan, seen: Seen, picture: str, *, region: Region | None = None, mpp_um: float | None = None
) -> Placeholders:
    """Return what the placeholders of a command stand for.

    Parameters
    ----------
    picture
        The picture's name in the input folder.
    region, mpp_um
        Of the picture, where it is not that of the order.
    """
    order, region = plan.order, region or plan.region
    return Placeholders(
        input=f"{seen.input_dir}/{picture}",
        input_dir=seen.input_dir,
        output_dir=seen.output_dir,
        case_id=order.case_id,
        subject_id=order.subject_id,
        analysis_id=order.execution_id,
        description=order.description,
        order_id=order.job_id,
        x=region.x_px,
        y=region.y_px,
        width=region.width_px,
        height=region.height_px,
        mpp=mpp_um or plan.mpp_um,
    )


def run_of(
    algorithm: Algorithm,
    message: Message,
    ports: Ports,
    *,
    argv: tuple[str, ...],
    request: Mapping[str, Any],
    input_dir: Path,
    output_dir: Path,
    mode: Mode | None = None,
    attempt: str = "",
) -> Run:
    """Return the run of *algorithm* for an attempt, by the limits and the mode that its descriptor says.

    Parameters
    ----------
    mode
        Another than the descriptor's.
    attempt
        Where an attempt has several runs: its token, ``#`` and what tells them apart.
    """
    return Run(
        algorithm=algorithm.name,
        version=algorithm.version,
        image=algorithm.image,
        argv=argv,
        input_dir=input_dir,
        output_dir=output_dir,
        limits=replace(algorithm.run_limits, output_bytes=ports.settings.max_result_bytes),
        mode=mode or algorithm.mode,
        argv_warm=algorithm.run.command_warm,
        request=request,
        keep=algorithm.keep,
        trust_domain=_trust_domain(ports.settings, planned(message).order),
        order_id=message.order_id,
        attempt=attempt or message.token,
    )


def planned(message: Message) -> Plan:
    """Return the plan of a message that has passed ``fetch_order``.

    Raises
    ------
    InvalidOrder
        It has not (permanent).
    """
    if message.plan is None:
        raise InvalidOrder(message.order_id, "plan", None, "a message that has passed fetch_order")
    return message.plan


def artifact_key(message: Message, name: str) -> str:
    """Return the key of an attempt's artifact."""
    # Each attempt writes names of its own: a late one can never change what a newer one reads.
    return f"orders/{safe_name(message.order_id)}/{safe_name(message.token)}-{name.replace(',', '-')}"
