"""One process as /proc shows it, and a way to signal it that no reuse of its number can lead astray."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import signal
import sys
from contextlib import suppress

from msgspec import Struct

TICKS = os.sysconf("SC_CLK_TCK")  # of a second: the unit of start times in /proc
Channel = int | tuple[int, int]  # a pipe's inode; device and inode of a terminal
MARK = "BGD_RUN"  # the environment variable that names the attempt
UNKNOWN_TICKS = sys.maxsize  # the start time of a process whose /proc/PID/stat does not answer
LEAST_STAMP = 1 << 62  # see bgd.launcher.process

# no descriptor is to be had just now: says nothing of the process that was asked about
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Process(Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """`ticks`: when it started, in ticks since the machine did; with the pid it names a process for ever.

    `stamp`: the stamp of its attempt; None if it has none, or if nobody looked for one.
    """

    pid: int
    parent: int
    group: int
    session: int
    ticks: int
    is_dead: bool  # ended, and its parent has not yet taken notice
    is_stopped: bool = False  # by SIGSTOP or another stop signal
    stamp: int | None = None


def read_process(pid: int) -> Process | None:
    """Return what /proc/PID/stat says, None if there is no such process.

    Some kernels let the reader wait while the process is in the middle of an exec, which can be for ever if a
    file that the exec closes is on a file system that does not answer. So can `channels_of` and `mark_of`.
    """
    stat = contents(f"/proc/{pid}/stat", _MOST_STAT)
    if not stat:
        return None
    # the name stands in parentheses and may hold anything, parentheses too
    fields = stat[stat.rindex(b")") + 2 :].split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        ticks=int(fields[19]),
        # a process whose first thread ended shows Z as well, and lives on in the others
        is_dead=fields[0] in b"ZX" and int(fields[17]) <= 1,
        is_stopped=fields[0] == b"T",
    )


def read_silent(pid: int) -> Process | None:
    """Return what is known of a process whose other files do not answer, None if it is gone.

    /proc/PID/status and /proc/PID/limits never wait for another process.
    """
    lines = contents(f"/proc/{pid}/status", _MOST_STATUS).splitlines()
    fields = {name: value.split() for name, _, value in (line.partition(b":") for line in lines)}
    if b"PPid" not in fields:
        return None
    return Process(
        pid=pid,
        parent=int(fields[b"PPid"][0]),
        group=int(fields.get(b"NSpgid", [b"0"])[0]),
        session=int(fields.get(b"NSsid", [b"0"])[0]),
        ticks=UNKNOWN_TICKS,
        is_dead=fields[b"State"][0] in {b"Z", b"X"},
        is_stopped=fields[b"State"][0] == b"T",
        stamp=stamp_of(pid),
    )


def pids() -> list[int]:
    with os.scandir("/proc") as entries:
        return [int(entry.name) for entry in entries if entry.name.isdecimal()]


def channels_of(pid: int) -> set[Channel]:
    """Return all pipes and terminals the process has open; none where it may not be looked at."""
    found: set[Channel] = set()
    with suppress(*_OUT_OF_SIGHT), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with suppress(*_OUT_OF_SIGHT):  # closed since it was listed
                target = os.readlink(entry.path)  # noqa: PTH115  called too often for a Path
                if target.startswith("pipe:["):
                    found.add(int(target[6:-1]))
                elif target.startswith("/dev/pts/"):
                    # the name alone may be that of another terminal, in a container
                    status = os.stat(entry.path)  # noqa: PTH116  called too often for a Path
                    found.add((status.st_dev, status.st_ino))
    return found


def mark_of(pid: int) -> str | None:
    """Return the mark the process was started with, None without one or where it may not be looked at."""
    environment = b"\0" + contents(f"/proc/{pid}/environ", _MOST_ENVIRONMENT)
    _, found, rest = environment.partition(b"\0" + MARK.encode() + b"=")
    return rest.partition(b"\0")[0][:_MOST_MARK].decode(errors="replace") if found else None


def stamp_of(pid: int) -> int | None:
    """Return the stamp of a process, None if it has none or may not be looked at."""
    _, _, rest = contents(f"/proc/{pid}/limits", _MOST_STAT).partition(b"Max realtime timeout")
    soft = rest.split(maxsplit=1)[:1]
    number = int(soft[0]) if soft and soft[0].isdigit() else 0
    return number if number >= LEAST_STAMP else None


def send(process: Process, *signums: int) -> bool:
    """Signal the process if it is still this one; return whether it was.

    Raises:
        PermissionError: it belongs to somebody else.
        OSError: one of SHORTAGES; nothing was sent.
    """
    pidfd = hold(process)
    if pidfd is None:
        return False
    try:
        for signum in signums:
            signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def hold(process: Process) -> int | None:
    """Return a pidfd, readable once the process has ended; None if it is gone.

    Raises:
        OSError: one of SHORTAGES.
    """
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError as error:
        if error.errno in _NO_PROCESS:
            return None
        raise
    # from here on the number cannot be another's, if it was not yet
    try:
        is_still_there = _is_still_there(process)
    except OSError:
        os.close(pidfd)
        raise
    if not is_still_there:
        os.close(pidfd)
        return None
    return pidfd


def _is_still_there(process: Process) -> bool:
    """Tell whether the number is still this process's, or at least one of the same attempt."""
    if process.stamp is not None:  # no other attempt has it, and this never waits: see `read_process`
        return stamp_of(process.pid) == process.stamp
    if process.ticks == UNKNOWN_TICKS:  # in the middle of an exec, which changes neither
        now = read_silent(process.pid)
        return now is not None and (now.group, now.session) == (process.group, process.session)
    now = read_process(process.pid)
    return now is not None and now.ticks == process.ticks


