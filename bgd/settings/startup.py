"""What daemon and launcher need of the system: calls, limits, descriptors, signals, their log."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import gc
import logging
import os
import resource
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from msgspec import Struct

from bgd.errors import BgdError
from bgd.settings.paths import AUTOSTART_LOG
from bgd.system.clock import elapsed
from bgd.text.units import format_size

if TYPE_CHECKING:
    import asyncio


def check_system_calls() -> None:
    """Try the system calls that are needed to stop a job and to see its end.

    Raises:
        BgdError: the kernel is too old or a seccomp filter refuses; the message names the call.
    """
    call = "pidfd_open"
    try:
        pidfd = os.pidfd_open(os.getpid())
        try:
            call = "pidfd_send_signal"
            signal.pidfd_send_signal(pidfd, 0)
        finally:
            os.close(pidfd)
        call = "waitid"
        with suppress(ChildProcessError):  # this process is not its own child
            os.waitid(os.P_PID, os.getpid(), os.WEXITED | os.WNOHANG | os.WNOWAIT)
        call = "prctl"
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(ctypes.c_int()), 0, 0, 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))  # noqa: TRY301  like the others
    except OSError as error:
        raise BgdError(
            f"the system call {call} fails ({error.strerror}), and bgd cannot watch or stop jobs without it:"
            f" it needs Linux {OLDEST_LINUX} or newer, and a seccomp filter that allows this call"
        ) from error


OLDEST_LINUX = "5.3"  # the first with pidfd_open(2)
_PR_GET_CHILD_SUBREAPER = 37  # linux/prctl.h


# --- Resource limits of bgd's own processes, set by `ulimit` or by a unit


class RequiredLimit(Struct, frozen=True):
    """The least value of a resource limit that a process of bgd can work with.

    `names` are the limit's names in the shell and in systemd.
    """

    limit: int
    needed: int
    what: str
    names: tuple[str, str]
    is_size: bool = True


# The launcher has 17 open and keeps 32 in reserve (bgd.launcher.output); a command takes 3, a class job 5:
# below 52 it starts nothing. bgd has 31 open, without clients. The ballast has 8 MiB; logs and database grow.
_FILE_LIMITS = (
    RequiredLimit(resource.RLIMIT_NOFILE, 64, "open files", ("ulimit -n", "LimitNOFILE="), is_size=False),
    RequiredLimit(resource.RLIMIT_FSIZE, 64_000_000, "size of a file", ("ulimit -f", "LimitFSIZE=")),
)
# Twelve threads, each with a stack and a malloc arena: 920 MB of addresses, of which 750 MB are enough
_MEMORY_LIMITS = (
    RequiredLimit(resource.RLIMIT_AS, 1_000_000_000, "address space", ("ulimit -v", "LimitAS=")),
    RequiredLimit(resource.RLIMIT_DATA, 400_000_000, "data of a process", ("ulimit -d", "LimitDATA=")),
)
DAEMON_LIMITS = _FILE_LIMITS + _MEMORY_LIMITS
LAUNCHER_LIMITS = _FILE_LIMITS  # it has one thread, with Slurm two; limits on memory may be meant for jobs


def check_limits(required: Iterable[RequiredLimit]) -> None:
    """Check that no resource limit lets bgd start and then fail.

    Raises:
        BgdError: a limit is too small; the message names it, its value and the value that is needed.
    """
    for each in required:
        soft, hard = resource.getrlimit(each.limit)
        if soft == resource.RLIM_INFINITY or soft >= each.needed:
            continue
        shell, unit = each.names
        value, needed, maximum = (_format_limit(each, number) for number in (soft, each.needed, hard))
        raise BgdError(
            f"the limit on {each.what} is {value} ({shell}; {unit} in a unit), and bgd needs {needed} or"
            f" more: raise it before bgd starts (hard limit: {maximum})"
        )


def _format_limit(limit: RequiredLimit, number: int) -> str:
    if number == resource.RLIM_INFINITY:
        return "unlimited"
    return format_size(number) if limit.is_size else str(number)


def file_size_limit() -> int | None:
    """Return the size in bytes that a file may have, or None if there is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if soft == resource.RLIM_INFINITY else soft


# --- Open descriptors: how many a process has, what they are, and what to do when none is left


