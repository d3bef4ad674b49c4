"""The ``dynsvc`` command. Each subcommand is one module of this package, imported when it is called."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final, NoReturn

import click

from dynsvc import __version__
from dynsvc.errors import DynsvcError

__all__ = ["COMMANDS", "main"]

#: Subcommand: (module, the first sentence of its help). Written here too, so that ``--help`` imports none.
COMMANDS: Final = {
    "demo": ("demo", "Run a whole installation on this machine and show the result of one order."),
    "submit": ("submit", "Place an order in Kue, as Kue's own save does."),
    "watch": ("watch", "Follow an order until it ends."),
    "explain": ("explain", "Tell on one page what became of an order, and what to do where it failed."),
    "cancel": ("cancel", "Stop an order and remove it from Kue."),
    "run": ("run", "Run an order in this process, without broker, bridge or worker."),
    "algorithms": ("algorithms", "List the algorithms of this installation."),
    "drain": ("drain", "Have a host's workers finish their steps and take no new ones."),
    "check": ("check", "Print what is configured and test every peer."),
}


class _Failure(click.ClickException):
    """An error of ours, as one line without a traceback."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.message}", file=file, err=file is None)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"dynsvc.cli.{COMMANDS[cmd_name][0]}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, sentence) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            _unknown(ctx, args[0])
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DynsvcError as error:
            raise _Failure(str(error)) from error
        except KeyboardInterrupt:
            # Not click's 1: that is how watch tells of a failed order.
            click.echo("interrupted", err=True)
            ctx.exit(130)


def _unknown(ctx: click.Context, name: str) -> NoReturn:
    import difflib  # noqa: PLC0415 - only for this message

    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise click.UsageError(f"No such command: {name}.{hint}", ctx)


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, "--version", "-V", prog_name="dynsvc", message="%(prog)s %(version)s")
def main() -> None:
    """Containerised algorithms on whole-slide images, ordered through Kue, executed by Celery workers.

    DYNSVC_CONFIG names the config.json that all commands but demo read; DYNSVC_* variables override
    single keys of it. Exit status 2 means wrong usage or an error that the last line explains.
    """
