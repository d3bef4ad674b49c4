"""``dynsvc watch``."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import click

from dynsvc.artifacts import ArtifactStore
from dynsvc.cli.console import console
from dynsvc.cli.following import EXIT_STATUS, Ending, follow, tell
from dynsvc.kue import JobStore, connect
from dynsvc.leases import Ledger, Spread, SpreadState
from dynsvc.messages import Message
from dynsvc.settings import Settings
from dynsvc.wholeslide.partial import PartialView

__all__ = ["command"]

#: The page is written so often at most.
_PAGE_S = 2.0


class _Page:
    """Keeps a page of an order's finished tiles, from when there are some until the order ends."""

    def __init__(
        self, jobs: JobStore, ledger: Ledger, spread: Spread, artifacts: ArtifactStore, path: Path
    ) -> None:
        self._jobs, self._ledger, self._spread = jobs, ledger, spread
        self._artifacts, self._path = artifacts, path
        self._view: PartialView | None = None
        self._state: SpreadState | None = None
        self._next = 0.0

    def look(self, order_id: str) -> None:
        """Write the page, where its time has come."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _PAGE_S
        state = self._spread.state(order_id)
        if state is None:
            return
        if self._view is None:
            job = self._jobs.read(order_id)
            document = self._ledger.message(order_id, job.worker_id or "") if job else None
            if document is None or (message := Message.from_document(document)).tiles is None:
                return
            self._view = PartialView(message, self._artifacts)
            self._view.write(self._path, state)
            click.launch(str(self._path))
        remaining_s = state.progress.remaining_s
        sentence = "" if remaining_s is None else f"About {remaining_s:.0f} s left."
        self._view.write(self._path, state, sentence=sentence)
        self._state = state

    def end(self, ending: Ending) -> None:
        """Write the page for the last time."""
        if self._view and self._state:
            sentence = f"The order is {ending.state}."
            self._view.write(self._path, self._state, sentence=sentence, running=False)


@click.command(name="watch")
@click.argument("order_id", metavar="ID")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=86400.0,
    show_default=True,
    metavar="SECONDS",
    help="Stop watching after this time; the order goes on.",
)
@click.option("--log/--no-log", default=True, help="Print the order's log as it grows.")
@click.option("--open", "opened", is_flag=True, help="Show the finished tiles of a whole slide in a browser.")
@click.option(
    "--page",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("dynsvc-watch.html"),
    show_default=True,
    help="With --open: the file of the page.",
)
@click.pass_context
def command(
    ctx: click.Context, order_id: str, timeout_s: float, *, log: bool, opened: bool, page: Path
) -> None:
    """Follow an order until it ends.

    ID is the job's id in Kue. With --open, a page shows the tiles of a whole slide that are done; it needs
    the workers' artifact store within reach. Exit status: 0 complete, 1 failed, 2 removed or unknown, 3 still
    running when the time was over.
    """
    out, settings = console(), Settings.load()
    server = settings.orders.redis
    peer = f"the orders' Redis {server}"
    with closing(connect(server, name="dynsvc-cli")) as client:
        jobs = JobStore(client, settings.kue_head, peer=peer)
        shown = None
        if opened:
            ledger, spread = (
                Ledger(client, settings.kue_head, peer),
                Spread(client, settings.kue_head, peer),
            )
            shown = _Page(jobs, ledger, spread, ArtifactStore(settings.artifacts_uri), page)
        ending = follow(
            jobs,
            order_id,
            out,
            timeout_s=timeout_s,
            log=log,
            check=(lambda: shown.look(order_id)) if shown else lambda: None,
        )
        if shown:
            shown.end(ending)
    tell(ending, order_id, out)
    ctx.exit(EXIT_STATUS[ending.state])
