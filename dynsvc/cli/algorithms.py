"""``dynsvc algorithms``."""

from __future__ import annotations

import json

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dynsvc.algorithms import Algorithm, Catalog
from dynsvc.cli.authoring import check, import_, new, schema
from dynsvc.cli.availability import told
from dynsvc.cli.console import console
from dynsvc.errors import DynsvcError
from dynsvc.runtime import Runtime
from dynsvc.runtime_choice import choose
from dynsvc.settings import Settings

__all__ = ["command"]


@click.group(name="algorithms", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the algorithms of this installation.

    Shows each algorithm's name, version, device, parameters, and whether this host can run it. Exit status
    1: a descriptor cannot be used.
    """
    if ctx.invoked_subcommand:
        return
    settings = Settings.load()
    catalog = Catalog.load(settings.algorithms)
    runtime = _runtime(settings)
    if as_json:
        click.echo(json.dumps(_document(catalog, runtime), indent=2))
    else:
        _print(catalog, runtime, settings, console())
    ctx.exit(1 if catalog.problems else 0)


command.add_command(check)
command.add_command(new)
command.add_command(schema)
command.add_command(import_)


def _runtime(settings: Settings) -> Runtime | None:
    try:
        return choose(settings)
    except DynsvcError as error:
        click.echo(f"warning: no runtime: {error}", err=True)
        return None


def _document(catalog: Catalog, runtime: Runtime | None) -> dict[str, object]:
    return {
        "algorithms": [
            {**algorithm.model_dump(mode="json", by_alias=True), "availability": told(algorithm, runtime)}
            for algorithm in catalog
        ],
        "problems": [str(problem) for problem in catalog.problems],
    }


def _print(catalog: Catalog, runtime: Runtime | None, settings: Settings, out: Console) -> None:
    for algorithm in catalog:
        default = " (default)" if algorithm.name == settings.default_algorithm else ""
        out.print(
            Text.assemble((algorithm.name, "bold"), f" {algorithm.version}{default}  {algorithm.title}")
        )
        if algorithm.description:
            out.print(f"  {algorithm.description}")
        available = told(algorithm, runtime)
        where = f"{algorithm.device.kind}" + (f" x {algorithm.device.gpus}" if algorithm.device.gpus else "")
        out.print(
            f"  device {where}; runs as ", Text(available, "red" if "not available" in available else "green")
        )
        out.print(f"  answers to {', '.join(dict.fromkeys((algorithm.name, *algorithm.match)))}")
        out.print(_parameters(algorithm))
    if not catalog.algorithms:
        out.print(f"no algorithms in {settings.algorithms}")
    for problem in catalog.problems:
        out.print(Text(f"broken descriptor: {problem}", "red"))


def _parameters(algorithm: Algorithm) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("parameter", "default", "expected", "meaning"):
        table.add_column(column)
    for name, parameter in algorithm.parameters.items():
        cells = (name, parameter.default or "", parameter.expected, parameter.help)
        table.add_row(*(Text(cell) for cell in cells))
    return table
