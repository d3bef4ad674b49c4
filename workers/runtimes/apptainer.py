"""Algorithms in containers without an engine, for hosts of a cluster: Apptainer's, which are processes.

Apptainer gives the image, the two folders, namespaces and a program without rights. The limits of time,
memory, processes and files are those of the process runtime: its guard holds them, because limits by control
groups are a thing of the cluster's own scheduler here.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from dynsvc.errors import AlgorithmUnavailable, DynsvcError, EngineUnavailable, SettingsInvalid
from dynsvc.runtime import Run, Seen
from workers.runtimes.container import SEEN
from workers.runtimes.ending import Ending
from workers.runtimes.environment import environment, gpu_variables
from workers.runtimes.guarded import Command
from workers.runtimes.host import HostRuntime
from workers.runtimes.labels import stated
from workers.runtimes.ownership import give_folders
from workers.runtimes.programs import KeptProgram
from workers.runtimes.serving import can_be_kept, language_of
from workers.runtimes.slot import Place

__all__ = ["ApptainerRuntime"]

_PROBE_S = 30.0
#: What Apptainer itself, or what makes its network, prints where it starts no program.
_COMPLAINT = re.compile(r"(FATAL|ERROR|WARNING|INFO)\s*: |unshare: ")


class ApptainerRuntime(HostRuntime):
    """Executes an algorithm as a container of Apptainer.

    A worker that is root runs algorithms as uid 65532; any other worker runs them as itself, in a user
    namespace.

    Parameters
    ----------
    scratch
        As :class:`workers.runtimes.host.HostRuntime` takes it.
    sif_folder
        Where the images are: for ``a/b:1`` the file ``a_b_1.sif``, or the unpacked image ``a_b_1``. By
        default ``sif`` in *scratch*.
    worker_id, host_scratch
        Taken so that all runtimes are made alike; containers end with their worker, and see our own folders.
    """

    name = "apptainer"

    def __init__(
        self,
        *,
        scratch: Path | None = None,
        worker_id: str = "",  # noqa: ARG002
        host_scratch: str | None = None,  # noqa: ARG002
        sif_folder: Path | None = None,
    ) -> None:
        super().__init__(scratch=scratch)
        self._images = sif_folder or (scratch or Path()) / "sif"
        self._digests: dict[tuple[int, ...], str] = {}
        self._labels: dict[str, dict[str, str]] = {}
        self._digesting = threading.Lock()

    def seen(self, input_dir: Path, output_dir: Path) -> Seen:  # noqa: ARG002
        """Return the folders' names inside a container, which are always the same."""
        return SEEN

    def has_image(self, image: str) -> bool:
        """Return whether *image* is in the folder of images."""
        return any(path.exists() for path in self._places_of(image))

    def identity(self, run: Run) -> str | None:
        """Return the digest of the image's file; None for an unpacked one, which may change at any time."""
        executed = self._executed(run)
        return f"image {executed}" if executed.startswith("sha256:") else None

    def check(self) -> str:
        """Return Apptainer's version and what it does not enforce, after a look whether this user may use it.

        Raises
        ------
        SettingsInvalid
            It is not installed (permanent).
        EngineUnavailable
            It, or the host, gives this user no containers (transient).
        """
        version = _said([_apptainer(), "--version"]).split()[-1]
        if os.geteuid():
            _said([*_without_network(), "true"])
        return (
            f"apptainer {version}, {os.cpu_count()} CPUs, images in {self._images}; "
            "a guard holds memory and processes, CPUs and GPUs are only told"
        )

    def ended_by_itself(self, ending: Ending, status: int, last_lines: str) -> DynsvcError | None:
        """Return the error of a program that ended; Apptainer's own where it started none."""
        lines = last_lines.splitlines()
        if status in {1, 255} and lines and all(_COMPLAINT.match(line) for line in lines):
            return EngineUnavailable("apptainer", " ".join(lines)[-500:])
        return super().ended_by_itself(ending, status, last_lines)

    def _executed(self, run: Run) -> str:
        image = self._image(run)
        try:
            return str(image) if image.is_dir() else self._digest(image)
        except OSError as error:
            raise AlgorithmUnavailable(
                run.algorithm, f"image {image} cannot be read: {error.strerror}"
            ) from error

    def _stated(self, run: Run) -> Mapping[str, str]:
        executed = self._executed(run)
        if not executed.startswith("sha256:"):
            return {}
        with self._digesting:
            if executed not in self._labels:
                try:
                    self._labels[executed] = stated(_labels(self._image(run)))
                except EngineUnavailable:  # what is wrong with the file shows at the run
                    return {}
            return self._labels[executed]

    def _command(self, run: Run, executed: str, folder: Path, *, kept: bool) -> Command:  # noqa: ARG002
        user, _, group = give_folders(run).partition(":")
        # Its /tmp, apart from what Apptainer itself may have to unpack.
        tmp = folder / "tmp"
        tmp.mkdir()
        tmp.chmod(0o1777)
        apptainer = _apptainer()
        argv = [apptainer, "--silent", "--nocolor", "exec"]
        # Nothing of the host's file system, processes, variables and rights; its root is read only by itself.
        argv += ["--containall", "--cleanenv", "--no-home", "--no-privs"]
        # What the site has all containers see; and no shell looks at variables.
        argv += ["--no-mount", "tmp,bind-paths,hostfs", "--no-eval"]
        argv += ["--pwd", "/", "--mount", _mount(tmp, "/tmp")]  # noqa: S108  (the container's own)
        argv += ["--mount", _mount(run.input_dir, SEEN.input_dir, "ro")]
        argv += ["--mount", _mount(run.output_dir, SEEN.output_dir)]
        if run.gpu_ids:
            argv.append("--nv")
        if os.geteuid() == 0:
            # In a user namespace root would stay root, who may write to /proc/sys.
            argv += ["--security", f"uid:{user},gid:{group}"]
            argv += [] if run.limits.network else ["--net", "--network", "none"]
        else:
            # Here --network none would be ignored without a word.
            argv = [*([] if run.limits.network else _without_network()), *argv, "--userns"]
        own = {"TMPDIR": "/tmp", **gpu_variables(run)}  # noqa: S108
        if run.gpu_ids:
            own["CUDA_VISIBLE_DEVICES"] = ",".join(run.gpu_ids)
        variables = environment(run, own, ids=not kept)
        # HOME is the one that Apptainer refuses to be told.
        home = variables.get("HOME", "/tmp")  # noqa: S108
        argv += [str(self._image(run)), "env", f"HOME={home}"]
        program = shutil.which(argv[0]) or argv[0]
        ours = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "HOME": str(folder)}
        ours |= {"APPTAINER_TMPDIR": str(folder), "APPTAINER_CACHEDIR": str(folder)}
        # Not as arguments: those are seen by everybody on the host.
        ours |= {f"APPTAINERENV_{name}": text for name, text in variables.items() if name != "HOME"}
        return Command(program, (*argv, *run.argv), ours, tmp)

    def _keeps(self, run: Run) -> bool:
        return can_be_kept(run)

    def _keep(self, run: Run, executed: str, place: Place, ended: Callable[[], bool]) -> KeptProgram:
        language = language_of(run)
        told = self._stated(run)
        return KeptProgram(
            run, self._command, executed, told, place, language=language, ended=ended, slotted=True
        )

    def _image(self, run: Run) -> Path:
        if run.image is None:
            raise AlgorithmUnavailable(
                run.algorithm, "it names no image; it can only run as a program of the host"
            )
        for path in self._places_of(run.image):
            if path.exists():
                return path
        raise AlgorithmUnavailable(
            run.algorithm,
            f"image {run.image} is not on this host; "
            f"apptainer build {next(self._places_of(run.image))} docker://{run.image}",
        )

    def _places_of(self, image: str) -> Iterator[Path]:
        name = re.sub(r"[/:@]", "_", image)
        yield self._images / f"{name}.sif"
        yield self._images / name

    def _digest(self, image: Path) -> str:
        """Return the digest of a file, worked out once for as long as the file stays as it is."""
        found = image.stat()
        key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        with self._digesting:
            if key not in self._digests:
                with image.open("rb") as stream:
                    self._digests[key] = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
            return self._digests[key]


