"""One process as /proc shows it, and a way to signal it that is safe against reused pids."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress

from msgspec import Struct

TICKS = os.sysconf("SC_CLK_TCK")  # per second: the unit of start times in /proc
StreamId = int | tuple[int, int]  # a pipe's inode; device and inode of a terminal
MARK = "BGD_RUN"  # the environment variable that names the attempt
UNKNOWN_TICKS = sys.maxsize  # the start time if /proc/PID/stat does not answer
MIN_TAG = 1 << 62  # tags are above any useful limit: see below

# no descriptor is available just now: says nothing about the process
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Process(Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """One process. `ticks` is its start time, in ticks since boot; with the pid it identifies the process.

    `state`: the letter that /proc shows: T if it was stopped by SIGSTOP or another stop signal.
    `tag`: the tag of its attempt; None if it has none, or if it was not read.
    `cpu_ticks`: processor time of it and of the children that it has waited for. `memory`: resident bytes.
    """

    pid: int
    parent: int
    group: int
    session: int
    ticks: int
    is_dead: bool  # a zombie: its parent has not yet reaped it
    state: str
    tag: int | None = None
    cpu_ticks: int = 0
    memory: int = 0


def read_process(pid: int) -> Process | None:
    """Return what /proc/PID/stat says, None if there is no such process.

    Some kernels block the reader while the process is in the middle of an exec. That can be forever if the
    exec closes a file on a file system that does not answer. `open_streams` and `mark_of` can block likewise.
    """
    stat = contents(f"/proc/{pid}/stat", _MAX_STAT)
    if not stat:
        return None
    # the name is in parentheses and may contain anything, even parentheses
    fields = stat[stat.rindex(b")") + 2 :].split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        ticks=int(fields[19]),
        # a process whose first thread has ended shows Z too, while its other threads run on
        is_dead=fields[0] in b"ZX" and int(fields[17]) <= 1,
        state=chr(fields[0][0]),
        cpu_ticks=sum(map(int, fields[11:15])),
        memory=int(fields[21]) * _PAGE,
    )


def name_of(pid: int) -> str:
    """Return the name of a process's program, at most 15 bytes; empty if it is gone. It never blocks."""
    return contents(f"/proc/{pid}/comm", _MAX_NAME).decode(errors="backslashreplace").removesuffix("\n")


def read_silent(pid: int) -> Process | None:
    """Return a process whose other files do not answer, as far as known; None if it is gone.

    /proc/PID/status and /proc/PID/limits never wait for another process.
    """
    lines = contents(f"/proc/{pid}/status", _MAX_STATUS).splitlines()
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
        state=chr(fields[b"State"][0][0]),
        tag=tag_of(pid),
    )


def pids() -> list[int]:
    """Return the pids of all processes."""
    with os.scandir("/proc") as entries:
        return [int(entry.name) for entry in entries if entry.name.isdecimal()]


def open_streams(pid: int) -> set[StreamId]:
    """Return all pipes and terminals that a process has open; nothing if it may not be inspected."""
    found: set[StreamId] = set()
    for path, target in open_files(pid):
        if target.startswith("pipe:["):
            found.add(int(target[6:-1]))
        elif target.startswith("/dev/pts/"):
            with suppress(*_OUT_OF_SIGHT):  # closed since it was listed
                # in a container the name alone may be another terminal's
                status = os.stat(path)  # noqa: PTH116  called too often for a Path
                found.add((status.st_dev, status.st_ino))
    return found


def open_files(pid: int) -> Iterator[tuple[str, str]]:
    """Yield the path in /proc and the target of each file that a process has open, as far as may be seen."""
    with suppress(*_OUT_OF_SIGHT), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with suppress(*_OUT_OF_SIGHT):  # closed since it was listed
                yield entry.path, os.readlink(entry.path)  # noqa: PTH115  called too often for a Path


def mark_of(pid: int) -> str | None:
    """Return the mark that a process was started with; None without one, or if it may not be inspected."""
    environment = b"\0" + contents(f"/proc/{pid}/environ", _MAX_ENVIRONMENT)
    _, found, rest = environment.partition(b"\0" + MARK.encode() + b"=")
    return rest.partition(b"\0")[0][:_MAX_MARK].decode(errors="replace") if found else None


