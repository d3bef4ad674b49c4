"""Apptainer's containers: what only this runtime promises, as root and as a user without rights."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynsvc.errors import AlgorithmFailed, AlgorithmUnavailable, EngineUnavailable, SettingsInvalid
from dynsvc.runtime import Limits, Run, RunOutcome
from tests.support.images import BASE_IMAGE, base_image
from tests.support.kept import eventually
from tests.support.services import missing
from tests.support.sif import TINY_LABELS, sif_folder, tiny_sif
from workers.runtimes.apptainer import ApptainerRuntime

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
NOBODY = 65534
MARKER = "98761234"


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[ApptainerRuntime]:
    runtime = ApptainerRuntime(scratch=tmp_path / "scratch", sif_folder=sif_folder())
    yield runtime
    runtime.close()


def made(folder: Path, *argv: str, image: str | None = BASE_IMAGE, **options: Any) -> Run:
    names = ("timeout_s", "memory_mib", "cpus", "pids", "tmp_mib", "gpus", "network")
    given = {"timeout_s": 30.0, "memory_mib": 256, "cpus": 1.0, "pids": 64, "tmp_mib": 16}
    given |= {name: options.pop(name) for name in names if name in options}
    for name in ("input", "output"):
        (folder / name).mkdir(exist_ok=True)
    return Run(
        algorithm="seg",
        version="1",
        image=image,
        argv=argv,
        input_dir=folder / "input",
        output_dir=folder / "output",
        limits=Limits(**given),
        order_id="14",
        attempt="a1",
        **options,
    )


def go(runtime: ApptainerRuntime, run: Run) -> RunOutcome:
    return runtime.run(run, on_line=lambda line: None, ended=lambda: False)


def shell(runtime: ApptainerRuntime, folder: Path, program: str, **options: Any) -> list[str]:
    return go(runtime, made(folder, "sh", "-c", program, **options)).last_lines.splitlines()


#: What an algorithm finds. Each line is printed and compared.
FACTS = """
import os, socket
status = open("/proc/self/status").read().split()
print("rights", *(status[status.index(name) + 1] for name in ("CapEff:", "CapBnd:", "NoNewPrivs:")))
print("root", os.getuid() == 0, os.getgid() == 0, 0 in os.getgroups())
print("interfaces", sorted(name for _, name in socket.if_nameindex() if name not in IDLE))
for host in ("127.0.0.1", ADDRESS):
    try:
        socket.create_connection((host, PORT), 3)
        print("connected", host)
    except OSError as error:
        print("network", "refused" if host == "127.0.0.1" else error.strerror)
for path in ("/x", "/usr/bin/x", "/input/x", "/proc/sys/kernel/domainname", "/sys/x", "/var/tmp/x"):
    try:
        open(path, "w")
        print("written", path)
    except OSError as error:
        pass
