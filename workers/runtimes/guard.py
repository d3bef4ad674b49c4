"""Watches over programs: forked by a helper of the worker (:mod:`workers.runtimes.nursery`).

A guard serves one run after the other, for as long as the worker lives. It is the program's parent and the
new parent of everything the program leaves behind, so it can end all of it; and it holds a socket to the
worker, so it notices when the worker is gone, even by SIGKILL. It enforces the limits itself, so they hold
while the worker is stopped. Only the standard library's quick parts are imported: the helper stays small, and
so does each guard.

The helper's standard input is a socket. Each message is a number, the largest size of a file in bytes, and
brings a guard's end of a socket; it is answered with the guard's process id. The helper ends with the worker;
guards end with their sockets.

What a guard is told: an order, with the program's standard output, or with its standard output, error and
input. Each line that comes while the program runs sets a new time limit, in seconds from then; ``inf`` for a
program that waits for work. The socket's end means that the worker wants the program gone. A guard's reports:
``started <pid>`` or ``failed <errno>``, ``ended <status> <reason> <seconds>``. After that it takes the next
order, unless something of the last cannot be ended: then it takes nothing more.
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
    from collections.abc import Callable, Sequence

__all__ = ["QUICK_SUM", "descendants", "framed", "kib"]

_PR_SET_CHILD_SUBREAPER = 36
_RLIMIT_FSIZE, _RLIMIT_CORE = 1, 4
_SIGKILL, _SIGPIPE, _SIGSTOP, _SIGXFSZ = 9, 13, 19, 25
#: Memory of processes by their ``status``; pages that several share are counted for each.
QUICK_SUM = (b"RssAnon:", b"RssShmem:")
_EXACT_SUM = (b"Pss_Anon:", b"Pss_Shmem:")
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
_READ_BYTES = 1 << 16
#: An order begins with its length.
_LENGTH_BYTES = 8
#: A program can grow by a few hundred MB within one look.
_LOOK_S = 0.05
#: One that waits for work does not grow.
_LOOK_IDLE_S = 1.0
#: Where the kernel cannot report the end of a process through a file descriptor.
_LOOK_WITHOUT_PIDFD_S = 0.01
_KILL_S = 10.0
_NEVER = float("inf")


def framed(order: dict[str, object]) -> bytes:
    """Return *order* as a guard reads it."""
    data = marshal.dumps(order)
    return len(data).to_bytes(_LENGTH_BYTES, "little") + data


def _main() -> None:
    """Fork a guard for each message, until the worker is gone."""
    libc = ctypes.CDLL(None)
    # Guards are taken off the kernel's list as they end; an interrupted receive goes on by itself.
    signal.signal(signal.SIGCHLD, lambda *_: _reap(None))
    line = socket.socket(fileno=os.dup(0))
    os.close(0)
    os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free, so 0: what programs read
    os.set_inheritable(0, True)
    while True:
        message, fds = _received(line, 32, 1)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            line.close()
            try:
                _guard(libc, socket.socket(fileno=fds[0]), int(message))
            finally:
                os._exit(0)
        os.close(fds[0])
        line.send(str(pid).encode())


def _guard(libc: ctypes.CDLL, line: socket.socket, file_bytes: int) -> None:
    """Serve until nobody is there to send orders."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number, most in ((_RLIMIT_CORE, 0), (_RLIMIT_FSIZE, file_bytes)):
        libc.setrlimit(number, (ctypes.c_ulong * 2)(most, most))
    score = _Score()
    try:
        while received := _receive(line):
            _serve(line, score, *received)
    except ConnectionError:  # the worker is gone
        return


def _receive(line: socket.socket) -> tuple[dict[str, object], list[int]] | None:
    """Return the next order and the files of its program; None at the end."""
    data, fds = _received(line, _READ_BYTES, 3)
    more = data
    while more and len(data) < _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little"):
        more = line.recv(_READ_BYTES)
        data += more
    return (marshal.loads(data[_LENGTH_BYTES:]), fds) if more else None  # noqa: S302  (our own worker's)


