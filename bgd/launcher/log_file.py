"""An attempt's output on disk: pieces of one stream, never more than the cap, and when the bytes came.

bgd.wire.launching.log_name describes the files of a log.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import stat
import struct
import time
from contextlib import suppress
from pathlib import Path

from bgd.wire.launching import ballast_on

log = logging.getLogger(__name__)


class LogFile:
    """A log file, written by splice from a pipe, so no byte of output passes through Python.

    Output that cannot be written is read and discarded: a full disk affects the log, not the job. The disk
    counts as full if only the space for the database is free.

    `total`: bytes taken from the pipe, discarded ones included. `lost`: bytes missing from the log, except
    those over the cap. `problem`: why bytes are missing, in one line.
    """

    def __init__(
        self, path: str, cap: int, *, keeps_tail: bool, null: int, folder: LogFolder, continues: bool = False
    ) -> None:
        """Prepare the log at `path` inside the folder; `null` is a descriptor of /dev/null.

        `continues`: go on where a launcher that has died stopped. Otherwise a log that is there is removed.

        Raises:
            OSError: too many descriptors are open; may be tried again.
        """
        self.total = 0
        self.lost = 0
        self.problem: str | None = None
        self._path = path
        self._real = folder.real
        self._null = null
        self._segment = cap // 4 if keeps_tail else 0
        self._head = cap - 2 * self._segment
        self._piece_start = 0
        self._piece_end = 0  # where the current piece is full; the first byte begins the first piece
        self._segments: list[str] = []
        self._has_failed = False
        self._is_kept = True  # whether the next byte goes into a piece
        self._allowed = 0  # bytes that may be written before the next check of the disk
        self._fd: int | None = None
        self._times: _Times | None = None
        self._continues = continues
        self._reserved = os.dup(null)  # so that there is a descriptor when the log needs one
        try:
            if continues:
                self._continue(self._real(path))
            else:
                _remove_all(self._real(path))
        except OSError as error:
            self._give_up(error)

    def _continue(self, path: str) -> None:
        if not os.path.exists(path):  # noqa: PTH110  a plain string here
            return
        segments = sorted(_segments_of(path))
        self._segments = [f"{self._path}.{offset}" for offset, _ in segments]
        self.total = self._piece_end = bytes_logged(path)
        if not segments and self.total < self._head:
            self._fd = _opened_again(path)
            self._piece_end = self._head
            self._release_reserve()

    @property
    def is_over_cap(self) -> bool:
        """Whether output was thrown away because the cap was reached and no tail is kept."""
        return self._segment == 0 and self.total > self._head

    @property
    def is_full(self) -> bool:
        """Always False: a file discards output without room."""
        return False

    def take(self, pipe: int, most: int) -> int:
        """Move up to `most` bytes from the pipe; return how many, 0 if the pipe is at its end.

        Raises:
            BlockingIOError: there is nothing now.
        """
        try:
            if self._is_kept and self.total == self._piece_end:
                if not _has_bytes(pipe):
                    return 0
                self._begin_piece()
            if self._fd is not None:
                return self._write(pipe, self._fd, most)
        except BlockingIOError:
            raise
        except OSError as error:
            self._give_up(error)
        count = move(pipe, self._null, most)
        self.total += count
        if self._has_failed:
            self.lost += count
        return count

    def close(self) -> None:
        """Close the current piece; note if it was removed."""
        self._release_reserve()
        if self._fd is not None and _is_removed(self._fd):
            self._note_removal()
        self._close_piece()

    def _release_reserve(self) -> None:
        if self._reserved >= 0:
            os.close(self._reserved)
            self._reserved = -1

    def _close_piece(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        if self._times is not None:
            self._times.close()
            self._times = None

    def _write(self, pipe: int, fd: int, most: int) -> int:
        if _is_removed(fd):
            self._note_removal()
            self._close_piece()
            fd = self._begin_segment()
        if self._allowed == 0:
            self._allowed = _allowed_on_disk(fd)
        room = min(self._piece_end - self.total, self._allowed)
        count = move(pipe, fd, min(most, room))
        self._allowed -= count
        offset = self.total
        self.total += count  # first, because they are in the log even if their time cannot be written
        if count:
            self._times = self._times or self._new_times()
            if self._times is not None:
                self._times.note(offset, count)
        return count

    def _new_times(self) -> _Times | None:
        """Return the times of the current piece; None: no descriptor is free, which costs only times."""
        try:
            piece = self._real(self._segments[-1] if self._segments else self._path)
            return _Times(piece, continues=self._continues)
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                return None
            raise

    def _begin_piece(self) -> None:
        self._release_reserve()
        self._close_piece()
        if self.total == 0 < self._head:
            self._fd = _opened_in_folder(self._real(self._path))
            self._piece_start, self._piece_end = 0, self._head
        elif self._segment == 0:
            self._is_kept = False
        else:
            self._begin_segment()
            self._piece_end = self.total + self._segment

    def _begin_segment(self) -> int:
        if len(self._segments) == _KEPT_SEGMENTS:
            _remove(self._real(self._segments.pop(0)))
        segment = f"{self._path}.{self.total}"
        self._fd = _opened_in_folder(self._real(segment))
        self._segments.append(segment)
        self._piece_start = self.total
        return self._fd

    def _note_removal(self) -> None:
        self.lost += self.total - self._piece_start
        self.problem = f"output is missing from the log: {self._path}: it was removed while the job ran"

    def _give_up(self, error: OSError) -> None:
        self.close()
        self.problem = f"output is missing from the log: {self._path}: {error.strerror}"
        self._is_kept = False
        self._has_failed = True


def move(source: int, target: int, most: int) -> int:
    """Move bytes from one descriptor to another; return how many, 0 if the source is at its end.

    One of the two is a pipe. If the file system, the kernel or a filter of system calls does not allow
    splice, the bytes are copied.

    Raises:
        BlockingIOError: there is nothing now, or no room.
        OSError: the target cannot be written to; a copy has then lost up to 4 KiB.
    """
    try:
        return os.splice(source, target, most, flags=os.SPLICE_F_NONBLOCK)
    except OSError as error:
        if error.errno not in _NO_SPLICE:
            raise
    poll = select.poll()
    poll.register(target, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    data = os.read(source, min(most, select.PIPE_BUF))  # a pipe that polls writable has room for this much
    start = 0
    while start < len(data):
        start += os.write(target, data[start:])
    return len(data)


_NO_SPLICE = {errno.EINVAL, errno.ENOSYS, errno.EPERM}


class LogFolder:
    """The log folder as first found: it may be moved away, and another bgd may replace it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._found: tuple[int, int] | None = None  # device and inode
        self._is_moved = False

    def real(self, path: str) -> str:
        """Return a path to the same file wherever the folder now is; make the folder again if it was removed.

        Raises:
            OSError: the folder cannot be opened or made.
        """
        if self._found is not None and self._identity() == self._found:
            return path
        if self._fd >= 0 and not _is_removed(self._fd):
            if not self._is_moved:
                self._is_moved = True
                log.warning("the log folder %s was moved away: logs are written where it is now", self._path)
            return f"/proc/self/fd/{self._fd}{path.removeprefix(self._path)}"
        with suppress(FileExistsError):  # if it is not a folder, opening it fails
            os.makedirs(self._path, 0o700)  # noqa: PTH103  a plain string here
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._found, self._is_moved = fd, self._identity(), False
        return path

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path)  # noqa: PTH116  a plain string here
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino


