"""Sockets: connecting to a daemon's, and deadlines on the monotonic clock."""

from __future__ import annotations

import socket
import struct
import time

_LEAST_TIMEOUT = 0.001  # seconds; to the kernel 0 means for ever


def connected(path: str, deadline: float | None) -> socket.socket:
    """Return a socket that is connected; blocks while the listener's queue is full.

    Raises:
        OSError: nobody listens there, or the queue was full until the deadline.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _connect(connection, path, deadline)
        while not _is_connected(connection):  # a signal came: Python takes the socket for one under way
            _connect(connection, path, deadline)
    except BaseException:
        connection.close()
        raise
    return connection


def left(deadline: float | None) -> float | None:
    """Return the seconds until the deadline, None: it never comes."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _connect(connection: socket.socket, path: str, deadline: float | None) -> None:
    if (seconds := left(deadline)) is not None:
        # With a timeout of Python's, connect() to a busy Unix socket fails at once with EAGAIN.
        # The kernel's own timeout waits for room in the listener's queue.
        timeval = struct.pack("@ll", int(seconds), int(max(seconds % 1, _LEAST_TIMEOUT) * 1_000_000))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
    connection.connect(path)


def _is_connected(connection: socket.socket) -> bool:
    try:
        connection.getpeername()
    except OSError:
        return False
    return True
