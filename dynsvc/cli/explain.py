"""``dynsvc explain``."""

from __future__ import annotations

import json
import shlex
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import click

from dynsvc.advice import advice_for
from dynsvc.cli.console import console
from dynsvc.errors import InvalidOrder
from dynsvc.kue import Job, JobStore, connect
from dynsvc.leases import Ledger
from dynsvc.orders import parse_order
from dynsvc.settings import Settings
from dynsvc.traces import Noted, Traces

__all__ = ["command", "page"]

_WIDTH = 100
_OUTPUT_LINES = 20


@click.command(name="explain")
@click.argument("order_id", metavar="ID")
@click.pass_context
def command(ctx: click.Context, order_id: str) -> None:
    """Tell on one page what became of an order, and what to do where it failed.

    ID is the job's id in Kue. Exit status: 0, or 2 where Kue has no such job.
    """
    settings, out = Settings.load(), console()
    server = settings.orders.redis
    peer = f"the orders' Redis {server}"
    with closing(connect(server, name="dynsvc-cli")) as client:
        jobs = JobStore(client, settings.kue_head, peer=peer)
        job = jobs.read(order_id)
        if job is None:
            out.print(f"Kue has no job {order_id}: removed, or never there", style="yellow")
            ctx.exit(2)
        (in_flight,) = Ledger(client, settings.kue_head, peer).holds([job.id])
        trace = Traces(client, settings.kue_head, peer, keep_s=settings.keep_s).read(job.id)
        lines = jobs.log_lines(job.id)
    for line in page(job, trace, lines, in_flight=in_flight):
        out.print(line)


def page(job: Job, trace: Sequence[Noted], log: Sequence[str], *, in_flight: bool) -> Iterator[str]:
    """Yield the page's lines.

    Parameters
    ----------
    trace
        What workers noted, the oldest first.
    log
        The job's log in Kue.
    in_flight
        Whether the order has been handed to the workers.
    """
    yield f"order {job.id} ({job.type}): {_state(job, in_flight)}, attempt {_attempt(job)}"
    yield from _order(job)
    yield from _section("steps", _steps(job, trace))
    run = _last(trace, "argv")
    if run:
        yield from _section("run", _run(run, _last(trace, "executed")))
    elif kept := _last(trace, "kept"):
        origin = kept.facts["kept"]
        yield from _section("run", [f"none: the result of order {origin['order_id']} was delivered again"])
    if result := job.result_text if job.is_done else None:
        yield from _section("result", _result(result))
    error, _, output = (job.error or "").partition("\n")
    ended = _last(trace, "last_lines")
    output = output if job.error else str(ended.facts["last_lines"]) if ended else ""
    if output.strip():
        yield from _section("last output", output.strip().splitlines()[-_OUTPUT_LINES:])
    if error:
        yield from _section("error" if job.is_failed else "error of an earlier attempt", _wrapped(error))
        yield from _section("what to do", _wrapped(advice_for(error)))
    yield from _section("log", log or ["(empty)"])


def _section(title: str, lines: Sequence[str] | Iterator[str]) -> Iterator[str]:
    yield ""
    yield title
    yield from (f"  {line}" for line in lines)


def _state(job: Job, in_flight: bool) -> str:
    if job.is_done:
        return "complete"
    if job.is_failed:
        return "failed"
    if job.is_running:
        return f"running, {job.progress} %"
    if job.is_delayed:
        return "waits for its next attempt"
    if job.is_waiting:
        return "waits for a worker" if in_flight else "waits in Kue; no bridge has taken it yet"
    return f"in a state that Kue does not have: {job.state}"


def _attempt(job: Job) -> str:
    made = job.attempts_made if job.is_failed or job.is_done else job.attempts_made + 1
    return f"{made} of {job.max_attempts}"


