"""Lock and socket: there is one launcher of a state folder, and one place to meet it (R6)."""

from __future__ import annotations

import fcntl
import os
import select
import socket
from contextlib import suppress
from pathlib import Path

from bgd.clock import boot_id
from bgd.launcher.journal import boot_of
from bgd.launcher.process import hold, read_process
from bgd.launcher.records import Instance
from bgd.places import cannot_lock


class Busy(Exception):
    """Another launcher is at work; the message names it."""


def take_lock(state: Path) -> int:
    """Return a descriptor that holds the folder's lock for as long as it is open anywhere.

    Raises:
        Busy: somebody else holds it.
        OSError: the lock file cannot be opened.
        ConfigError: its file system has no locks.
    """
    path = state / _LOCK
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
        os.close(fd)
        who = f"process {holder}" if holder else "another process"
        raise Busy(f"a launcher is running already: {who} holds {path}") from error
    except OSError as error:
        os.close(fd)
        raise cannot_lock(path, error) from error
    return fd


def sign_lock(lock: int) -> None:
    """Write into the lock who holds it, for people: nothing decides by it."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def outlive(predecessor: Instance | None, state: Path) -> None:
    """See that the launcher whose journal was found has ended: what it left may only be ended then.

    The lock does not tell where it was deleted, or the folder is a copy of one that is in use: its jobs are
    not to be ended, nor started a second time.

    Raises:
        Busy: it lives.
        OSError: it cannot be told now.
    """
    if predecessor is None or predecessor.pid is None or boot_of(predecessor.id) != boot_id():
        return
    process = read_process(predecessor.pid)
    if process is None or process.ticks != predecessor.ticks or process.is_dead:
        return
    pidfd = hold(process)
    if pidfd is None:
        return
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        has_ended = bool(poll.poll(_PARTING * 1000))  # who was killed loses the lock a moment before
    finally:
        os.close(pidfd)
    if not has_ended:
        raise Busy(
            f"process {process.pid}, the launcher that wrote the journal in {state}, still runs: the folder "
            "is a copy of one in use, or its launcher.lock was deleted. Jobs start here once that has ended"
        )


def is_launcher(pid: int) -> bool:
    """Whether a process is a launcher, of whatever folder: it has the lock open, which no job inherits."""
    with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with suppress(OSError):  # closed since it was listed
                target = os.readlink(entry.path)  # noqa: PTH115  plain strings here
                if target.removesuffix(" (deleted)").endswith("/" + _LOCK):
                    return True
    return False


def bind(state: Path) -> socket.socket:
    """Return the listening socket; only for who holds the lock.

    Raises:
        OSError: the path is too long or cannot be bound.
    """
    path = state / "launcher.sock"
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    listener.listen(_BACKLOG)
    return listener


_LOCK = "launcher.lock"
_BACKLOG = 16
_PARTING = 2.0  # seconds
