"""Notices that somebody removes or moves what the running daemon needs: its database, its folder, its socket.

inotify tells of most of it, so an idle daemon is not woken up. Nobody tells of the move of a folder further
up: that is looked at when jobs come in, once a second at most.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bgd import clock
from bgd.errors import Refused

logger = logging.getLogger(__name__)

LOOK_EVERY = 1.0  # seconds, while jobs come in
DATABASE_FILES = ("bgd.db", "bgd.db-wal", "bgd.db-shm")
_A_MOMENT = 1.0  # seconds in which whoever removes a database removes the rest of the folder, too


class StateWatch:
    """Compares inodes; it opens none of the database's files, as that would drop SQLite's locks.

    Attributes:
        problem: why no new job is taken, one line; None: all is where it was.
        is_lost: whether the database has no name any more, so that its content has to be saved.
    """

    def __init__(
        self,
        state_dir: str,
        socket: str,
        *,
        stop: Callable[[bool], None],
        bind: Callable[[], None] | None,
    ) -> None:
        """Take all to be in its place now.

        `stop` is called with whether the launcher's files are there, some time after the database was lost;
        `bind` when the socket is gone. None: the socket is not ours to bind.
        """
        self._folder = Path(state_dir)
        self._socket = Path(socket)
        self._stop = stop
        self._bind = bind
        self._folder_fd = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._places = {self._folder, self._socket.parent}
        self._known = {place: _identity(place) for place in self._places}
        self._files = {self._folder / name: _identity(self._folder / name) for name in DATABASE_FILES}
        self._looked_at = clock.elapsed()
        self._events = -1
        self.problem: str | None = None
        self.is_lost = False

    def begin(self) -> None:
        """Look whenever something is removed from the folders, or moved."""
        try:
            self._events = _watch(self._places)
        except OSError as error:
            logger.warning(
                "inotify cannot be had (%s): a socket that is removed is not bound again", error.strerror
            )
            return
        asyncio.get_running_loop().add_reader(self._events, self._hear)

    def close(self) -> None:
        if self._events >= 0:
            asyncio.get_running_loop().remove_reader(self._events)
            os.close(self._events)
        os.close(self._folder_fd)

    def check(self) -> None:
        """See that new jobs are kept where the next start finds them.

        Raises:
            Refused: they would not be.
        """
        if clock.elapsed() - self._looked_at >= LOOK_EVERY:
            self.look()
        if self.problem is not None:
            raise Refused(f"no new job is taken: {self.problem}")

    def is_own(self, name: str) -> bool:
        """Tell whether one of the database's files is still the one that was there at the start."""
        return _identity(self._folder / name) == self._files[self._folder / name]

    def look(self) -> None:
        """Compare what is in the places with what was there at the start."""
        self._looked_at = clock.elapsed()
        if self.is_lost:
            return
        problem = self._found()
        if problem is not None and problem != self.problem:
            logger.error("%s", problem)
        elif problem is None and self.problem is not None:
            logger.warning("the state folder %s is back in its place", self._folder)
        self.problem = problem
        if self.is_lost:
            asyncio.get_running_loop().call_later(_A_MOMENT, self._give_up)
        elif problem is None and self._bind is not None and self._is_socket_gone():
            self._bind()

    def _found(self) -> str | None:
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

    def _hear(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._events, _ROOM)
        self.look()


_ROOM = 1 << 16  # bytes: some thousand events
_NEWS = 0x40 | 0x80 | 0x200 | 0x400 | 0x800  # IN_MOVED_FROM, _MOVED_TO, _DELETE, _DELETE_SELF, _MOVE_SELF


def _watch(places: set[Path]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = _checked(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    try:
        for place in places:
            _checked(libc.inotify_add_watch(fd, os.fsencode(place), _NEWS))
    except OSError:
        os.close(fd)
        raise
    return fd


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode; None: nothing is there, or it may not be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
