"""``dynsvc cancel``."""

from __future__ import annotations

import getpass
import secrets
import socket
from collections.abc import Callable
from datetime import UTC, datetime

import click

from dynsvc.cli.console import console
from dynsvc.cli.jobs import open_jobs, open_ledger
from dynsvc.errors import InvalidOrder
from dynsvc.kue import Job, JobStore, is_job_id
from dynsvc.settings import Settings

__all__ = ["command"]


@click.command(name="cancel")
@click.argument("order_id", metavar="ID")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the order's log.")
@click.option(
    "--keep-record",
    is_flag=True,
    help="End the order as failed, with the reason as its error, instead of removing it from Kue.",
)
@click.pass_context
def command(ctx: click.Context, order_id: str, reason: str, keep_record: bool) -> None:
    """Stop an order and remove it from Kue.

    A running algorithm is stopped within seconds. Exit status 1: the order had ended before, and nothing
    was changed.
    """
    if not is_job_id(order_id):
        raise InvalidOrder(order_id[:64], "id", order_id, "the id of a job in Kue")
    settings, out = Settings.load(), console()
    sentence = _sentence(reason)
    with open_jobs(settings) as jobs, open_ledger(settings) as ledger:
        job = jobs.read(order_id)
        if job is None:
            raise InvalidOrder(order_id, "id", order_id, "the id of a job that Kue has")
        if job.is_done or job.is_failed:
            click.echo(f"order {order_id} had ended before")
            ctx.exit(1)
        if keep_record:
            ctx.exit(0 if _end(jobs, job, sentence, click.echo) else 1)
        # Behind the guard: an attempt that ends meanwhile keeps its log as it is.
        if job.is_running:
            jobs.log(order_id, job.worker_id, [sentence])
        jobs.remove(order_id)
        ledger.tell_cancelled(order_id, sentence)
    out.print(f"order {order_id} removed: {sentence}")


def _sentence(reason: str) -> str:
    try:
        who = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in many containers
        who = "somebody"
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return f"cancelled by {who}@{socket.gethostname()} at {when}" + (f": {reason}" if reason else "")


def _end(jobs: JobStore, job: Job, sentence: str, say: Callable[[str], None]) -> bool:
    """End *job* as failed, whatever attempts it had left. Return whether it is so now."""
    # Each round uses up one attempt; the worker's next claim may come in between.
    for _ in range(2 * (job.attempts_left + 1)):
        now = jobs.read(job.id)
        if now is None or now.is_done or now.is_failed:
            say(f"order {job.id} had ended before")
            return False
        if now.is_delayed:
            say(f"order {job.id} waits for its next attempt; cancel it without --keep-record")
            return False
        token = now.worker_id
        if now.is_waiting:
            token = f"dynsvc-cancel:{secrets.token_hex(8)}"
            if jobs.claim(job.id, [now.type], token) is None:
                continue
        failed = jobs.fail(job.id, token, f"Cancelled: order {job.id}: {sentence}", message=sentence)
        if failed.is_final:
            say(f"order {job.id} ended as failed: {sentence}")
            return True
    say(f"order {job.id} could not be ended; try again")
    return False
