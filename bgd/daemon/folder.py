"""The state folder: private, ours, and one daemon's at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bgd.config import Config
from bgd.errors import BgdError, ConfigError
from bgd.paths import OTHERS_BITS, lock_error, make_folder, make_private_folder

PRIVATE = OTHERS_BITS  # umask: what the daemon makes is for its own user
BACKLOG = 1024  # clients that may wait to be heard; whoever is one more waits until there is room


class AlreadyRunning(BgdError):
    """Another daemon holds the state folder, or the socket."""


def prepare(config: Config) -> None:
    """Make the state and log folders, 0700, and refuse those that are not this user's own.

    Raises:
        ConfigError: a folder cannot be made or written, or belongs to somebody else.
    """
    own = [Path(config.daemon.state_dir), Path(config.log_dir)]
    for folder in own:
        make_private_folder(folder)
        _check_writable(folder)
    place_of_socket = Path(config.daemon.socket).parent
    if place_of_socket not in own:  # as /run or /tmp, which are not ours to close
        make_folder(place_of_socket)
        _check_writable(place_of_socket)


def check_python(config: Config) -> None:
    """Look whether class jobs could start, as `bgd --check` does; a daemon may start before its application.

    Raises:
        ConfigError: the interpreter is no program, or a folder of the path is not there.
    """
    interpreter = config.python.interpreter
    if shutil.which(interpreter) is None:
        raise ConfigError(f"[python] interpreter: {interpreter} is no program that can be run")
    for path in config.python.path:
        if not Path(path).exists():
            raise ConfigError(f"[python] path: there is no {path}")


@contextmanager
def locked(config: Config) -> Iterator[None]:
    """Hold the folder's lock while the block lasts.

    Raises:
        AlreadyRunning: another daemon holds it; the message says which.
        ConfigError: the lock cannot be opened, or its file system has no locks.
    """
    folder = Path(config.daemon.state_dir)
    path = folder / "bgd.lock"
    with ExitStack() as held:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            held.callback(os.close, fd)
            folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            held.callback(os.close, folder_fd)
        except OSError as error:
            raise ConfigError(f"cannot open {path}: {error.strerror}; see [daemon] state_dir") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _lock_folder(folder_fd)
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
            raise AlreadyRunning(
                f"a bgd with pid {holder} already serves {config.daemon.state_dir}: "
                "stop it (bgctl shutdown; kill, if its socket is gone), or choose another [daemon] state_dir"
            ) from None
        except OSError as error:
            raise lock_error(path, error) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)  # for people only: the lock is what counts
        yield


def listen(config: Config, handed: Sequence[socket.socket] = ()) -> socket.socket:
    """Bind the control socket, private from its birth; a stale one is removed.

    If sockets were `handed` over, it is one of them.

    Raises:
        AlreadyRunning: a daemon of another state folder listens there.
        ConfigError: it cannot be bound there, or is not what was handed over.
    """
    if handed:
        return _control_socket_of(config, handed)
    check_socket_place(config)
    path = Path(config.daemon.socket)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        listening.bind(str(path))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigError(f"cannot listen on {path}: {error.strerror}; see [daemon] socket") from error
    finally:
        os.umask(before)
    listening.setblocking(False)
    return listening


def check_socket_place(config: Config) -> None:
    """See that the control socket can be bound.

    Raises:
        AlreadyRunning: a daemon of another state folder listens there.
        ConfigError: something else is in its place.
    """
    path = Path(config.daemon.socket)
    if path.exists() and not path.is_socket():
        raise ConfigError(f"[daemon] socket {path} exists and is no socket: move it away")
    if is_listened_on(path):
        raise AlreadyRunning(f"another daemon listens on {path}: stop it, or choose another [daemon] socket")


def _control_socket_of(config: Config, handed: Sequence[socket.socket]) -> socket.socket:
    names = [str(each.getsockname()) for each in handed]
    if config.daemon.socket not in names:
        raise ConfigError(
            f"systemd listens at {', '.join(names)}, but the socket is {config.daemon.socket}: "
            "change ListenStream= of bgd.socket, or [daemon] socket"
        )
    listening = handed[names.index(config.daemon.socket)]
    listening.setblocking(False)
    return listening


def is_listened_on(path: Path) -> bool:
    """Tell whether somebody accepts, or could accept, connections at a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        error = probe.connect_ex(str(path))
    return error in {0, errno.EAGAIN}  # EAGAIN: more wait to be accepted than it lets wait


def _lock_folder(fd: int) -> None:
    """Lock the folder itself: a file in it may be deleted, by a cleaner of old files for one."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system that locks nothing but files that can be written
        return


def _check_writable(path: Path) -> None:
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(
            f"the folder {path} cannot be written: change its mode, or [daemon] state_dir or socket"
        )