def contents(path: str, most: int) -> bytes:
    """Return what a file of a process holds, nothing if there is none or it may not be looked at."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except _OUT_OF_SIGHT:
        return b""
    try:
        return os.read(fd, most)  # one such file the kernel gives whole, or as much as there is room for
    except _OUT_OF_SIGHT:
        return b""
    finally:
        os.close(fd)


# what pidfd_open says of a number that is nobody's; on older kernels, of one that is being reaped this very
# moment (EINVAL); and of one that is a thread's by now (EINVAL or ENOENT)
_NO_PROCESS = {errno.ESRCH, errno.EINVAL, errno.ENOENT}

_MOST_STAT = 4096
_MOST_STATUS = 1 << 16  # it lists all groups of its user
_MOST_MARK = 1000  # bytes; bgd's own have some 60
_MOST_ENVIRONMENT = 1 << 20  # the mark is put first, so only a shell that sorts anew moves it this far back


# gone meanwhile, or another user's; after any other error a living process would look gone
_OUT_OF_SIGHT = (FileNotFoundError, ProcessLookupError, PermissionError)


# --- The stamp: a number that all processes of an attempt inherit, whatever they do to be forgotten.


def new_stamp() -> int | None:
    """Return a number that no other attempt of any launcher has; None where this machine takes none."""
    return next(_numbers) if _IS_POSSIBLE else None


def wear(stamp: int | None) -> None:
    """Let every process that is started from now on have this stamp; None: that of this process again."""
    resource.setrlimit(resource.RLIMIT_RTTIME, _OWN if stamp is None else (stamp, _OWN[1]))


_OWN = resource.getrlimit(resource.RLIMIT_RTTIME)
_numbers = itertools.count(
    LEAST_STAMP | int.from_bytes(os.urandom(5), "big") << 20
)  # and so many attempts more


def _is_possible() -> bool:
    try:
        wear(LEAST_STAMP)
        return stamp_of(os.getpid()) == LEAST_STAMP
    except (ValueError, OSError):  # a lower limit was set for this process, or the kernel knows none
        return False
    finally:
        wear(None)


_IS_POSSIBLE = _is_possible()
