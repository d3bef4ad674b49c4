"""Watches over one program: forked for each run by a helper of the worker (:mod:`workers.runtimes.nursery`).

It is the program's parent and the new parent of everything the program leaves behind, so it can end all of
it; and it holds a pipe to the worker, so it notices when the worker is gone, even by SIGKILL. It enforces the
limits itself, so they hold while the worker is stopped. Only the standard library's quick parts are imported:
the helper stays small, and so does each guard.

The helper's standard input is a socket. Each message brings a guard's standard input, output and error, the
pipe for its reports and, where the program has one, the program's standard input; it is answered with the
guard's process id. The helper ends with the worker; guards do not.

A guard's standard input: one marshalled dictionary, then open until the worker wants the program gone. Each
line that comes there later sets a new time limit, in seconds from then; ``inf`` for a program that waits for
work. Its reports: ``started <pid>`` or ``failed <errno>``, ``ended <status> <reason> <seconds>``.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import select
import signal
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["QUICK_SUM", "descendants", "kib"]

_PR_SET_CHILD_SUBREAPER = 36
_RLIMIT_FSIZE, _RLIMIT_CORE = 1, 4
_SIGKILL, _SIGPIPE, _SIGSTOP, _SIGXFSZ = 9, 13, 19, 25
#: Memory of processes by their ``status``; pages that several share are counted for each.
QUICK_SUM = ("RssAnon:", "RssShmem:")
#: A program can grow by a few hundred MB within one look.
_LOOK_S = 0.05
#: One that waits for work does not grow.
_LOOK_IDLE_S = 1.0
#: Where the kernel cannot report the end of a process through a file descriptor.
_LOOK_WITHOUT_PIDFD_S = 0.01
_KILL_S = 10.0
_NEVER = float("inf")


def _main() -> None:
    """Fork a guard for each message, until the worker is gone."""
    libc = ctypes.CDLL(None)
    # Guards are taken off the kernel's list as they end; an interrupted receive goes on by itself.
    signal.signal(signal.SIGCHLD, lambda *_: _reap(None))
    line = socket.socket(fileno=os.dup(0))
    while True:
        message, fds, _, _ = socket.recv_fds(line, 1, 5)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            line.close()
            try:
                _guard(libc, fds)
            finally:
                os._exit(0)
        for fd in fds:
            os.close(fd)
        line.send(str(pid).encode())


def _guard(libc: ctypes.CDLL, fds: list[int]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    pipe, stdin = fds[3], fds[4] if len(fds) > 4 else None
    for fd in fds[3:]:
        os.set_inheritable(fd, False)
    for fd, given in enumerate(fds[:3]):
        os.dup2(given, fd)
    for given in set(fds[:3]):
        os.close(given)
    with open(0, "rb", closefd=False) as stream:
        order = marshal.load(stream)  # noqa: S302  (written by our own worker)
    order["stdin"] = stdin
    os.chdir(order["scratch"])
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number, most in ((_RLIMIT_CORE, 0), (_RLIMIT_FSIZE, order["file_bytes"])):
        libc.setrlimit(number, (ctypes.c_ulong * 2)(most, most))
    try:
        program = _start(order)
    except OSError as error:
        os.write(pipe, f"failed {error.errno}\n".encode())
        return
    begin = time.monotonic()
    if order["stdin"] is not None:  # else the worker never sees that nobody reads it
        os.close(order["stdin"])
    for fd in (1, 2):  # else the worker never sees the end of the output
        os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
    reason, status = "itself", 0
    try:
        os.write(pipe, f"started {program}\n".encode())
        reason, status = _watch(program, order, begin)
    finally:
        duration_s = time.monotonic() - begin
        _end_all(program)
    try:
        os.write(pipe, f"ended {status} {reason} {duration_s:.3f}\n".encode())
    except BrokenPipeError:
        # The worker is gone and nobody else knows the folder.
        import shutil  # noqa: PLC0415  (slow, and hardly ever needed)

        os.chdir("/")
        shutil.rmtree(order["scratch"], ignore_errors=True)


def _start(order: dict[str, object]) -> int:
    own_score = _read("/proc/self/oom_score_adj")
    stdin = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    if order["stdin"] is not None:
        stdin = (os.POSIX_SPAWN_DUP2, order["stdin"], 0)  # type: ignore[assignment]
    # If the host runs out of memory, the kernel shall take the algorithm, not the worker or this process.
    _write("/proc/self/oom_score_adj", "900")
    try:
        return os.posix_spawn(
            order["program"],  # type: ignore[arg-type]
            order["argv"],  # type: ignore[arg-type]
            order["env"],  # type: ignore[arg-type]
            file_actions=[stdin],
            setsid=True,
            setsigmask=(),
            setsigdef=(_SIGPIPE, _SIGXFSZ),
        )
    finally:
        _write("/proc/self/oom_score_adj", own_score or "0")


def _watch(program: int, order: dict[str, object], begin: float) -> tuple[str, int]:
    """Wait for the program's end or a reason to end it; return the reason and its status."""
    deadline = begin + float(order["timeout_s"])  # type: ignore[arg-type]
    poll = select.poll()
    poll.register(0, select.POLLIN)
    busy_s, idle_s = _LOOK_S, _LOOK_IDLE_S
    try:
        pidfd = os.pidfd_open(program)
        poll.register(pidfd, select.POLLIN)
    except OSError:
        busy_s = idle_s = _LOOK_WITHOUT_PIDFD_S
    while True:
        ready = poll.poll((busy_s if deadline < _NEVER else idle_s) * 1000)
        if (status := _reap(program)) is not None:
            return "itself", os.waitstatus_to_exitcode(status)
        if any(fd == 0 for fd, _ in ready):
            lines = os.read(0, 4096).split()
            if not lines:
                return "owner", 0
            deadline = time.monotonic() + float(lines[-1])
        if time.monotonic() >= deadline:
            return "time", 0
        family = descendants(os.getpid())
        if len(family) > int(order["pids"]):  # type: ignore[call-overload]
            return "processes", 0
        limit_kib = int(order["memory_kib"])  # type: ignore[call-overload]
        # Pages that processes share are counted for each in the quick sum, so the exact one decides.
        quick = kib(family, "status", QUICK_SUM)
        if (
            quick > limit_kib
            and (kib(family, "smaps_rollup", ("Pss_Anon:", "Pss_Shmem:")) or quick) > limit_kib
        ):
            return "memory", 0


