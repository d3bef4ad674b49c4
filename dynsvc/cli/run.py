"""``dynsvc run``."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from dynsvc import pipeline
from dynsvc.artifacts import ArtifactStore
from dynsvc.cli.console import console
from dynsvc.cli.document import read_document
from dynsvc.cli.progress import StepClock, display
from dynsvc.http import Http
from dynsvc.inhand import InHand
from dynsvc.logs import configure
from dynsvc.messages import Message
from dynsvc.settings import Settings
from dynsvc.site import ports
from dynsvc.wholeslide.alone import do_tiles

__all__ = ["command"]


class _Attempt:
    """An attempt that nobody else can end: progress goes to the screen."""

    def __init__(self, console: Console, scratch: Path) -> None:
        self.files = InHand(scratch, "run")
        self._clock = StepClock()
        self.display = display(console)

    def report(self, percent: int, *lines: str) -> None:
        self._clock.see(percent)
        self.display.show(percent, self._clock)
        for line in lines:
            self.display.line(line)

    def ended(self) -> bool:
        return False

    def note(self, **facts: object) -> None:
        pass

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


@click.command(name="run")
@click.argument(
    "order_file", metavar="ORDER.json", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--type", "job_type", help="Kue's job type. Default: the document's, else analysisJob.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("result.zip"),
    show_default=True,
    help="Where the result's zip is written.",
)
@click.option("--upload", is_flag=True, help="Also deliver the result, to the loader or the results folder.")
def command(order_file: Path, job_type: str | None, output: Path, upload: bool) -> None:
    """Run an order in this process, without broker, bridge or worker.

    For trying out an algorithm or a configuration: the steps are those of the workers, with the same slide,
    image source and runtime. Kue and Redis are not touched, and nothing is tried a second time.
    """
    document = read_document(order_file, job_type)
    order = document.parse()
    configured = Settings.load()
    configure(configured.model_copy(update={"log_level": "WARNING"}))
    out = console()
    scratch = tempfile.TemporaryDirectory(prefix="dynsvc-run-")
    attempt = _Attempt(out, Path(scratch.name))
    with scratch as folder, Http() as http, attempt.display:
        changes: dict[str, Any] = {"scratch": Path(folder), "artifacts": str(Path(folder, "artifacts"))}
        if configured.host_folder.is_dir():
            # It takes its turn beside the workers of this host. Where there are none, nothing is left behind.
            changes["host_ledger"] = configured.host_folder
        # A results folder that was left to its default lies in the scratch folder: keep that one.
        changes |= {"results": configured.results_folder} if upload else {"sink": "directory"}
        settings = configured.model_copy(update=changes)
        site = ports(settings, http, ArtifactStore(settings.artifacts_uri))
        message = Message(order_id=order.job_id, job_type=document.type, token="run")  # noqa: S106 - no secret
        message = pipeline.fetch_order(message, json.dumps(document.data), site, attempt)
        message = pipeline.fetch_roi(message, site, attempt)
        message = pipeline.run_algorithm(message, site, attempt)
        if message.tiles is not None:
            message = do_tiles(message, site, attempt)
        assert message.result  # noqa: S101 - run_algorithm raised otherwise
        output.parent.mkdir(parents=True, exist_ok=True)
        result = attempt.files.path_of(message.result.archive)
        assert result  # noqa: S101 - all steps are done here
        shutil.copyfile(result, output)
        place = pipeline.upload_zip(message, site, attempt).place if upload else None
    for step, seconds in message.timings_s.items():
        out.print(f"{step:<14} {seconds:8.2f} s")
    found = "" if message.result.objects is None else f", {message.result.objects} objects"
    out.print(f"result: {output} ({message.result.archive.size_bytes} bytes{found})", style="green")
    if place:
        out.print(f"delivered: {place}")
