"""The four steps of an order, as plain functions over values and ports. No Celery, no Redis, no Docker.

Each step takes the :class:`Message` so far and returns it grown. It reports progress through an
:class:`Attempt`, which also says when the attempt has ended and all work must stop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

import structlog

from dynsvc import metrics, regions
from dynsvc.algorithms import Algorithm
from dynsvc.cache import ResultCache
from dynsvc.errors import AttemptEnded, DynsvcError, InvalidOrder, OutputMissing
from dynsvc.inputs import place
from dynsvc.messages import Input, Message, Plan, Result
from dynsvc.orders import Order, parse_order
from dynsvc.outputs import OutputLimits
from dynsvc.parameters import fill
from dynsvc.production import Production
from dynsvc.progress import done_fraction
from dynsvc.retry import RetryPolicy
from dynsvc.runtime import Runtime
from dynsvc.sinks import Delivery, Receipt
from dynsvc.slides import Slide
from dynsvc.steps import (
    ALGORITHM_FROM,
    ALGORITHM_TO,
    CLAIMED,
    REGION_FETCHED,
    UPLOADED,
    Attempt,
    Ports,
    artifact_key,
    disk_errors,
    places,
    planned,
    run_of,
    timed,
    workspace,
)
from dynsvc.wholeslide.planning import grid_of, plan_tiles
from dynsvc.wholeslide.survey import prepare

__all__ = [
    "UPLOADED",
    "Attempt",
    "Ports",
    "fetch_order",
    "fetch_roi",
    "persisting",
    "planned",
    "put_away",
    "run_algorithm",
    "upload_zip",
]

log = structlog.get_logger(__name__)

Grown = TypeVar("Grown")


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
    mpp_um, mpp_from = _mpp(order, slide, algorithm)
    grid = grid_of(
        algorithm, order, slide, resolved.region, mpp_um=mpp_um, one_piece_px=ports.settings.one_piece_px
    )
    if grid is None:
        regions.check_size(resolved.region, ports.settings.max_region_px)
        algorithm.check_region(resolved.region, order.job_id)
    lines = [*order.remarks, *remarks]
    if grid is None and order.roi.outline:
        lines.append(f"{algorithm.name} takes no polygons: the box around the polygon is taken")
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
        grid=grid,
    )
    return message.model_copy(update={"plan": plan, "timings_s": timed(message, "fetch_order", began)})


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
    """Fetch the region's pixels, as an artifact in hand; of a region in tiles, plan the tiles."""
    began = time.monotonic()
    plan = planned(message)
    if plan.grid is not None:
        tiles = plan_tiles(message, ports, attempt)
        return message.model_copy(update={"tiles": tiles, "timings_s": timed(message, "fetch_roi", began)})
    folder = attempt.files.folder()
    with disk_errors(folder):
        picture = ports.source(plan.slide).fetch(plan.slide, plan.region, folder, "roi")
        key = artifact_key(message, f"roi-{plan.region}{picture.suffix}")
        kept = attempt.files.keep(picture.path, key, picture.measured)
    fetched = Input(
        picture=kept, suffix=picture.suffix, width_px=picture.width_px, height_px=picture.height_px
    )
    size = f"{picture.width_px} x {picture.height_px} px, {kept.size_bytes} bytes"
    attempt.report(REGION_FETCHED, f"region fetched: {size}")
    return message.model_copy(update={"input": fetched, "timings_s": timed(message, "fetch_roi", began)})


def run_algorithm(message: Message, ports: Ports, attempt: Attempt) -> Message:
    """Execute the algorithm on the region, check what it wrote, and keep it as one zip, in hand.

    Of a region in tiles, survey it: its tiles are done by :mod:`dynsvc.wholeslide`.
    """
    began = time.monotonic()
    plan, fetched = planned(message), message.input
    if plan.grid is not None:
        prepared = prepare(message, ports, attempt)
        return prepared.model_copy(update={"timings_s": timed(message, "run_algorithm", began)})
    if fetched is None:
        raise OutputMissing("fetch_roi", "a picture", "nothing")
    algorithm = ports.catalog.choose(plan.algorithm, "", plan.order.job_id)
    runtime = ports.runtime()
    with workspace(ports, message) as folder, disk_errors(folder):
        input_dir, output_dir = folder / "input", folder / "output"
        input_dir.mkdir()
        output_dir.mkdir()
        in_hand = attempt.files.path_of(fetched.picture)
        picture = in_hand or ports.artifacts.get(fetched.picture, folder / f"tile{fetched.suffix}")
        seen = runtime.seen(input_dir, output_dir)
        where = places(plan, seen, algorithm.input.file_name(picture.suffix))
        # What is in hand may have to go to another worker as it is.
        place(algorithm, picture, input_dir, where, plan.parameters, link=in_hand is None)
        run = run_of(
            algorithm,
            message,
            ports,
            argv=algorithm.command_line(where, plan.parameters),
            request=algorithm.request(where, plan.parameters),
            input_dir=input_dir,
            output_dir=output_dir,
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
        key = artifact_key(message, "result.zip")
        kept = attempt.files.keep(packed.zip_path, key, packed.measured)
    counted = {None: "done", 0: "nothing found"}.get(packed.objects, f"{packed.objects} objects found")
    took = "kept from an earlier order" if made.duration_s is None else f"in {made.duration_s:.1f} s"
    ended = f"{algorithm.name}: {counted} {took}, zip of {kept.size_bytes} bytes"
    attempt.report(ALGORITHM_TO, *packed.remarks, ended)
    result = Result(
        archive=kept,
        objects=packed.objects,
        executed=made.executed,
        host=ports.settings.host,
        cached=made.duration_s is None,
    )
    return message.model_copy(update={"result": result, "timings_s": timed(message, "run_algorithm", began)})


def put_away(message: Message, ports: Ports, attempt: Attempt) -> None:
    """Have the artifact store hold what *message* refers to: another worker goes on with it.

    Raises
    ------
    StorageUnavailable
        As :meth:`dynsvc.artifacts.ArtifactStore.put`.
    """
    if message.result is not None:
        attempt.files.put_away(message.result.archive, ports.artifacts)
    elif message.input is not None:
        attempt.files.put_away(message.input.picture, ports.artifacts)


def _production(ports: Ports, runtime: Runtime) -> Production:
    limits = OutputLimits(max_bytes=ports.settings.max_result_bytes)
    return Production(
        runtime=runtime,
        admission=ports.admission(),
        cache=ResultCache(ports.artifacts, limits) if ports.settings.cache else None,
        limits=limits,
        host=ports.settings.host,
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
    with ExitStack() as held:
        zip_path = attempt.files.path_of(result.archive) or ports.artifacts.in_place(result.archive)
        if zip_path is None:
            folder = held.enter_context(workspace(ports, message))
            zip_path = ports.artifacts.get(result.archive, folder / "output.zip")
        held.enter_context(disk_errors(zip_path))
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
