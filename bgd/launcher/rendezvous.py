"""Lock and socket: there is one launcher of a state folder, and one place to meet it (R6)."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path


class Busy(Exception):
    """Another launcher holds the lock; the message names it."""


def take_lock(state: Path) -> int:
    """Return a descriptor that holds the folder's lock for as long as it is open anywhere.

    Raises:
        Busy: somebody else holds it.
        OSError: the lock file cannot be opened.
    """
    path = state / "launcher.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
        os.close(fd)
        who = f"process {holder}" if holder else "another process"
        raise Busy(f"a launcher is running already: {who} holds {path}") from error
    return fd


def sign_lock(lock: int) -> None:
    """Write into the lock who holds it, for people: nothing decides by it."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


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


_BACKLOG = 16
