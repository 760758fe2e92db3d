"""The state folder and the control socket: private, for one daemon at a time, and watched while it runs."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bgd.daemon.space import DiskSpace
from bgd.errors import BgdError, ConfigError, Refused
from bgd.settings.config import Config
from bgd.settings.paths import OTHERS_BITS, lock_error, make_folder, make_private_folder
from bgd.system import clock

logger = logging.getLogger(__name__)

PRIVATE = OTHERS_BITS  # umask: files of the daemon are for its own user
BACKLOG = 1024  # connections that the kernel accepts for the daemon; more wait in connect(2)


class AlreadyRunning(BgdError):
    """Another daemon holds the state folder, or the socket."""


def prepare(config: Config) -> None:
    """Make the state and log folders with mode 0700, and refuse those of other users.

    Raises:
        ConfigError: a folder cannot be made or written to, or belongs to another user.
    """
    own = [Path(config.daemon.state_dir), Path(config.log_dir)]
    for folder in own:
        make_private_folder(folder)
        _check_writable(folder)
    socket_folder = Path(config.daemon.socket).parent
    if socket_folder not in own:  # for example /run or /tmp, which are not ours to close
        make_folder(socket_folder)
        _check_writable(socket_folder)


@contextmanager
def locked(config: Config) -> Iterator[None]:
    """Hold the folder's lock for the duration of the block; if the disk is full, release the ballast first.

    Raises:
        AlreadyRunning: another daemon holds it; the message names its pid.
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
        DiskSpace(config.daemon.state_dir, config.daemon.min_free).release_if_full()
        _write_pid(fd)
        yield


def _write_pid(fd: int) -> None:
    """Write the pid for users: only the lock matters."""
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        logger.warning("the pid is not noted in bgd.lock: %s", error.strerror)


def _lock_folder(fd: int) -> None:
    """Lock the folder itself: the lock file may be deleted, for example by a cleaner of old files."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system that only locks files that can be written
        return


def _check_writable(path: Path) -> None:
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(
            f"the folder {path} cannot be written: change its mode, or [daemon] state_dir or socket"
        )


def replace_file(path: Path, data: bytes) -> None:
    """Replace a private file atomically: after a crash it is the old one or the new one.

    Raises:
        OSError: it could not be written; the old one is still there.
    """
    new = path.with_name(f"{path.name}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    new.replace(path)


# --- The control socket


def listen(config: Config, handed: Sequence[socket.socket] = ()) -> socket.socket:
    """Return the control socket: one of those that systemd `handed` over, or a new one.

    A new socket is private from the start; a stale one is removed.

    Raises:
        AlreadyRunning: a daemon of another state folder listens there.
        ConfigError: it cannot be bound there, or is not among the sockets that were handed over.
    """
    if handed:
        return _control_socket_in(handed, config)
    check_socket_path(config)
    path = Path(config.daemon.socket)
    try:
        listening = bind_unix_socket(path, umask=0o177, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {path}: {error.strerror}; see [daemon] socket") from error
    listening.setblocking(False)
    return listening


def check_socket_path(config: Config) -> None:
    """Check that the control socket can be bound.

    Raises:
        AlreadyRunning: a daemon of another state folder listens there.
        ConfigError: the path exists and is not a socket.
    """
    path = Path(config.daemon.socket)
    if path.exists() and not path.is_socket():
        raise ConfigError(f"[daemon] socket {path} exists and is not a socket: move it away")
    if is_listened_on(path):
        raise AlreadyRunning(f"another daemon listens on {path}: stop it, or choose another [daemon] socket")


def is_listened_on(path: Path) -> bool:
    """Return whether a process accepts connections at a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        error = probe.connect_ex(str(path))
    return error in {0, errno.EAGAIN}  # EAGAIN: its backlog is full