def open_descriptors(pid: int) -> tuple[int, int, str]:
    """Return how many descriptors a process has, the limit, and what most of them are.

    Raises:
        OSError: the process is gone, or belongs to another user.
    """
    folder = Path(f"/proc/{pid}/fd")
    try:
        links = list(folder.iterdir())
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        links = [folder / str(number) for number in range(_LISTED)]
    kinds: Counter[str] = Counter()
    for link in links:
        with suppress(FileNotFoundError):  # closed meanwhile
            kinds[_kind_of(str(link.readlink()))] += 1
    limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
    return kinds.total(), limit, ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(_KINDS))


def described(error: Exception) -> str:
    """Return what an error says; if this process can open nothing more, say what holds its descriptors.

    Those that only the garbage collector would close are closed first, so that the next try may succeed.
    """
    global _collected_at  # noqa: PLW0603  a process has one table of descriptors
    if not (isinstance(error, OSError) and error.errno == errno.EMFILE):
        return str(error)
    is_due = elapsed() - _collected_at >= _COLLECTIONS_APART
    if is_due:
        _collected_at = elapsed()
        gc.collect()
    count, limit, kinds = open_descriptors(os.getpid())
    words = f"too many files are open: {count} of at most {limit}, mostly {kinds}"
    if is_due:
        logging.getLogger(__name__).warning("%s", words)
    return words


def _kind_of(target: str) -> str:
    """Return the kind of a descriptor in the plural, from what /proc says it refers to."""
    if target.startswith("/memfd:"):
        return f"files in memory ({target.removeprefix('/memfd:').partition(' ')[0]})"
    if target.startswith("/"):
        return "files"
    return f"{target.removeprefix('anon_inode:').partition(':')[0].strip('[]')}s"


_KINDS = 3  # named at most
_LISTED = 4096  # numbers that are looked at if the folder cannot be listed: then the lowest are all in use
_COLLECTIONS_APART = 10.0  # seconds: a shortage must not keep the process busy
_collected_at = -_COLLECTIONS_APART


# --- Signals


def call_in_loop(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object) -> None:
    """Call back in an event loop, from a signal handler. Do nothing if the loop is closed, at the exit."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback, *args)


def ignore_stray_signals(report: Callable[[str], object]) -> None:
    """Ignore every signal that would end the process for no reason, and report each one once by name.

    `report` is called between two instructions of whatever runs, so it may only hand the name on.
    """
    reported: set[int] = set()

    def ignore(signum: int, _: object) -> None:
        if signum not in reported:
            reported.add(signum)
            report(_signal_name(signum))

    for signum in signal.valid_signals() - _MEANINGFUL:
        signal.signal(signum, ignore)  # a handler: every job would inherit SIG_IGN


# Each of these ends, reloads, stops or crashes a process, or says that a child has ended
_MEANINGFUL = {
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGKILL),
    *(signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT),
    *(signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS),
    *(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGWINCH, signal.SIGURG),  # Python ignores the first two
}


def _signal_name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:  # a real-time signal between the first and the last
        return f"signal {signum}"


# --- The log


class LogHandler(logging.StreamHandler[TextIO]):
    """Writes messages to stderr. If that is the log of a daemon that a client started, limit its size.

    systemd and containers limit what they keep; nothing else limits this file.
    """

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        try:
            shorten_log(2)
        except OSError:
            self.handleError(record)


MAX_LOG = 10_000_000  # bytes
KEPT_LOG = MAX_LOG // 2


def shorten_log(fd: int) -> None:
    """If a file is named AUTOSTART_LOG and is longer than MAX_LOG, delete its beginning.

    Daemon and launcher append to one file. A line that one writes while the other shortens it may be lost.
    """
    path = Path(f"/proc/self/fd/{fd}")
    if os.fstat(fd).st_size <= MAX_LOG or path.readlink().name != AUTOSTART_LOG:
        return
    with path.open("r+b", buffering=0) as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        if (size := os.fstat(fd).st_size) > MAX_LOG:  # the other one has not shortened it meanwhile
            kept = os.pread(log.fileno(), KEPT_LOG, size - KEPT_LOG)
            log.truncate(0)
            os.write(fd, kept.partition(b"\n")[2])  # it appends, like all others
