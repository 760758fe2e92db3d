"""Ways to a daemon: its Unix socket, or a backend in this process."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from bgd.errors import ConfigError, NotAllowed
from bgd.paths import SYSTEM_PATHS, DaemonPaths, check_socket, user_paths
from bgd.wire.replies import Reply

_UCRED = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)
NO_WAY_IN = (FileNotFoundError, ConnectionRefusedError, NotADirectoryError, PermissionError)
READ_SIZE = 64 * 1024  # bytes; malloc maps and unmaps much larger ones each time


class Socket(socket.socket):
    """A Unix socket that closes without a warning when its last reference goes.

    A job object may outlive the block of its client and open a connection that stays open. In a reference
    cycle, a plain socket would warn about that.
    """

    def __init__(self) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)

    def __del__(self) -> None:
        self.close()


def check_server(connection: socket.socket, place: ClientSocket) -> None:
    """Refuse a server of an untrusted user, which could read and forge everything.

    A socket that the caller named is trusted.

    Raises:
        NotAllowed: the message names the user.
    """
    if place.is_explicit:
        return
    # the system's daemon owns its folder in /run
    folder = os.path.dirname(place.path)  # noqa: PTH120 - pathlib takes two milliseconds to import
    trusted = {0, os.geteuid() if place.is_own else os.stat(folder).st_uid}  # noqa: PTH116
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, _ = _UCRED.unpack(credentials)  # of the process that called listen()
    if uid not in trusted:
        raise NotAllowed(
            f"{place.path} is served by uid {uid}, not by uid {' or '.join(map(str, sorted(trusted)))}, "
            "so nothing was sent: if you trust that user, set BGD_SOCKET to this path"
        )


@contextmanager
def process_descriptor(pid: int | None) -> Iterator[int | None]:
    """Yield a descriptor that becomes readable when a process ends.

    None if there is no such process here: `pid` is None, the process has ended, or it runs in a container,
    where the number means another one.
    """
    try:
        is_here = pid is not None and b"bgd" in Path(f"/proc/{pid}/cmdline").read_bytes()
        descriptor = os.pidfd_open(pid) if is_here and pid is not None else None
    except OSError:
        # ESRCH; on some kernels EINVAL while it is reaped; EINVAL or ENOENT if a thread has the number by now
        descriptor = None
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def seconds_left(deadline: float | None) -> float | None:
    """Return the seconds until a deadline on the monotonic clock, None if there is no deadline."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


# --- which socket --------------------------------------------------------------------------------------


class ClientSocket(Struct, frozen=True):
    """A socket that a client may try.

    `is_own`: it is that of the caller's own daemon, which the client may start. `is_explicit`: the caller
    named it, so the client trusts the program that serves it.
    """

    path: str
    is_own: bool
    is_explicit: bool = False


def client_sockets(
    explicit: str | None = None,
    *,
    config: str | None = None,
    user: bool = False,
    system: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Iterator[ClientSocket]:
    """Yield the sockets that a client tries; it uses the first that answers.

    `explicit` (--socket), else $BGD_SOCKET, else that of the caller's own daemon, then the system's. `user`
    and `system` choose one of them, and so does a named configuration. Each is computed only when needed: a
    broken system configuration does not affect users of another daemon.

    Raises:
        ConfigError: as from `load`.
    """
    given = explicit or (None if user or system or config else environ.get("BGD_SOCKET"))
    if given:
        check_socket(given, "give a shorter path")
        yield ClientSocket(_absolute(given), is_own=False, is_explicit=True)
        return
    own = None
    if not system:
        own = _configured_socket(config, user_paths(environ), environ)
        yield ClientSocket(own, is_own=True)
    if system or not (user or config or environ.get("BGD_CONFIG")):
        shared = _configured_socket(config, SYSTEM_PATHS, environ)
        if shared != own:  # the environment may have named one for both
            yield ClientSocket(shared, is_own=False)


def _absolute(path: str) -> str:
    if path.startswith("/"):
        return path
    from pathlib import Path  # noqa: PLC0415 - as in check_server

    return str(Path(path).absolute())


def _configured_socket(config: str | None, usual: DaemonPaths, environ: Mapping[str, str]) -> str:
    """Return the socket of the daemon with this configuration file. None: the usual file, if there is one.

    Raises:
        ConfigError: as from `bgd.config.load`.
    """
    is_configured = (
        config or any(name.startswith("BGD_") for name in environ) or os.path.lexists(usual.config)
    )
    if not is_configured:
        check_socket(usual.socket, "set [daemon] socket to a shorter path")
        return usual.socket
    from bgd.config import load  # noqa: PLC0415 - most users have no configuration, and bgctl starts often

    try:
        return load(config, system=usual is SYSTEM_PATHS, environ=environ).daemon.socket
    except ConfigError as error:
        is_closed = usual is SYSTEM_PATHS and not config and isinstance(error.__cause__, PermissionError)
        if is_closed and not environ.get("BGD_CONFIG"):
            return usual.socket  # the machine's file may have a secret; users of that daemon can read it
        raise ConfigError(f"{error}; BGD_SOCKET reaches a running daemon without it") from error


# --- a backend in this process, which bgd.testing.inline installs -----------------------------------------

Pause = Callable[[], None]
"""Blocks until there is more to reply, or the end."""


Backend = Callable[[bytes], Iterator[Reply | Pause]]
"""Answers requests in place of a daemon: in frames, but without a socket.

Yields the replies to a request, including a stream's end mark, and a Pause before each wait.
"""


def installed_backend() -> Backend | None:
    """Return the backend that answers in this process, None if clients connect to daemons."""
    return _backends[-1] if _backends else None


@contextmanager
def install_backend(backend: Backend) -> Iterator[None]:
    """Let a backend answer all clients of this process, in all threads; the latest one wins."""
    _backends.append(backend)
    try:
        yield
    finally:
        _backends.remove(backend)


_backends: list[Backend] = []