def bind_unix_socket(path: Path, *, umask: int, backlog: int) -> socket.socket:
    """Listen on a new unix socket, which replaces a file of that name; `umask` sets its mode.

    Raises:
        OSError: it cannot be bound there.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(umask)
    try:
        path.unlink(missing_ok=True)
        listening.bind(str(path))
        listening.listen(backlog)
    except OSError:
        listening.close()
        raise
    finally:
        os.umask(before)
    return listening


def _control_socket_in(handed: Sequence[socket.socket], config: Config) -> socket.socket:
    names = [str(each.getsockname()) for each in handed]
    if config.daemon.socket not in names:
        raise ConfigError(
            f"systemd listens at {', '.join(names)}, but the socket is {config.daemon.socket}: "
            "change ListenStream= of bgd.socket, or [daemon] socket"
        )
    listening = handed[names.index(config.daemon.socket)]
    listening.setblocking(False)
    return listening


# --- The watch on both


CHECK_EVERY = 1.0  # seconds, while jobs come in
DATABASE_FILES = ("bgd.db", "bgd.db-wal")
_GRACE = 1.0  # seconds in which a removal of the database may also remove the rest of the folder


class FolderWatch:
    """Notices that the database, the state folder or the socket is removed or moved.

    inotify reports most of it, so an idle daemon is not woken up. Nothing reports that a folder further up is
    moved: that is checked when jobs come in, at most once a second.

    The watch compares inodes. It opens none of the database's files, because that would drop SQLite's locks.

    Attributes:
        problem: why new jobs are refused, on one line; None if everything is where it was.
        is_lost: whether the database has lost its name, so that its content has to be saved.
    """

    def __init__(
        self, state_dir: str, socket: str, *, stop: Callable[[bool], None], bind: Callable[[], None] | None
    ) -> None:
        """Remember where everything is now.

        `stop` is called shortly after the database was lost, and told whether the launcher's files are still
        there. `bind` is called when the socket is gone; None if the socket is not ours to bind.
        """
        self._folder = Path(state_dir)
        self._socket = Path(socket)
        self._stop = stop
        self._bind = bind
        self._folder_fd = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._watched = {self._folder, self._socket.parent}
        self._known = {folder: _identity(folder) for folder in self._watched}
        self._files = {self._folder / name: _identity(self._folder / name) for name in DATABASE_FILES}
        self._checked_at = clock.elapsed()
        self._events = -1
        self.problem: str | None = None
        self.is_lost = False

    def begin(self) -> None:
        """Start watching for removed or moved files in the folders."""
        try:
            self._events = _watch(self._watched)
        except OSError as error:
            logger.warning(
                "inotify cannot be used (%s): a socket that is removed is not bound again", error.strerror
            )
            return
        asyncio.get_running_loop().add_reader(self._events, self._on_event)

    def close(self) -> None:
        if self._events >= 0:
            asyncio.get_running_loop().remove_reader(self._events)
            os.close(self._events)
        os.close(self._folder_fd)

    def check(self) -> None:
        """Check that the next start will find new jobs.

        Raises:
            Refused: it will not.
        """
        if clock.elapsed() - self._checked_at >= CHECK_EVERY:
            self._compare()
        if self.problem is not None:
            raise Refused(f"no new job is taken: {self.problem}")

    def is_own(self, name: str) -> bool:
        """Return whether one of the database's files is still the one that was there at the start."""
        return _identity(self._folder / name) == self._files[self._folder / name]

    def _on_event(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._events, _EVENT_BYTES)
        self._compare()

    def _compare(self) -> None:
        """Compare the files with those at the start."""
        self._checked_at = clock.elapsed()
        if self.is_lost:
            return
        problem = self._find_problem()
        if problem is not None and problem != self.problem:
            logger.error("%s", problem)
        elif problem is None and self.problem is not None:
            logger.warning("the state folder %s is back in its place", self._folder)
        self.problem = problem
        if self.is_lost:
            asyncio.get_running_loop().call_later(_GRACE, self._give_up)
        elif problem is None and self._bind is not None and self._is_socket_gone():
            self._bind()

    def _find_problem(self) -> str | None:
        if os.fstat(self._folder_fd).st_nlink == 0:
            self.is_lost = True
            return (
                f"the state folder {self._folder} was removed while bgd runs: bgd saves the database and ends"
            )
        if _identity(self._folder) != self._known[self._folder]:
            now_at = Path(f"/proc/self/fd/{self._folder_fd}").readlink()
            return (
                f"the state folder {self._folder} was moved to {now_at} while bgd runs: move it back,"
                f" or end bgd (kill {os.getpid()}) and set [daemon] state_dir"
            )
        gone = [path for path, known in self._files.items() if _identity(path) != known]
        if gone:
            self.is_lost = True
            return f"{gone[0]} was removed or replaced while bgd runs: bgd saves the database and ends"
        return None

    def _is_socket_gone(self) -> bool:
        parent = self._socket.parent
        return _identity(self._socket) is None and _identity(parent) == self._known[parent]

    def _give_up(self) -> None:
        self._stop((self._folder / "launcher.journal").exists())


_EVENT_BYTES = 1 << 16  # some thousand events
_MASK = 0x40 | 0x80 | 0x200 | 0x400 | 0x800  # IN_MOVED_FROM, _MOVED_TO, _DELETE, _DELETE_SELF, _MOVE_SELF


def _watch(folders: set[Path]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = clock.checked(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    try:
        for folder in folders:
            clock.checked(libc.inotify_add_watch(fd, os.fsencode(folder), _MASK))
    except OSError:
        os.close(fd)
        raise
    return fd


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode, or None if it is missing or unreadable."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