def _reap(program: int | None) -> int | None:
    """Take the status of every child that has ended; return *program*'s if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == program:
            found = status


def _end_all(program: int) -> None:
    """Kill until no descendant is left. All of them are stopped first, so that none can start another."""
    _kill(program, _SIGKILL, os.killpg)
    deadline = time.monotonic() + _KILL_S
    while time.monotonic() < deadline:
        family = descendants(os.getpid())
        for number in (_SIGSTOP, _SIGKILL):
            for pid in family:
                _kill(pid, number, os.kill)
        _reap(None)
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        time.sleep(0.002)


def _kill(pid: int, signal: int, how: Callable[[int, int], None]) -> None:
    try:
        how(pid, signal)
    except (ProcessLookupError, PermissionError):
        return


def descendants(ancestor: int) -> list[int]:
    """Return the ids of all processes below one."""
    found: list[int] = []
    parents = [ancestor]
    while parents:
        parent = parents.pop()
        try:
            tasks = os.listdir(f"/proc/{parent}/task")  # noqa: PTH208
        except OSError:
            continue
        for task in tasks:
            children = [int(pid) for pid in _read(f"/proc/{parent}/task/{task}/children").split()]
            found += children
            parents += children
    return found


def kib(family: list[int], file: str, names: tuple[str, ...]) -> int:
    """Return the sum of the named lines of /proc/<pid>/<file> over all processes, in KiB."""
    total = 0
    for pid in family:
        for line in _read(f"/proc/{pid}/{file}").splitlines():
            if line.startswith(names):
                total += int(line.split()[1])
    return total


def _read(path: str) -> str:
    try:
        with open(path) as stream:  # noqa: PTH123  (pathlib would double the start-up time)
            return stream.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w") as stream:  # noqa: PTH123
            stream.write(text)
    except OSError:
        return


if __name__ == "__main__":
    _main()
