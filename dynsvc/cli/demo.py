"""``dynsvc demo``."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console

from dynsvc.cli.console import console
from dynsvc.cli.following import Ending, follow
from dynsvc.cli.jobs import open_jobs
from dynsvc.demo.installation import Installation
from dynsvc.demo.order import JOB_TYPE, viewer_order
from dynsvc.demo.outcome import find_algorithm, write_report
from dynsvc.demo.processes import tail
from dynsvc.demo.slide import CASE_ID, REGION, make_slide
from dynsvc.demo.subject import Subject
from dynsvc.errors import DynsvcError, StorageUnavailable
from dynsvc.orders import safe_name
from dynsvc.regions import RegionRequest

__all__ = ["command"]


def _region(ctx: click.Context, param: click.Parameter, value: str | None) -> RegionRequest | None:
    """Read --region."""
    if value is None:
        return None
    words = value.split(",")
    if len(words) != 4 or not all(word.strip().isascii() and word.strip().isdigit() for word in words):
        text = f"{value!r} is not X,Y,W,H in whole level-0 pixels, for example 1000,2000,512,512"
        raise click.BadParameter(text, ctx, param)
    x, y, width, height = (int(word) for word in words)
    if not width or not height or max(x, y, width, height) >= 2**31:
        raise click.BadParameter(f"{value!r} has no area, or is larger than any slide", ctx, param)
    return RegionRequest(kind="pixels", x=x, y=y, width=width, height=height)


@click.command(name="demo")
@click.option(
    "--slide",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Your own slide: any file that OpenSlide reads.",
)
@click.option(
    "--region",
    callback=_region,
    metavar="X,Y,W,H",
    help="Region in level-0 pixels. Default: with --slide its middle, at most 1024 x 1024.",
)
@click.option(
    "--mpp",
    "mpp_um",
    type=click.FloatRange(0.01, 100),
    help="Micrometres per pixel, for a slide that does not tell them.",
)
@click.option("--algorithm", "algorithm_name", default="nuclei", show_default=True, help="What to run.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("dynsvc-demo"),
    show_default=True,
    help="Folder for report.html, result.zip, order.json and the logs.",
)
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@click.option("--keep", is_flag=True, help="Stay up afterwards, with Flower, until Ctrl-C.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up when the order has not ended by then.",
)
@click.pass_context
def command(
    ctx: click.Context,
    *,
    slide: Path | None,
    region: RegionRequest | None,
    mpp_um: float | None,
    algorithm_name: str,
    output: Path,
    open_page: bool,
    keep: bool,
    timeout_s: float,
) -> None:
    """Run a whole installation on this machine and show the result of one order.

    Starts an embedded Redis, stand-ins for the hospital's servers, one bridge and one Celery worker, all on
    127.0.0.1 and all gone afterwards; places an order in Kue as the viewer does; writes an HTML page of what
    was found. Nothing is downloaded. Without --slide it works on a small slide made of real tissue pixels.

    Exit status 0: the order is complete and the page is written. 1: the order failed.
    """
    out = console()
    algorithm = find_algorithm(algorithm_name)
    with _stopped_politely(), tempfile.TemporaryDirectory(prefix="dynsvc-demo-") as folder:
        work = Path(folder)
        subject = _subject(work, slide, region, mpp_um)
        logs = output / "logs"
        _empty(logs)
        began = time.monotonic()
        installation = Installation(
            work, logs, subject, algorithm.name, lambda text: out.print(f"starting {text}")
        )
        try:
            with installation:
                out.print(f"ready after {time.monotonic() - began:.1f} s", style="dim")
                data = viewer_order(
                    algorithm,
                    subject.case_id,
                    subject.region,
                    None if subject.mpp_from_slide else subject.mpp_um,
                )
                order_id, ending = _order(installation, data, output, timeout_s, out)
                if ending.state != "complete":
                    _explain(order_id, ending, logs, out)
                    ctx.exit(1)
                page = write_report(
                    installation,
                    algorithm=algorithm,
                    subject=subject,
                    order_id=order_id,
                    result=ending.result,
                    seen_s=ending.timings_s,
                    output=output,
                )
                out.print(f"result  {output / 'result.zip'}")
                out.print(f"page    {page.resolve()}", style="bold green")
                if open_page:
                    webbrowser.open(page.resolve().as_uri())
                if keep:
                    _stay(installation, work, subject, out)
        except DynsvcError as error:
            _print_logs(logs, out)
            raise error from None


def _empty(folder: Path) -> None:
    """Make a folder anew."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        raise StorageUnavailable(str(folder), error.strerror or str(error)) from error


def _subject(work: Path, slide: Path | None, region: RegionRequest | None, mpp_um: float | None) -> Subject:
    if slide is not None:
        return Subject.open(slide, safe_name(slide.stem), region, mpp_um)
    slides = work / "slides"
    slides.mkdir()
    path = slides / "demo.tif"
    make_slide(path)
    default = RegionRequest(
        kind="pixels", x=REGION.x_px, y=REGION.y_px, width=REGION.width_px, height=REGION.height_px
    )
    return Subject.open(path, CASE_ID, region or default, mpp_um)


def _order(
    installation: Installation, data: dict[str, Any], output: Path, timeout_s: float, out: Console
) -> tuple[str, Ending]:
    """Place the order, and follow it to its end."""
    (output / "order.json").write_text(
        json.dumps({"type": JOB_TYPE, "data": data}, indent=2) + "\n", encoding="utf-8"
    )
    with open_jobs(installation.settings) as jobs:
        order_id = jobs.create(JOB_TYPE, data)
        out.print(f"order {order_id} placed in Kue (its document: {output / 'order.json'})")
        ending = follow(
            jobs, order_id, out, timeout_s=timeout_s, check=installation.processes.check, log=False
        )
    return order_id, ending


def _explain(order_id: str, ending: Ending, logs: Path, out: Console) -> None:
    what = "failed" if ending.state == "failed" else f"is {ending.state} after the time limit"
    out.print(f"order {order_id} {what}", style="bold red")
    if ending.error:
        out.print(ending.error)
    _print_logs(logs, out)


def _print_logs(logs: Path, out: Console) -> None:
    for log in sorted(logs.glob("*.log")):
        out.print(f"--- end of {log}", style="dim")
        out.print(tail(log))
    out.print(f"logs    {logs.resolve()}")


def _stay(installation: Installation, work: Path, subject: Subject, out: Console) -> None:
    url = installation.start_flower()
    region = subject.region
    out.print(f"Flower            {url}")
    out.print(f"image server      {installation.images.url}/{subject.path.name}/{region}/full/0/default.jpg")
    out.print(f"loader's job      {installation.loader.url}/job/1")
    out.print(f"configuration     {work / 'config.json'}")
    out.print(f"another order     DYNSVC_CONFIG={work / 'config.json'} dynsvc submit ORDER.json --wait")
    out.print("Ctrl-C ends everything", style="bold")
    while True:
        installation.processes.check()
        time.sleep(0.5)


@contextmanager
def _stopped_politely() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal end the demo with everything cleaned up."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(number: int, _frame: FrameType | None) -> None:
        # An impatient second one must not interrupt the cleaning up, which has limits of its own.
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        sys.exit(128 + number)

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