def _order(job: Job) -> Iterator[str]:
    for name, at_ms in (("ordered", job.created_at_ms), ("begun", job.started_at_ms)):
        if at_ms:
            yield f"  {name:<12}{_clock(at_ms / 1000)}"
    try:
        order = parse_order(job.id, job.type, job.data_text)
    except InvalidOrder as error:
        yield f"  document    cannot be read: {error}"
        return
    yield f"  case        {order.case_id}"
    yield f"  analysis    {order.execution_id}"
    yield f"  algorithm   {order.algorithm}"
    yield f"  region      {order.roi}"
    if order.parameters:
        values = " ".join(f"{name}={value}" for name, value in order.parameters.items())
        yield f"  parameters  {values}"


def _steps(job: Job, trace: Sequence[Noted]) -> Iterator[str]:
    if not trace:
        yield "(no worker has begun it)" if not job.started_at_ms else "(nothing is noted any more)"
        return
    attempt = ""
    for position, entry in enumerate(trace):
        event = entry.facts.get("event")
        if entry.attempt != attempt and attempt:
            yield "another attempt:"
        attempt = entry.attempt
        start = f"{_clock(entry.at_s)}  {entry.step:<14} on {entry.host}"
        if event == "ended":
            yield f"{start}  {entry.facts['took_s']:8.2f} s  {entry.facts['outcome']}"
        elif event == "began" and not any(_ends(later, entry) for later in trace[position + 1 :]):
            yield f"{start}  begun, and not ended" + ("" if job.is_running else " (its worker was lost)")


def _ends(later: Noted, entry: Noted) -> bool:
    same = (later.attempt, later.step, later.host) == (entry.attempt, entry.step, entry.host)
    return same and later.facts.get("event") == "ended"


def _last(trace: Sequence[Noted], fact: str) -> Noted | None:
    """Return the last entry with that fact, of the last attempt."""
    found = [entry for entry in trace if fact in entry.facts and entry.attempt == trace[-1].attempt]
    return found[-1] if found else None


def _run(noted: Noted, executed: Noted | None) -> Iterator[str]:
    facts = noted.facts
    yield f"host        {noted.host}, {facts['runtime']} runtime, {facts['mode']}"
    what = f" ({executed.facts['executed']})" if executed else ""
    if facts["runtime"] == "process":
        yield f"program     {facts['argv'][0]}{what}"
    else:
        yield f"image       {facts['image']}{what}"
        yield f"flags       {_flags(facts)}"
    yield f"command     {shlex.join(facts['argv'])}"
    yield (
        f"limits      {facts['cpus']:g} CPU, {facts['memory_mib']} MiB, {facts['pids']} processes, "
        f"{facts['timeout_s']:g} s"
    )
    yield f"gpus        {', '.join(facts['gpus']) or 'none'}"
    yield f"waited      {facts['waited_s']:.1f} s for its turn on the host"


def _flags(facts: Mapping[str, Any]) -> str:
    if facts["runtime"] == "apptainer":
        flags = ["--containall --cleanenv --no-home --no-privs --no-mount tmp,bind-paths,hostfs"]
        flags += [] if facts["network"] else ["--net --network none"]
        flags += ["--nv"] if facts["gpus"] else []
        return " ".join(flags)
    flags = [
        "--init --read-only --cap-drop ALL --security-opt no-new-privileges",
        f"--network {'default' if facts['network'] else 'none'}",
        f"--cpus {facts['cpus']:g} --memory {facts['memory_mib']}m --memory-swap {facts['memory_mib']}m",
        f"--pids-limit {facts['pids']} --tmpfs /tmp:size={facts['tmp_mib']}m",
    ]
    if facts["gpus"]:
        flags.append(f"--gpus device={','.join(facts['gpus'])}")
    return " ".join(flags)


def _result(text: str) -> Iterator[str]:
    try:
        document = json.loads(text)
    except ValueError:
        document = text
    if not isinstance(document, dict):
        yield str(document)
        return
    for name, value in document.items():
        if value is not None:
            shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            yield f"{name:<12}{shown}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH) or [""]


def _clock(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at_s))
