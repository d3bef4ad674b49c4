"""``dynsvc algorithms check | new | schema | import``: for those who add an algorithm."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import click

from dynsvc.algorithms import DESCRIPTION, Algorithm, described_in, json_schema, read_descriptor, read_text
from dynsvc.cli.availability import require
from dynsvc.descriptor_text import problems, read_toml, to_toml
from dynsvc.errors import DescriptorInvalid, DynsvcError, SettingsInvalid
from dynsvc.importers import ADAPTATION, FORMATS, format_of
from dynsvc.runtime_choice import choose
from dynsvc.settings import Settings
from dynsvc.templates import write_template

__all__ = ["check", "import_", "new", "schema"]

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
#: An image that starts answers at once; this is for pulling it.
_DOCKER_S = 600


@click.command(name="check")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, path_type=Path))
@click.option("--runtime", is_flag=True, help="Also look for the program or image on this host.")
@click.pass_context
def check(ctx: click.Context, folder: Path, runtime: bool) -> None:
    """Check the description of the algorithm in DIR and print every problem with its line.

    DIR is the algorithm's folder or the file itself. Exit status 1: it has problems.
    """
    path = described_in(folder) if folder.is_dir() else folder
    if path is None:
        raise DescriptorInvalid(str(folder), "the description", None, f"a file {DESCRIPTION}")
    found = problems(read_text(path), str(path)) if path.name == DESCRIPTION else []
    if not found:
        try:
            algorithm = read_descriptor(path)
            present = f", {_present(algorithm)}" if runtime else ""
        except DynsvcError as error:
            click.echo(str(error))
            ctx.exit(1)
        click.echo(f"{path}: {algorithm.name} {algorithm.version} is valid{present}")
        return
    for problem in found:
        click.echo(str(problem))
    ctx.exit(1)


def _present(algorithm: Algorithm) -> str:
    return require(algorithm, choose(Settings.load()))


@click.command(name="new")
@click.argument("name")
@click.option(
    "--dir",
    "folder",
    type=_FOLDER,
    default=Path(),
    show_default="here",
    help="Folder in which the algorithm's folder is made.",
)
def new(name: str, folder: Path) -> None:
    """Write the folder NAME with a working algorithm: descriptor, Dockerfile, program and test."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
        expected = "at most 64 lower-case letters, digits and . _ -, a letter or digit first"
        raise SettingsInvalid("NAME", repr(name), expected)
    target = write_template(name, folder)
    for path in sorted(target.iterdir()):
        click.echo(str(path))


@click.command(name="schema")
def schema() -> None:
    """Print the JSON schema of a descriptor, for editors that check TOML."""
    click.echo(json.dumps(json_schema(), indent=2))


@click.command(name="import")
@click.argument("source", metavar="FILE|IMAGE")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(list(FORMATS)),
    help="Format of FILE. Default: by its content.",
)
@click.option("--image", help="Container image of the algorithm.")
@click.option("--name", help="Name of the algorithm. Default: from its title.")
@click.option(
    "--program",
    multiple=True,
    help="What starts the program: a word of its argument list; repeat it for more.",
)
@click.option("--cli", help="With IMAGE: which of its programs. Default: the only one.")
@click.option("--adapt", type=_FILE, help=f"A file like {ADAPTATION}, for everything else.")
def import_(
    *,
    source: str,
    format_name: str | None,
    image: str | None,
    name: str | None,
    program: tuple[str, ...],
    cli: str | None,
    adapt: Path | None,
) -> None:
    """Print a foreign description as a descriptor.

    FILE is a Slicer CLI XML, a BIAFLOWS descriptor.json or a grand-challenge.toml. IMAGE is an image that
    answers to --list_cli and --xml as those of slicer_cli_web do; docker starts it, without network.
    """
    adaptation: dict[str, Any] = read_toml(read_text(adapt), str(adapt)) if adapt else {}
    text, path = _ask_image(source, cli, adaptation) if not Path(source).exists() else (None, source)
    text = read_text(Path(source)) if text is None else text
    adaptation |= {key: value for key, value in (("image", image), ("name", name)) if value}
    if program:
        adaptation["program"] = list(program)
    chosen = format_name or format_of(text)
    if chosen is None:
        raise click.UsageError("The format cannot be told from the content: give --format.")
    algorithm = FORMATS[chosen][1](text, path=path, adaptation=adaptation)
    click.echo(to_toml(algorithm), nl=False)


def _ask_image(image: str, cli: str | None, adaptation: dict[str, Any]) -> tuple[str, str]:
    """Return the XML of one program of *image*, and what stands for its path; note how it is started."""
    if cli is None:
        try:
            listed = list(json.loads(_docker("run", "--rm", "--network=none", image, "--list_cli")))
        except ValueError as error:
            raise click.UsageError(f"{image} answers to --list_cli with no JSON.") from error
        if len(listed) != 1:
            raise click.UsageError(f"{image} has the programs {', '.join(listed)}: give --cli.")
        cli = str(listed[0])
    entry = json.loads(_docker("image", "inspect", "--format={{json .Config.Entrypoint}}", image)) or []
    adaptation.setdefault("image", image)
    # The runtime starts a program by its own list, whatever the image's entry point is.
    adaptation.setdefault("program", [*entry, cli])
    return _docker("run", "--rm", "--network=none", image, cli, "--xml"), f"{image} {cli} --xml"


def _docker(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["docker", *arguments], capture_output=True, text=True, timeout=_DOCKER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise click.UsageError(f"docker cannot be asked: {error}") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise click.UsageError(f"docker {' '.join(arguments[:2])}: {last}")
    return done.stdout