def tag_of(pid: int) -> int | None:
    """Return the tag of a process; None if it has none, or if it may not be inspected."""
    _, _, rest = contents(f"/proc/{pid}/limits", _MAX_STAT).partition(b"Max realtime timeout")
    soft = rest.split(maxsplit=1)[:1]
    number = int(soft[0]) if soft and soft[0].isdigit() else 0
    return number if number >= MIN_TAG else None


def send_signal(process: Process, *signums: int) -> bool:
    """Signal a process if it is still this one; return whether it was.

    Raises:
        PermissionError: it belongs to another user.
        OSError: one of SHORTAGES; nothing was sent.
    """
    pidfd = open_pidfd(process)
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


def open_pidfd(process: Process) -> int | None:
    """Return a pidfd, which is readable once the process has ended; None if the process is gone.

    Raises:
        OSError: one of SHORTAGES.
    """
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError as error:
        if error.errno in _NO_PROCESS:
            return None
        raise
    # from here on the pid cannot become another process's; check that it has not already
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
    """Return whether the pid is still this process's, or at least one of the same attempt."""
    if process.tag is not None:  # no other attempt has the tag, and this never blocks: see `read_process`
        return tag_of(process.pid) == process.tag
    if process.ticks == UNKNOWN_TICKS:  # in the middle of an exec, which changes neither group nor session
        now = read_silent(process.pid)
        return now is not None and (now.group, now.session) == (process.group, process.session)
    now = read_process(process.pid)
    return now is not None and now.ticks == process.ticks


def own_status(field: str) -> str:
    """Return the first word of a field of this process's /proc/PID/status.

    Raises:
        OSError: no descriptor is free.
    """
    _, _, rest = contents("/proc/self/status", _MAX_STATUS).partition(f"\n{field}:".encode())
    return rest.split(maxsplit=1)[0].decode()


def contents(path: str, most: int) -> bytes:
    """Return what a file of a process holds; nothing if it does not exist or may not be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except _OUT_OF_SIGHT:
        return b""
    try:
        return os.read(fd, most)  # one read returns such a file whole, up to `most` bytes
    except _OUT_OF_SIGHT:
        return b""
    finally:
        os.close(fd)


# errors of pidfd_open for an unused pid; on older kernels, for one that is being reaped right now (EINVAL);
# and for one that is now a thread's (EINVAL or ENOENT)
_NO_PROCESS = {errno.ESRCH, errno.EINVAL, errno.ENOENT}

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MAX_STAT = 4096
_MAX_NAME = 64
_MAX_STATUS = 1 << 16  # it lists all groups of the user
_MAX_MARK = 1000  # bytes; bgd's own marks have about 60
# bytes; the mark comes first, so only a shell that sorts variables moves it far back
_MAX_ENVIRONMENT = 1 << 20


# the process is gone, or another user's; any other error must not make a living process look gone
_OUT_OF_SIGHT = (FileNotFoundError, ProcessLookupError, PermissionError)


# --- The tag: a number that all processes of an attempt inherit, in a resource limit that nothing else uses
# (RLIMIT_RTTIME). They keep it even if they leave their session, close all files and clear their environment.


def new_tag() -> int | None:
    """Return a number that no other attempt of any launcher has; None if the machine has no tags."""
    return next(_numbers) if _IS_POSSIBLE else None


def set_tag(tag: int | None) -> None:
    """Set the tag of all processes started from now on; None: the original limit of this process."""
    resource.setrlimit(resource.RLIMIT_RTTIME, _OWN if tag is None else (tag, _OWN[1]))


_OWN = resource.getrlimit(resource.RLIMIT_RTTIME)
# each attempt takes the next number
_numbers = itertools.count(MIN_TAG | int.from_bytes(os.urandom(5), "big") << 20)


def _is_possible() -> bool:
    try:
        set_tag(MIN_TAG)
        return tag_of(os.getpid()) == MIN_TAG
    except (ValueError, OSError):  # this process has a lower hard limit, or the kernel has no such limit
        return False
    finally:
        set_tag(None)


_IS_POSSIBLE = _is_possible()
