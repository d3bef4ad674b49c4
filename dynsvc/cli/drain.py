"""``dynsvc drain``."""

from __future__ import annotations

import time

import click

from dynsvc.cli.console import console

__all__ = ["command"]

_LOOK_S = 1.0


@click.command(name="drain")
@click.argument("host", metavar="HOST")
@click.option("--undo", is_flag=True, help="Have them take new steps again.")
@click.option("--no-wait", is_flag=True, help="Do not wait until their steps are done.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    metavar="S",
    help="Wait no longer than this; they go on draining.",
)
@click.pass_context
def command(ctx: click.Context, host: str, undo: bool, no_wait: bool, timeout_s: float | None) -> None:
    """Have a host's workers finish their steps and take no new ones.

    HOST is their DYNSVC_HOST, or the name of one worker as Flower shows it. When the command ends well they
    can be stopped, and nothing has to be done again. A worker that is started again takes steps. Exit status
    1: no worker of this host answered, or steps still ran after --timeout.
    """
    # Loads Celery's configuration, which no other command needs.
    from dynsvc.celery import drain  # noqa: PLC0415

    out = console()
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    left = drain(host, "end" if undo else "begin")
    if not left:
        click.echo(f"no worker of {host} answered", err=True)
        ctx.exit(1)
    if undo:
        out.print(f"{', '.join(sorted(left))}: takes steps again")
        return
    told: dict[str, int] = {}
    while True:
        if left != told:
            for name, steps in sorted(left.items()):
                out.print(f"{name}: {steps} {'step' if steps == 1 else 'steps'} left")
            told = left
        if no_wait or not sum(left.values()):
            break
        if deadline is not None and time.monotonic() > deadline:
            click.echo(f"{sum(left.values())} steps still run", err=True)
            ctx.exit(1)
        time.sleep(_LOOK_S)
        # Who is gone has nothing left: what it had is done elsewhere.
        left = drain(host, "look")
