"""The four steps of an order, as plain functions over values and ports. No Celery, no Redis, no Docker.

Each step takes the :class:`Message` so far and returns it grown. It reports progress through an
:class:`Attempt`, which also says when the attempt has ended and all work must stop.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from dynsvc import metrics, regions
from dynsvc.algorithms import Algorithm, Catalog, Placeholders
from dynsvc.artifacts import ArtifactStore
from dynsvc.cache import ResultCache
from dynsvc.errors import AttemptEnded, DynsvcError, InvalidOrder, OutputMissing, StorageUnavailable
from dynsvc.inputs import place
from dynsvc.messages import Input, Message, Plan, Result
from dynsvc.orders import Order, parse_order, safe_name
from dynsvc.outputs import OutputLimits, discard
from dynsvc.parameters import fill
from dynsvc.production import Production
from dynsvc.progress import done_fraction
from dynsvc.retry import RetryPolicy
from dynsvc.runtime import Admission, Run, Runtime, Seen
from dynsvc.settings import Settings
from dynsvc.sinks import Delivery, Receipt, ResultSink
from dynsvc.slides import Slide
from dynsvc.sources import ImageSource

__all__ = [
    "UPLOADED",
    "Attempt",
    "Ports",
    "fetch_order",
    "fetch_roi",
    "persisting",
    "planned",
    "run_algorithm",
    "upload_zip",
]

log = structlog.get_logger(__name__)

Grown = TypeVar("Grown")

#: Kue's progress, in percent, at the end of each step. The algorithm's own progress fills 15 to 90.
CLAIMED, REGION_FETCHED, ALGORITHM_FROM, ALGORITHM_TO, UPLOADED = 5, 10, 15, 90, 95


class Attempt(Protocol):
    """One claim of a job, seen from the steps."""

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


def persisting(attempt: Attempt, policy: RetryPolicy, work: Callable[[], Grown], order_id: str) -> Grown:
    """Do *work*, again and again while its errors are transient and the policy allows.

    Raises
    ------
    DynsvcError
        The last error.
    AttemptEnded
        The attempt ended between two tries.
    """
    began, tries = time.monotonic(), 0
    while True:
        tries += 1
        try:
            return work()
        except DynsvcError as error:
            delay_s = policy.delay_s(error, tries, time.monotonic() - began)
            if delay_s is None:
                raise
            metrics.retried(error)
            log.warning("step tries again", error=error.headline, attempt=tries, delay_s=round(delay_s, 2))
            attempt.wait(delay_s)
            if attempt.ended():
                raise AttemptEnded(order_id, "ended while it waited for another try") from error


@contextmanager
def _workspace(ports: Ports, message: Message) -> Iterator[Path]:
    """A fresh folder of this host for one step; gone afterwards."""
    parent = ports.settings.scratch / "work"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{safe_name(message.order_id)}-", dir=parent))
    except OSError as error:
        raise StorageUnavailable(str(parent), error.strerror or str(error)) from error
    try:
        yield folder
    finally:
        try:
            # Files of the algorithm's user, links it made: discard follows none of them.
            discard(folder)
        except DynsvcError as error:
            # The step is done, and must not be done again for that. The folder is swept by its age.
            log.warning("working folder not removed", folder=str(folder), error=str(error))


@contextmanager
def _disk_errors(place: Path) -> Iterator[None]:
    """A full disk or a share that went away is transient, and says which."""
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(str(error.filename or place), error.strerror or str(error)) from error


def _timed(message: Message, name: str, began: float) -> dict[str, float]:
    return {**message.timings_s, name: round(time.monotonic() - began, 4)}


def fetch_order(message: Message, data_text: str, ports: Ports, attempt: Attempt) -> Message:
    """Parse the order, find its slide, and decide what is run on which region.

    Parameters
    ----------
    data_text
        The job's ``data``, JSON as Kue stores it.
    """
    began = time.monotonic()
    order = parse_order(message.order_id, message.job_type, data_text)
    algorithm = ports.catalog.choose(order.algorithm, ports.settings.default_algorithm, order.job_id)
    values, remarks = fill(algorithm.parameters, order.parameters, order.job_id)
    slide = ports.locator.locate(order)
    slide = ports.source(slide).describe(slide)
    resolved = regions.resolve(order.roi, slide.width_px, slide.height_px)
    regions.check_size(resolved.region, ports.settings.max_region_px)
    algorithm.check_region(resolved.region, order.job_id)
    mpp_um, mpp_from = _mpp(order, slide, algorithm)
    lines = [*order.remarks, *remarks]
    if ports.catalog.find(order.algorithm) is None:
        lines.append(f"no algorithm answers to {order.algorithm}, the default {algorithm.name} is taken")
    if resolved.clipped:
        lines.append(f"region clipped to the slide: {resolved.region}")
    if mpp_from != "slide":
        lines.append(f"the slide tells no mpp; {mpp_um:g} um/px taken from the {mpp_from}")
    lines.append(f"{algorithm.name} {algorithm.version} on {slide.location}, region {resolved.region}")
    attempt.report(CLAIMED, *lines)
    plan = Plan(
        order=order,
        slide=slide,
        region=resolved.region,
        algorithm=algorithm.name,
        algorithm_version=algorithm.version,
        device=algorithm.device.kind,
        parameters=values,
        mpp_um=mpp_um,
        mpp_from=mpp_from,
    )
    return message.model_copy(update={"plan": plan, "timings_s": _timed(message, "fetch_order", began)})


def _mpp(order: Order, slide: Slide, algorithm: Algorithm) -> tuple[float, str]:
    """Micrometres per pixel, and who said so. The slide is right; the viewer never sends it."""
    for mpp_um, told_by in (
        (slide.mpp_um, "slide"),
        (order.mpp_um, "order"),
        (algorithm.default_mpp, "algorithm's default"),
    ):
        if mpp_um:
            return mpp_um, told_by
    raise InvalidOrder(order.job_id, "data.order.pm", None, "micrometres per pixel, as the slide tells none")


def fetch_roi(message: Message, ports: Ports, attempt: Attempt) -> Message:
    """Fetch the region's pixels and store them as an artifact."""
    began = time.monotonic()
    plan = planned(message)
    with _workspace(ports, message) as folder, _disk_errors(folder):
        picture = ports.source(plan.slide).fetch(plan.slide, plan.region, folder, "roi")
        stored = ports.artifacts.put(picture.path, _key(message, f"roi-{plan.region}{picture.suffix}"))
    fetched = Input(
        picture=stored, suffix=picture.suffix, width_px=picture.width_px, height_px=picture.height_px
    )
    size = f"{picture.width_px} x {picture.height_px} px, {stored.size_bytes} bytes"
    attempt.report(REGION_FETCHED, f"region fetched: {size}")
    return message.model_copy(update={"input": fetched, "timings_s": _timed(message, "fetch_roi", began)})


