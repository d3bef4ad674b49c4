"""Running a stand-in as a program."""

from __future__ import annotations

import signal
import threading

import click

from dynsvc.standins.server import Standin

__all__ = ["serve"]


def serve(standin: Standin) -> None:
    """Start *standin*, say where it is, and stop it on SIGINT or SIGTERM."""
    asked_to_stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked_to_stop.set())
    with standin:
        click.echo(f"{type(standin).__name__} listens on {standin.url}")
        asked_to_stop.wait()
