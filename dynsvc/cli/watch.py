"""``dynsvc watch``."""

from __future__ import annotations

import click

from dynsvc.cli.console import console
from dynsvc.cli.following import EXIT_STATUS, follow, tell
from dynsvc.cli.jobs import open_jobs
from dynsvc.settings import Settings

__all__ = ["command"]


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
@click.pass_context
def command(ctx: click.Context, order_id: str, timeout_s: float, log: bool) -> None:
    """Follow an order until it ends.

    ID is the job's id in Kue. Exit status: 0 complete, 1 failed, 2 removed or unknown, 3 still running when
    the time was over.
    """
    out = console()
    with open_jobs(Settings.load()) as jobs:
        ending = follow(jobs, order_id, out, timeout_s=timeout_s, log=log)
    tell(ending, order_id, out)
    ctx.exit(EXIT_STATUS[ending.state])
