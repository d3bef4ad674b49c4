"""The tests of ``dynsvc check`` that look at this host: slides, runtime, algorithms, folders."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from dynsvc.algorithms import Catalog
from dynsvc.artifacts import ArtifactStore
from dynsvc.cli.availability import require
from dynsvc.cli.findings import Finding
from dynsvc.errors import DynsvcError, StorageUnavailable
from dynsvc.locator import FileLocator
from dynsvc.runtime_choice import choose
from dynsvc.settings import Settings

__all__ = ["algorithms", "artifacts", "folder", "runtime", "slides"]


def slides(settings: Settings) -> Finding:
    """Look into the folder of mounted slides."""
    if settings.slides is None:
        return Finding("off", "not configured; pixels come from the image server")
    return Finding("ok", FileLocator(settings.slides).check())


def runtime(settings: Settings) -> Finding:
    """Ask the chosen runtime for its state."""
    chosen = choose(settings)
    return Finding("ok", f"{chosen.name}: {chosen.check()}")


def algorithms(settings: Settings) -> Finding:
    """Look whether each algorithm could run here; the default one must."""
    catalog = Catalog.load(settings.algorithms)
    chosen = choose(settings)
    ready: list[str] = []
    missing: dict[str, str] = {}
    for algorithm in catalog:
        try:
            require(algorithm, chosen)
            ready.append(algorithm.name)
        except DynsvcError as error:
            missing[algorithm.name] = str(error)
    # An engine that is away is missing for each algorithm, and is told once.
    problems = list(dict.fromkeys([*map(str, catalog.problems), *missing.values()]))
    text = f"ready: {', '.join(ready) or 'none'}" + "".join(f"; {problem}" for problem in problems)
    default = settings.default_algorithm
    if default not in ("", "none") and default not in catalog.algorithms:
        return Finding(
            "broken",
            f"{text}; the default algorithm {default} does not exist",
            "set DYNSVC_DEFAULT_ALGORITHM",
        )
    if not ready or catalog.problems or default in missing:
        return Finding(
            "broken",
            text,
            "build or pull the image, install the program, mend the descriptor; or DYNSVC_DEFAULT_ALGORITHM",
        )
    return Finding(
        "warning" if missing else "ok", text, "orders for these will fail on this host" if missing else ""
    )


def artifacts(settings: Settings) -> Finding:
    """Write, read and delete a small artifact."""
    store = ArtifactStore(settings.artifacts_uri)
    key = f"check/{secrets.token_hex(8)}"
    with tempfile.TemporaryDirectory(prefix="dynsvc-check-") as folder:
        written = Path(folder, "written")
        written.write_bytes(secrets.token_bytes(1024))
        artifact = store.put(written, key)
        try:
            store.get(artifact, Path(folder, "read"))
        finally:
            store.delete(key)
    hint = "" if settings.artifacts else " (this host's; several hosts need a shared one)"
    return Finding("ok", f"{store.place} can be written, read and emptied{hint}")


def folder(path: Path) -> Finding:
    """Write a file that vanishes at once."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        free = os.statvfs(path)
    except OSError as error:
        raise StorageUnavailable(str(path), error.strerror or str(error)) from error
    return Finding("ok", f"{path} can be written, {free.f_bavail * free.f_frsize / 1e9:.1f} GB free")