print("host", [path for path in (SECRET, FOLDER) if os.path.exists(path)])
print("processes", len([name for name in os.listdir("/proc") if name.isdigit()]))
print("variables", [name for name in os.environ if "SECRET" in name])
print("devices", sorted(set(os.listdir("/dev")) & {"vda", "sda", "kmsg", "mem", "fuse", "nvidia0"}))
"""
#: Interfaces that the kernel makes in every network, and which lead nowhere.
IDLE = {"lo", "ifb0", "ifb1", "sit0", "ip6tnl0", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0"}
FENCED = [
    "rights 0000000000000000 0000000000000000 1",
    "root False False False",
    "interfaces []",
    "network refused",
    "network Network is unreachable",
    "host []",
    "processes 2",
    "variables []",
    "devices []",
]


def facts(port: int, folder: Path, secret: Path) -> str:
    given = {"IDLE": IDLE, "PORT": port, "ADDRESS": "192.0.2.1", "SECRET": str(secret), "FOLDER": str(folder)}
    return "".join(f"{name} = {value!r}\n" for name, value in given.items()) + FACTS


def test_an_algorithm_is_fenced_in(
    runtime: ApptainerRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.touch()
    monkeypatch.setenv("APPTAINERENV_SECRET", "x")
    monkeypatch.setenv("APPTAINER_BIND", f"{secret}:{secret}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = facts(server.getsockname()[1], tmp_path, secret)
        found = go(runtime, made(tmp_path, "python3", "-c", program)).last_lines.splitlines()
    assert found == FENCED


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder of a user who is not root; the test's own is only for root."""
    folder = Path(tempfile.mkdtemp(prefix="dynsvc-nobody-"))
    for name in ("input", "output", "scratch"):
        (folder / name).mkdir()
    if os.geteuid() == 0:
        for path in (folder, *folder.iterdir()):
            os.chown(path, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


AS_WORKER = """
import sys
from pathlib import Path
from dynsvc.errors import DynsvcError
from dynsvc.runtime import Limits, Run
from workers.runtimes.apptainer import ApptainerRuntime
folder, image, program, network = Path(sys.argv[1]), sys.argv[2], sys.argv[3], bool(sys.argv[4])
runtime = ApptainerRuntime(scratch=folder / "scratch", sif_folder=Path(sys.argv[5]))
runtime.check()
limits = Limits(timeout_s=30, memory_mib=256, cpus=1, pids=64, tmp_mib=16, network=network)
run = Run(algorithm="seg", version="1", image=image, argv=("python3", "-c", program), order_id="14",
          input_dir=folder / "input", output_dir=folder / "output", attempt="a1", limits=limits)
try:
    runtime.run(run, on_line=lambda line: print(line, flush=True), ended=lambda: False)
except DynsvcError as error:
    print(type(error).__name__, error)
runtime.close()
"""


def as_nobody(folder: Path, program: str, *, network: bool = False) -> subprocess.Popen[str]:
    """Start a worker of a user without rights that runs *program*."""
    if shutil.which("setpriv") is None:
        missing("setpriv")
    who = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    # So that it may read Python where that lies in root's home. A user namespace takes it away.
    who += ["--inh-caps", "-all,+dac_read_search", "--ambient-caps", "-all,+dac_read_search", "--"]
    packages = f"{ROOT}:{sysconfig.get_path('purelib')}"
    argv = [sys.executable, "-c", AS_WORKER, str(folder), BASE_IMAGE, program, "yes" * network]
    return subprocess.Popen(
        [*(who if os.geteuid() == 0 else []), *argv, str(sif_folder())],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": packages, "SECRET": "x", "APPTAINERENV_SECRET": "x"},
    )


def test_an_algorithm_of_a_worker_without_rights_is_fenced_in(open_folder: Path) -> None:
    """The way of a cluster's users: by user namespaces, without anything of root's."""
    secret = open_folder / "secret"
    secret.touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = facts(server.getsockname()[1], open_folder, secret)
        worker = as_nobody(open_folder, program)
        said = worker.communicate(timeout=60)[0].splitlines()
    assert said == FENCED


def test_a_declared_network_is_the_hosts(open_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5); print('connected')"
        assert as_nobody(open_folder, program, network=True).communicate(timeout=60)[0] == "connected\n"


def test_a_worker_in_a_container_needs_only_what_the_helm_chart_allows(open_folder: Path) -> None:
    """No right, no root, no writable root: only no seccomp profile, and a /proc that nothing is masked in."""
    program = f"import os, socket; print(os.getuid(), {{n for _, n in socket.if_nameindex()}} - {IDLE})"
    libraries = Path("/usr/lib") / f"{platform.machine()}-linux-gnu"
    files = ["/usr/bin/apptainer", "/etc/apptainer", "/var/lib/apptainer", str(libraries / "apptainer")]
    files += [str(libraries / name) for name in ("libseccomp.so.2", "libsqlite3.so.0")]
    mounts = {name: os.path.realpath(name) for name in files}
    mounts |= {"/packages": sysconfig.get_path("purelib"), "/dynsvc": str(ROOT), "/sif": str(sif_folder())}
    command = ["docker", "run", "--rm", "--network", "none", "--read-only", "--user", f"{NOBODY}:{NOBODY}"]
    command += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp"]
    command += ["--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined"]
    command += ["-v", f"{open_folder}:/work", *(f"-v={path}:{name}:ro" for name, path in mounts.items())]
    command += ["-e", "PYTHONPATH=/dynsvc:/packages", "-e", "PYTHONDONTWRITEBYTECODE=1", base_image()]
    done = subprocess.run(
        [*command, "python3", "-c", AS_WORKER, "/work", BASE_IMAGE, program, "", "/sif"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == f"{NOBODY} set()\n", done.stderr


def left(marker: str) -> list[str]:
    """Command lines with the marker that run anywhere."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if marker in command and "pytest" not in command:
            found.append(command)
    return found


def test_nothing_outlives_a_killed_worker(open_folder: Path) -> None:
    seconds = f"99{os.getpid()}"
    program = f"import os; print('up'); os.system('setsid sleep {seconds} & sleep {seconds}')"
    worker = as_nobody(open_folder, program)
    assert worker.stdout
    assert worker.stdout.readline() == "up\n"
    eventually(lambda: [line for line in left(seconds) if line.startswith("sleep")])
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate()
    eventually(lambda: left(seconds) == [])
    eventually(lambda: [path.name for path in (open_folder / "scratch").iterdir()] == [])


def test_gpus_that_were_leased_are_named_to_the_program(runtime: ApptainerRuntime, tmp_path: Path) -> None:
    """What the program is told; there is no real GPU."""
    program = "echo $NVIDIA_VISIBLE_DEVICES $CUDA_VISIBLE_DEVICES"
    assert shell(runtime, tmp_path, program, gpus=2, gpu_ids=("GPU-1", "GPU-2")) == [
        "GPU-1,GPU-2 GPU-1,GPU-2"
    ]
    assert shell(runtime, tmp_path, program) == ["void"]


# What ran, and what cannot run


def test_an_image_that_is_a_file_is_told_by_its_digest(runtime: ApptainerRuntime, tmp_path: Path) -> None:
    run = made(tmp_path, "sh", "-c", "echo hello", image=tiny_sif())
    digest = subprocess.run(
        ["sha256sum", sif_folder() / "tiny_1.sif"], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    outcome = go(runtime, run)
    assert (outcome.last_lines, outcome.executed) == ("hello", f"sha256:{digest}")
    assert outcome.stated == TINY_LABELS
    assert runtime.identity(run) == f"image sha256:{digest}"
    assert runtime.identity(replace(run, image=BASE_IMAGE)) is None
    assert runtime.has_image(tiny_sif())
    assert not runtime.has_image("tiny:2")


def test_the_images_own_variables_are_there_and_do_not_win(runtime: ApptainerRuntime, tmp_path: Path) -> None:
    program = 'echo "$MODEL $OMP_NUM_THREADS $GIVEN $HOME"'
    run = made(tmp_path, "sh", "-c", program, image=tiny_sif(), env={"GIVEN": "a=b, 'c' \"$HOME\" $(id)"})
    assert go(runtime, run).last_lines == "the image's 1 a=b, 'c' \"$HOME\" $(id) /tmp"


def test_a_missing_image_is_named_with_what_to_do(runtime: ApptainerRuntime, tmp_path: Path) -> None:
    with pytest.raises(AlgorithmUnavailable, match=r"apptainer build .*/a_none_9.sif docker://a/none:9"):
        go(runtime, made(tmp_path, "true", image="a/none:9"))
    with pytest.raises(AlgorithmUnavailable, match="names no image"):
        go(runtime, made(tmp_path, "true", image=None))


def test_a_file_that_is_no_image_is_an_error_of_apptainers(tmp_path: Path) -> None:
    (tmp_path / "broken_1.sif").write_text("no image")
    runtime = ApptainerRuntime(scratch=tmp_path / "scratch", sif_folder=tmp_path)
    with pytest.raises(EngineUnavailable, match=r"FATAL: .*broken_1.sif"):
        go(runtime, made(tmp_path, "true", image="broken:1"))
    # A program that says the same after something of its own is a program that failed.
    runtime = ApptainerRuntime(scratch=tmp_path / "scratch", sif_folder=sif_folder())
    with pytest.raises(AlgorithmFailed, match="exit status 255"):
        shell(runtime, tmp_path, "echo reads; echo 'FATAL:   no tile'; exit 255")


def test_a_host_without_apptainer_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "seg_1.sif").touch()
    runtime = ApptainerRuntime(scratch=tmp_path / "scratch", sif_folder=tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for call in (runtime.check, lambda: go(runtime, made(tmp_path, "true", image="seg:1"))):
        with pytest.raises(SettingsInvalid, match="has the program apptainer on PATH"):
            call()


def test_the_check_names_the_version(runtime: ApptainerRuntime) -> None:
    version = subprocess.run(["apptainer", "--version"], capture_output=True, text=True, check=True).stdout
    assert f"apptainer {version.split()[-1]}, " in runtime.check()