def _received(line: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """Return data and files that came with it. ``socket.recv_fds`` would let every program have them."""
    data, notes, _, _ = line.recvmsg(size, socket.CMSG_SPACE(4 * most), socket.MSG_CMSG_CLOEXEC)
    return data, [fd for _, _, note in notes for fd in memoryview(note).cast("i")]


def _serve(line: socket.socket, score: _Score, order: dict[str, object], fds: list[int]) -> None:
    folder: str = order["scratch"]  # type: ignore[assignment]
    os.chdir(folder)
    try:
        emptied, report = _guarded(line, score, order, fds)
        os.chdir("/")
        if not emptied:
            line.shutdown(socket.SHUT_RD)
        line.send(report.encode())
    except ConnectionError:
        # The worker is gone and nobody else knows the folder.
        import shutil  # noqa: PLC0415  (slow, and hardly ever needed)

        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _guarded(
    line: socket.socket, score: _Score, order: dict[str, object], fds: list[int]
) -> tuple[bool, str]:
    """Return whether nothing of the program is left, and the last report."""
    begin = time.monotonic()
    try:
        program = _start(order, fds, score)
    except OSError as error:
        return True, f"failed {error.errno}\n"
    finally:
        for fd in fds:  # else the worker never sees the end of the output, or that nobody reads the input
            os.close(fd)
    reason, status, emptied = "itself", 0, False
    try:
        line.send(f"started {program}\n".encode())
        reason, status = _watch(program, order, begin, line)
    finally:
        duration_s = time.monotonic() - begin
        emptied = _end_all(program)
    return emptied, f"ended {status} {reason} {duration_s:.3f}\n"


class _Score:
    """How likely the kernel takes this process, and what it starts, where memory runs out."""

    def __init__(self) -> None:
        try:
            self._fd = os.open("/proc/self/oom_score_adj", os.O_RDWR)
            self._own = os.read(self._fd, 16)
        except OSError:
            self._fd, self._own = -1, b"0"

    def __enter__(self) -> None:
        self._write(b"900")

    def __exit__(self, *exc_info: object) -> None:
        self._write(self._own)

    def _write(self, score: bytes) -> None:
        try:
            os.pwrite(self._fd, score, 0)
        except OSError:
            return


def _start(order: dict[str, object], fds: Sequence[int], score: _Score) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, fds[0], 1), (os.POSIX_SPAWN_DUP2, fds[0], 2)]
    if len(fds) == 3:
        actions = [(os.POSIX_SPAWN_DUP2, fd, to) for fd, to in zip(fds, (1, 2, 0), strict=True)]
    # If the host runs out of memory, the kernel shall take the algorithm, not the worker or this process.
    with score:
        return os.posix_spawn(
            order["program"],  # type: ignore[arg-type]
            order["argv"],  # type: ignore[arg-type]
            order["env"],  # type: ignore[arg-type]
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=(_SIGPIPE, _SIGXFSZ),
        )


def _watch(program: int, order: dict[str, object], begin: float, line: socket.socket) -> tuple[str, int]:
    """Wait for the program's end or a reason to end it; return the reason and its status."""
    most, limit_kib = int(order["pids"]), int(order["memory_kib"])  # type: ignore[call-overload]
    deadline = begin + float(order["timeout_s"])  # type: ignore[arg-type]
    poll = select.poll()
    poll.register(line, select.POLLIN)
    busy_s, idle_s = _LOOK_S, _LOOK_IDLE_S
    pidfd = -1
    try:
        pidfd = os.pidfd_open(program)
        poll.register(pidfd, select.POLLIN)
    except OSError:
        busy_s = idle_s = _LOOK_WITHOUT_PIDFD_S
    try:
        while True:
            ready = poll.poll((busy_s if deadline < _NEVER else idle_s) * 1000)
            if (status := _reap(program)) is not None:
                return "itself", os.waitstatus_to_exitcode(status)
            if any(fd != pidfd for fd, _ in ready):
                limits = _said(line)
                if not limits:
                    return "owner", 0
                deadline = time.monotonic() + float(limits[-1])
            if time.monotonic() >= deadline:
                return "time", 0
            family = descendants(os.getpid())
            if len(family) > most:
                return "processes", 0
            if _resident_kib(family) <= limit_kib:
                continue
            # Pages that processes share are counted for each in the quick sum, so the exact one decides.
            quick = kib(family, "status", QUICK_SUM)
            if quick > limit_kib and (kib(family, "smaps_rollup", _EXACT_SUM) or quick) > limit_kib:
                return "memory", 0
    finally:
        if pidfd >= 0:
            os.close(pidfd)


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


def _said(line: socket.socket) -> list[bytes]:
    try:
        return line.recv(4096).split()
    except ConnectionError:  # gone, with a report unread
        return []


def _end_all(program: int) -> bool:
    """Kill until no descendant is left; return whether that is so.

    All of them are stopped first, so that none can start another.
    """
    if _childless():
        return True
    _kill(program, _SIGKILL, os.killpg)
    deadline = time.monotonic() + _KILL_S
    while time.monotonic() < deadline:
        family = descendants(os.getpid())
        for number in (_SIGSTOP, _SIGKILL):
            for pid in family:
                _kill(pid, number, os.kill)
        _reap(None)
        if _childless():
            return True
        time.sleep(0.002)
    return False


def _childless() -> bool:
    """Return whether this process has no child, and so no descendant: it is the parent of all orphans."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


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
        for task in _tasks(parent):
            children = [int(pid) for pid in _read(f"/proc/{parent}/task/{task}/children").split()]
            found += children
            parents += children
    return found


def _tasks(pid: int) -> Sequence[str | int]:
    """Return the ids of a process's threads."""
    folder = f"/proc/{pid}/task"
    try:
        # It has a link for each thread, beside its own two. One thread has the process's own number.
        return (pid,) if os.stat(folder).st_nlink == 3 else os.listdir(folder)  # noqa: PTH116, PTH208
    except OSError:
        return ()


def kib(family: Sequence[int], file: str, names: tuple[bytes, ...]) -> int:
    """Return the sum of the named lines of /proc/<pid>/<file> over all processes, in KiB."""
    total = 0
    for pid in family:
        for line in _read(f"/proc/{pid}/{file}").splitlines():
            if line.startswith(names):
                total += int(line.split()[1])
    return total


def _resident_kib(family: Sequence[int]) -> int:
    """Return at least what the processes use, in KiB: pages of files count too. It is read in no time."""
    pages = [_read(f"/proc/{pid}/statm").split() for pid in family]
    return _PAGE_KIB * sum(int(each[1]) for each in pages if each)


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    data = b""
    try:
        while piece := os.read(fd, _READ_BYTES):
            data += piece
    except OSError:  # the process has ended
        pass
    finally:
        os.close(fd)
    return data


if __name__ == "__main__":
    _main()