class _Times:
    """NAME.times: pairs of offset and microseconds since the epoch, 8 bytes each, big-endian.

    Its size is bounded, so that slow drops of output do not fill the disk.
    """

    def __init__(self, piece: str, *, continues: bool) -> None:
        self._entries = 0
        try:
            self._fd = _opened(piece + _TIMES)
        except FileExistsError:
            if continues:
                self._fd = _opened_again(piece + _TIMES)
                self._entries = os.fstat(self._fd).st_size // _ENTRY.size
            else:  # left by an attempt of another history, whose log is gone
                os.unlink(piece + _TIMES)  # noqa: PTH108  a plain string here
                self._fd = _opened(piece + _TIMES)
        self._bytes = 0
        self._latest = 0

    def note(self, offset: int, count: int) -> None:
        now = time.time_ns() // 1000
        # a wall clock that was set back must not stop the entries
        is_apart = not 0 <= now - self._latest < _APART
        if is_apart and self._entries * _ENTRY.size <= _FREE + self._bytes // _BYTES_PER_BYTE:
            os.write(self._fd, _ENTRY.pack(offset, now))
            self._entries += 1
            self._latest = now
        self._bytes += count

    def close(self) -> None:
        os.close(self._fd)


def bytes_logged(path: str) -> int:
    """Return the end of the pieces as an offset in the output; 0 without a readable log.

    This is what is known of the size if it was not counted to the end.
    """
    try:
        ends = [offset + Path(piece).stat().st_size for offset, piece in _segments_of(path)]
        return max([Path(path).stat().st_size, *ends])
    except OSError:
        return 0