def run_algorithm(message: Message, ports: Ports, attempt: Attempt) -> Message:
    """Execute the algorithm on the region, check what it wrote, and store it as one zip."""
    began = time.monotonic()
    plan, fetched = planned(message), message.input
    if fetched is None:
        raise OutputMissing("fetch_roi", "a picture", "nothing")
    algorithm = ports.catalog.choose(plan.algorithm, "", plan.order.job_id)
    runtime = ports.runtime()
    with _workspace(ports, message) as folder, _disk_errors(folder):
        input_dir, output_dir = folder / "input", folder / "output"
        input_dir.mkdir()
        output_dir.mkdir()
        picture = ports.artifacts.get(fetched.picture, folder / f"tile{fetched.suffix}")
        seen = runtime.seen(input_dir, output_dir)
        places = _places(plan, seen, algorithm.input.file_name(picture.suffix))
        place(algorithm, picture, input_dir, places, plan.parameters)
        run = Run(
            algorithm=algorithm.name,
            version=algorithm.version,
            image=algorithm.image,
            argv=algorithm.command_line(places, plan.parameters),
            input_dir=input_dir,
            output_dir=output_dir,
            limits=algorithm.run_limits,
            mode=algorithm.mode,
            argv_warm=algorithm.run.command_warm,
            request=algorithm.request(places, plan.parameters),
            keep=algorithm.keep,
            trust_domain=_trust_domain(ports.settings, plan.order),
            order_id=message.order_id,
            attempt=message.token,
        )
        made = _production(ports, runtime).make(
            message,
            plan,
            fetched,
            algorithm,
            run,
            seen=seen,
            picture=picture,
            folder=folder,
            owner=attempt,
            on_line=_ProgressLines(attempt),
            say=lambda line: attempt.report(ALGORITHM_FROM, line),
        )
        packed = made.packed
        stored = ports.artifacts.put(packed.zip_path, _key(message, "result.zip"))
    counted = {None: "done", 0: "nothing found"}.get(packed.objects, f"{packed.objects} objects found")
    took = "kept from an earlier order" if made.duration_s is None else f"in {made.duration_s:.1f} s"
    ended = f"{algorithm.name}: {counted} {took}, zip of {stored.size_bytes} bytes"
    attempt.report(ALGORITHM_TO, *packed.remarks, ended)
    result = Result(
        archive=stored,
        objects=packed.objects,
        executed=made.executed,
        host=ports.settings.host,
        cached=made.duration_s is None,
    )
    return message.model_copy(update={"result": result, "timings_s": _timed(message, "run_algorithm", began)})


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


def _production(ports: Ports, runtime: Runtime) -> Production:
    limits = OutputLimits(max_bytes=ports.settings.max_result_bytes)
    return Production(
        runtime=runtime,
        admission=ports.admission(),
        cache=ResultCache(ports.artifacts, limits) if ports.settings.cache else None,
        limits=limits,
        host=ports.settings.host,
    )


def _places(plan: Plan, seen: Seen, picture: str) -> Placeholders:
    order, region = plan.order, plan.region
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
        mpp=plan.mpp_um,
    )


class _ProgressLines:
    """Turns the algorithm's own progress lines into the order's, at most one write for each percent."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt, self._percent = attempt, ALGORITHM_FROM
        attempt.report(ALGORITHM_FROM)

    def __call__(self, line: str) -> None:
        fraction = done_fraction(line)
        if fraction is None:
            return
        percent = ALGORITHM_FROM + int((ALGORITHM_TO - ALGORITHM_FROM) * min(fraction, 1.0))
        if percent > self._percent:
            self._percent = percent
            self._attempt.report(percent)


def upload_zip(message: Message, ports: Ports, attempt: Attempt) -> Receipt:
    """Deliver the stored zip. The receipt says whose outcome is the order's outcome."""
    plan, result = planned(message), message.result
    if result is None:
        raise OutputMissing(plan.algorithm, "a result", "nothing")
    with _workspace(ports, message) as folder, _disk_errors(folder):
        zip_path = ports.artifacts.get(result.archive, folder / "output.zip")
        receipt = ports.sink.deliver(
            Delivery(
                order_id=message.order_id,
                case_id=plan.order.case_id,
                execution_id=plan.order.execution_id,
                zip_path=zip_path,
            )
        )
    attempt.report(UPLOADED, f"delivered: {receipt.place}")
    return receipt


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


def _key(message: Message, name: str) -> str:
    # Each attempt writes names of its own: a late one can never change what a newer one reads.
    return f"orders/{safe_name(message.order_id)}/{safe_name(message.token)}/{name.replace(',', '-')}"
