"""``dynsvc submit``."""

from __future__ import annotations

from pathlib import Path

import click

from dynsvc.cli.console import console
from dynsvc.cli.document import read_document
from dynsvc.cli.following import EXIT_STATUS, follow, tell
from dynsvc.cli.jobs import open_jobs
from dynsvc.errors import InvalidOrder
from dynsvc.kue import PRIORITIES
from dynsvc.settings import Settings

__all__ = ["command"]


def _level(ctx: click.Context, param: click.Parameter, value: str | None) -> str | int | None:
    """Read --priority."""
    if value is None or value in PRIORITIES:
        return value
    try:
        return int(value)
    except ValueError:
        names = ", ".join(PRIORITIES)
        raise click.BadParameter(
            f"{value!r} is neither a whole number nor one of {names}", ctx, param
        ) from None


@click.command(name="submit")
@click.argument(
    "order_file", metavar="ORDER.json", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--type", "job_type", help="Kue's job type. Default: the document's, else analysisJob.")
@click.option(
    "--priority",
    callback=_level,
    metavar="NAME|NUMBER",
    help=f"{', '.join(PRIORITIES)}, or a whole number; smaller first. Default: the document's.",
)
@click.option(
    "--attempts",
    type=click.IntRange(1, 100),
    help="How often the order may be tried. Default: the document's, else 1.",
)
@click.option("--wait", is_flag=True, help="Follow the order until it ends, and exit as watch does.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=86400.0,
    show_default=True,
    metavar="SECONDS",
    help="With --wait: stop waiting after this time.",
)
@click.option("--force", is_flag=True, help="Send the document even if it is no order that dynsvc can read.")
@click.pass_context
def command(
    ctx: click.Context,
    *,
    order_file: Path,
    job_type: str | None,
    priority: str | int | None,
    attempts: int | None,
    wait: bool,
    timeout_s: float,
    force: bool,
) -> None:
    """Place an order in Kue, as Kue's own save does.

    Prints the order's id. ORDER.json is what is posted to Kue ({"type": ..., "data": ...}), a job as Kue's
    API returns it, or the bare data. It is checked before it is sent.
    """
    document = read_document(order_file, job_type)
    try:
        order = document.parse()
    except InvalidOrder as error:
        if not force:
            raise
        click.echo(f"warning: {error}; sent all the same", err=True)
    else:
        for remark in order.remarks:
            click.echo(f"note: {remark}", err=True)
    settings = Settings.load()
    if document.type not in settings.job_types:
        click.echo(
            f"warning: bridges with these settings take {', '.join(settings.job_types)}, not {document.type}",
            err=True,
        )
    with open_jobs(settings) as jobs:
        order_id = jobs.create(
            document.type,
            document.data,
            priority=priority if priority is not None else _priority(document.options.get("priority")),
            attempts=attempts or _attempts(document.options.get("attempts")),
        )
        click.echo(order_id)
        if wait:
            out = console()
            ending = follow(jobs, order_id, out, timeout_s=timeout_s)
            tell(ending, order_id, out)
            ctx.exit(EXIT_STATUS[ending.state])


def _priority(value: object) -> str | int:
    """Return the document's priority as Kue's API would read it; what it could not read becomes normal."""
    if isinstance(value, str) and value in PRIORITIES:
        return value
    return value if isinstance(value, int) and not isinstance(value, bool) else "normal"


def _attempts(value: object) -> int:
    text = str(value)
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 4 else 1