_KEPT_SEGMENTS = 2
_MAX_UNCHECKED = 1 << 18  # bytes that a log takes between two checks of the free space
_TIMES = ".times"
_ENTRY = struct.Struct(">QQ")
_APART = 10_000  # microseconds
_FREE = 1 << 16  # bytes of times allowed for any piece
_BYTES_PER_BYTE = 4  # beyond that, bytes of output per byte of times


def _allowed_on_disk(fd: int) -> int:
    """Return how many bytes may be written to the file before the next check of the disk.

    Raises:
        OSError: none, because only the space is free that the database may need.
    """
    disk = os.fstatvfs(fd)
    left = disk.f_bavail * disk.f_frsize - ballast_on(disk.f_blocks * disk.f_frsize)
    if left <= 0:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return min(left, _MAX_UNCHECKED)


def _is_removed(fd: int) -> bool:
    """Return whether the file no longer has a name, so that its content cannot be read."""
    return os.fstat(fd).st_nlink == 0


def _has_bytes(pipe: int) -> bool:
    """Return whether there is something to read; False at the end of the pipe.

    Raises:
        BlockingIOError: there is nothing now.
    """
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    events = dict(poll.poll(0)).get(pipe, 0)
    if not events:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return bool(events & select.POLLIN)


def _remove_all(path: str) -> None:
    """Remove the log of an attempt with the same number from another history, for example a lost database."""
    if os.path.exists(path):  # noqa: PTH110  a plain string here
        for _, segment in _segments_of(path):
            _remove(segment)
        _remove(path)


def _opened_in_folder(path: str) -> int:
    try:
        return _opened(path)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)  # noqa: PTH103, PTH120  plain strings here
        return _opened(path)


def _opened(path: str) -> int:
    # not O_APPEND, which splice refuses; O_EXCL: an existing file is another attempt's, or a job made it
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _opened_again(path: str) -> int:
    """Open a log that an earlier launcher left, at its end. Refuse anything that is not a file."""
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileExistsError(errno.EEXIST, "it is no longer a file")
    os.lseek(fd, 0, os.SEEK_END)
    return fd


def _segments_of(path: str) -> list[tuple[int, str]]:
    folder, _, name = path.rpartition("/")
    with os.scandir(folder) as entries:
        offsets = [each.name[len(name) + 1 :] for each in entries if each.name.startswith(name + ".")]
    return [(int(offset), f"{path}.{offset}") for offset in offsets if offset.isdecimal()]


def _remove(piece: str) -> None:
    for path in (piece, piece + _TIMES):
        with suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108  plain strings here
