"""The real iipsrv behind lighttpd, as processes of this test run, with oss-lite's URLs.

One rewrite rule makes iipsrv answer the URLs that the original service used: ``/data/images/x.svs/…``.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["IMAGES", "Iipsrv", "iipsrv_missing", "running_iipsrv"]

#: Where slides are for the server.
IMAGES = "/data/images"

_PROGRAM = Path("/usr/lib/iipimage-server/iipsrv.fcgi")
_START_S = 10.0
_CONFIGURATION = """
server.modules = ("mod_rewrite", "mod_fastcgi")
server.document-root = "{folder}"
server.bind = "127.0.0.1"
server.port = {port}
server.errorlog = "{folder}/lighttpd.log"
url.rewrite-once = ({hidden}"^{images}/(.*)$" => "/fcgi-bin/iipsrv.fcgi?IIIF={images}/$1")
fastcgi.server = ("/fcgi-bin/iipsrv.fcgi" => ((
    "socket" => "{folder}/iipsrv.sock",
    "bin-path" => "{program}",
    "bin-environment" => ({environment}),
    "max-procs" => 1,
    "disable-time" => 1,
    "check-local" => "disable",
)))
"""


@dataclass(frozen=True)
class Iipsrv:
    """A running server."""

    #: Without a slash at its end; a slide's URL is this and its location.
    url: str
    #: Folder on this host that holds ``/data/images``.
    root: Path

    def location(self, name: str) -> str:
        """Return the location of the slide *name*."""
        return f"{IMAGES}/{name}"


def iipsrv_missing() -> str | None:
    """Return what is not installed, or None."""
    if not _PROGRAM.exists():
        return "iipsrv (Debian: iipimage-server)"
    return None if _lighttpd() else "lighttpd"


@contextmanager
def running_iipsrv(
    folder: Path, slides: dict[str, Path], *, hides_information: bool = False, **environment: str
) -> Iterator[Iipsrv]:
    """Run a server for *slides*, name to file, with its files in *folder*; *environment* is for iipsrv.

    With *hides_information*, info.json is not found, as at a proxy that lets pictures through only.

    The path of *folder* must be short: a Unix socket is made in it.
    """
    images = folder / "root" / IMAGES.strip("/")
    images.mkdir(parents=True)
    for name, path in slides.items():
        shutil.copyfile(path, images / name)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {
        "FILESYSTEM_PREFIX": str(folder / "root"),
        "LOGFILE": str(folder / "iipsrv.log"),
        "JPEG_QUALITY": "95",
        **environment,
    }
    configuration = folder / "lighttpd.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            folder=folder,
            port=port,
            images=IMAGES,
            hidden='"/info.json$" => "/nothing", ' if hides_information else "",
            program=_PROGRAM,
            environment=", ".join(f'"{name}" => "{value}"' for name, value in environment.items()),
        )
    )
    process = subprocess.Popen(
        [_lighttpd() or "lighttpd", "-D", "-f", str(configuration)], stdin=subprocess.DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _await(process, f"{url}{IMAGES}/{next(iter(slides))}/0,0,9,9/full/0/default.jpg", folder)
        yield Iipsrv(url=url, root=folder / "root")
    finally:
        # lighttpd ends the iipsrv processes that it started.
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)


def _lighttpd() -> str | None:
    # Debian keeps it in a folder that is not on everybody's PATH.
    return shutil.which("lighttpd") or shutil.which("lighttpd", path="/usr/sbin:/usr/local/sbin")


def _await(process: subprocess.Popen[bytes], url: str, folder: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                log = folder / "lighttpd.log"
                raise RuntimeError(
                    f"iipsrv does not answer ({error}); {log.read_text() if log.exists() else 'no log'}"
                ) from error
        time.sleep(0.05)
