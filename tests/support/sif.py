"""Images of Apptainer, for tests: the engine's images, unpacked."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.images import BASE_IMAGE, base_image, engine
from tests.support.private_engine import programs_with_libraries
from tests.support.services import missing

__all__ = ["TINY_LABELS", "sif_folder", "tiny_sif"]

TINY_LABELS = {"dynsvc.library.numpy": "2.4.6"}


@functools.cache
def sif_folder() -> Path:
    """A folder with an image with Python and a shell."""
    if shutil.which("apptainer") is None:
        missing("apptainer")
    folder = Path(tempfile.mkdtemp(prefix="dynsvc-sif-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    image = folder / BASE_IMAGE.replace(":", "_")
    image.mkdir()
    container = engine().create_container(base_image())["Id"]
    try:
        with subprocess.Popen(["tar", "-x", "-C", image], stdin=subprocess.PIPE) as unpacking:
            assert unpacking.stdin
            for piece in engine().export(container):
                unpacking.stdin.write(piece)
        assert unpacking.returncode == 0
    finally:
        engine().remove_container(container)
    return folder


@functools.cache
def tiny_sif() -> str:
    """The name of an image that is one file, with a shell."""
    folder, tree = sif_folder(), sif_folder() / "tree"
    for path, source in programs_with_libraries(("sh", "env", "cat")).items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tree / path)
    definition = folder / "tiny.def"
    labels = "".join(f"    {name} {version}\n" for name, version in TINY_LABELS.items())
    definition.write_text(f"Bootstrap: localimage\nFrom: {tree}\n%labels\n{labels}")
    subprocess.run(["apptainer", "--silent", "build", folder / "tiny_1.sif", definition], check=True)
    return "tiny:1"
