"""Images of Apptainer, for tests: the engine's images, unpacked."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.support.images import BASE_IMAGE, base_image, engine
from tests.support.private_engine import programs_with_libraries
from tests.support.services import missing

__all__ = ["TINY_LABELS", "build_sif", "sif_folder", "tiny_sif"]

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
    build_sif(sif_folder() / "tiny_1.sif", {}, {}, TINY_LABELS)
    return "tiny:1"


def build_sif(
    path: Path, programs: Mapping[str, str], files: Mapping[str, bytes], labels: Mapping[str, str]
) -> None:
    """Make an image of this host's own shell, with scripts in ``/bin`` and files in ``/``."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        for name, source in programs_with_libraries(("sh", "env", "cat", "cp", "sleep")).items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, tree / name)
        for name, script in programs.items():
            (tree / "bin" / name).write_text(script)
            (tree / "bin" / name).chmod(0o755)
        for name, content in files.items():
            (tree / name).write_bytes(content)
        definition = Path(folder, "definition")
        lines = "".join(f"    {name} {text}\n" for name, text in labels.items())
        environment = '    export OMP_NUM_THREADS=64 MODEL="the image\'s"\n'
        definition.write_text(
            f"Bootstrap: localimage\nFrom: {tree}\n%labels\n{lines}%environment\n{environment}"
        )
        subprocess.run(["apptainer", "--silent", "build", path, definition], check=True)
