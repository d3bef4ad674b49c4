"""The folder of a new algorithm: descriptor, image, program and test, ready to run.

The files of the template lie beside this module; ``$name`` in them is the algorithm's name.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

from dynsvc.errors import SettingsInvalid, StorageUnavailable

__all__ = ["write_template"]

#: File of the template: its name in the new folder.
_FILES: Final = {
    "algorithm.toml": "algorithm.toml",
    "Dockerfile": "Dockerfile",
    "README.md": "README.md",
    "program.py": "$name.py",
    "test_program.py": "test_$module.py",
}
_EXECUTABLE: Final = 0o755


def write_template(name: str, folder: Path) -> Path:
    """Write the folder *name* below *folder*, complete or not at all, and return it.

    Parameters
    ----------
    name
        Of the algorithm, as a descriptor allows it.
    folder
        Made where it is missing.

    Raises
    ------
    SettingsInvalid
        There is such a folder (permanent).
    StorageUnavailable
        It cannot be written (transient).
    """
    target = folder / name
    words = {"name": name, "module": "".join(c if c.isalnum() else "_" for c in name)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder))
        try:
            for source, named in _FILES.items():
                text = files(__name__).joinpath(f"{source}.template").read_text(encoding="utf-8")
                path = part / Template(named).substitute(words)
                path.write_text(Template(text).substitute(words), encoding="utf-8")
                if source == "program.py":
                    path.chmod(_EXECUTABLE)
            part.chmod(_EXECUTABLE)
            if target.exists():
                raise SettingsInvalid("NAME", f"{target} (it exists)", "the name of a new folder")
            os.rename(part, target)  # noqa: PTH104 - onto an empty folder it would succeed, hence the check
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise StorageUnavailable(str(error.filename or target), error.strerror or str(error)) from error
    return target
