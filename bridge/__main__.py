"""``python -m bridge``."""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from bridge.service import Bridge
from dynsvc import __version__, logs
from dynsvc.errors import DynsvcError
from dynsvc.settings import Settings
from dynsvc.site import Site


def main() -> int:
    """Run a bridge until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="python -m bridge",
        description="Turns waiting Kue orders into Celery chains and reports their outcomes. "
        "Configured by DYNSVC_CONFIG and DYNSVC_* variables; any number may run side by side.",
    )
    parser.add_argument("--version", action="version", version=f"dynsvc {__version__}")
    parser.parse_args()
    try:
        settings = Settings.load()
        logs.configure(settings)
        bridge = Bridge(Site(settings))
    except DynsvcError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    bridge.start()
    while not stop.wait(1.0):
        if not bridge.alive:
            return 1
    return 0 if bridge.stop() else 1


if __name__ == "__main__":
    sys.exit(main())
