"""``dynsvc check``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click
from pydantic import SecretStr
from rich.text import Text

from dynsvc.cli.console import console
from dynsvc.cli.probes import PATIENCE, probes
from dynsvc.http import Http
from dynsvc.settings import Settings

__all__ = ["command"]

_STYLES = {"ok": "green", "warning": "yellow", "broken": "bold red", "off": "dim"}


@click.command(name="check")
@click.option("--quiet", is_flag=True, help="Do not print what is configured.")
@click.pass_context
def command(ctx: click.Context, quiet: bool) -> None:
    """Print what is configured and test every peer.

    Secrets are masked. One line for each peer: ok, or what is wrong and what to do. Nothing is changed: no
    order is placed and nothing is uploaded. Exit status 1: a peer that orders need is broken.
    """
    settings = Settings.load()
    out = console()
    if not quiet:
        out.print(f"configuration: {os.environ.get('DYNSVC_CONFIG', 'DYNSVC_CONFIG is not set; defaults')}")
        for name, value in _flat(settings.model_dump(by_alias=False)):
            out.print(f"  {name} = {value}", style="dim")
    with Http(PATIENCE) as http:
        tests = list(probes(settings, http))
        # Side by side: several peers that are away cost one time-out, not their sum.
        with ThreadPoolExecutor(len(tests)) as pool:
            findings = list(pool.map(lambda probe: probe.run(), tests))
    width = max(len(probe.name) for probe in tests)
    for probe, finding in zip(tests, findings, strict=True):
        advice = f" -> {finding.advice}" if finding.advice else ""
        out.print(
            Text.assemble(
                (f"{finding.state:<8}", _STYLES[finding.state]),
                f"{probe.name:<{width}}  {finding.text}{advice}",
            )
        )
    broken = sum(finding.state == "broken" for finding in findings)
    warnings = sum(finding.state == "warning" for finding in findings)
    out.print(f"{broken} broken, {warnings} warnings", style="red" if broken else "green")
    ctx.exit(1 if broken else 0)


def _flat(values: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, str]]:
    """Yield each setting that has a value, with its dotted name; secrets as asterisks."""
    for key, value in values.items():
        name = f"{head}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, SecretStr):
            yield name, "********"
        elif isinstance(value, tuple):
            yield name, ",".join(value)
        elif value not in (None, ""):
            # URIs may carry a login or a signed query.
            yield name, re.sub(r"//[^/@]*@", "//********@", str(value)).partition("?")[0]