def _apptainer() -> str:
    program = shutil.which("apptainer")
    if program is None:
        expected = "a host that has the program apptainer on PATH of its worker"
        raise SettingsInvalid("DYNSVC_RUNTIME", "apptainer", expected)
    return program


def _without_network() -> list[str]:
    """Return what starts a program, as whoever starts it, in a network of its own without interfaces."""
    return ["unshare", "--user", "--map-current-user", "--net", "--"]


def _mount(source: Path, target: str, *options: str) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(["type=bind", f"source={source}", f"destination={target}", *options])
    return text.getvalue().strip()


def _labels(image: Path) -> object:
    """Return the labels in an image's file, read from its parts: nothing of it is run for that."""
    listed = _said([_apptainer(), "sif", "list", str(image)])
    for number in re.findall(r"^(\d+) .*JSON\.Generic", listed, re.MULTILINE):
        try:
            part = json.loads(_said([_apptainer(), "sif", "dump", number, str(image)]))
            return part["data"]["attributes"]["labels"]
        except (ValueError, KeyError, TypeError):
            continue
    return None


def _said(argv: list[str]) -> str:
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=_PROBE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineUnavailable("apptainer", f"{argv[0]}: {error}") from error
    if done.returncode:
        raise EngineUnavailable("apptainer", done.stderr.strip()[-500:] or f"{argv[0]} failed")
    return done.stdout.strip()
