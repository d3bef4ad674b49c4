"""Environments of programs that dynsvc is compared with; theirs are apart from ours."""

from __future__ import annotations

import json
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

__all__ = ["installed", "versions"]


def installed(folder: Path, packages: Sequence[str], *, alone: Sequence[str] = ()) -> Path:
    """Make an environment in *folder*, with *alone* without what they ask for; return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--prefer-binary"]
    subprocess.run([*pip, *packages], check=True)
    if alone:
        subprocess.run([*pip, "--no-deps", *alone], check=True)
    return python


def versions(python: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the installed versions."""
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names!r}}}))"
    found: dict[str, str] = json.loads(subprocess.check_output([str(python), "-c", code], text=True))
    return found
