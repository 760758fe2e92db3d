"""Read the logs of attempts, also while they are written.

The daemon reads them for clients and pages, and `bgctl search` reads them itself.
"""

from __future__ import annotations

import errno
import os
import stat
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from struct import Struct as Packing
from typing import Self

from msgspec import Struct
from msgspec.structs import replace

from bgd.text.escape import one_line
from bgd.text.terminal import plain_line
from bgd.wire.launching import log_name

MAX_CHUNK = 64 * 1024  # bytes read at once
BLOCK = 256 * 1024  # bytes read at once, to search them
MAX_LINES = 20  # of `last_lines`
MAX_LINE = 2_000  # characters of one of them
MAX_MARKS = 4096  # marks read at once, also 64 KiB

# A mark: an offset, and the time when the bytes from there on arrived, in microseconds of the epoch
_MARK = Packing(">QQ")


class LogChunk(Struct, frozen=True, kw_only=True):
    """A piece of output; empty `data` means that there is no more yet.

    `times`: pairs of an offset in `data` and the epoch time at which the bytes from there on arrived.
    `left_out`: number of bytes just before `offset` that were asked for and are gone. `missing`: why they are
    gone, unless the log was over its limit.
    """

    offset: int
    data: bytes
    times: list[tuple[int, float]] = []
    left_out: int = 0
    missing: str = ""


class LogReader:
    """Reads the log of one attempt. A missing file reads as empty.

    A log is its head, the file `path`, and behind a gap the newest segments, each named by its offset.
    """

    def __init__(self, folder: str, job: int, attempt: int) -> None:
        self.path = Path(folder, log_name(job, attempt))
        self._is_stopped = False

    @classmethod
    def at(cls, path: str) -> Self:
        """Return a reader of the log whose head is this file."""
        reader = cls("", 0, 0)
        reader.path = Path(path)
        return reader

    def stop(self) -> None:
        """Make a thread that reads this log fail at its next read, because its result is no longer needed."""
        self._is_stopped = True

    def _check_stopped(self) -> None:
        if self._is_stopped:
            raise InterruptedError(errno.EINTR, "this log is no longer needed", str(self.path))

    def read(self, offset: int, limit: int) -> LogChunk:
        """Return at most min(limit, MAX_CHUNK) bytes from `offset` on, or from the end of the gap on."""
        self._check_stopped()
        limit = min(limit, MAX_CHUNK)
        data = _read(self.path, offset, limit)
        if data:  # most logs have only a head: do not list the folder for them
            return _chunk(self.path, offset, data, left_out=0)
        head, *segments = self._files()
        # Read the head again: once a segment exists the head is complete, so what it lacks is in the gap.
        for start, path in [head, *segments]:
            position = max(offset, start)
            data = _read(path, position - start, limit)
            if data:
                chunk = _chunk(path, position, data, left_out=position - offset)
                # bgd removes the head only with the whole log, so another program did
                return replace(chunk, missing=self._removed()) if chunk.left_out else chunk
        if any(not path.exists() for _, path in segments):  # removed meanwhile, so there are newer ones
            return self.read(offset, limit)
        return LogChunk(offset=offset, data=b"")

    def read_before(self, end: int, limit: int) -> tuple[int, bytes]:
        """Return at most min(limit, MAX_CHUNK) bytes before `end`, and the offset of the first.

        If there is a gap, or nothing, just before `end`, these are the last bytes before that. They have no
        gap between them: if there are fewer than asked for, the log or a gap comes before them.
        """
        self._check_stopped()
        limit = min(limit, MAX_CHUNK)
        data = b""
        for start, size, path in reversed(self._extents()):
            stop = min(end, start + size)
            if data and stop < end:
                break
            if stop > start:
                begin = max(start, stop - limit + len(data))
                piece = _read(path, begin - start, stop - begin)
                if len(piece) < stop - begin:  # removed meanwhile
                    break
                data = piece + data
                end = begin
            if len(data) == limit:
                break
        return end, data

    def blocks(self, offset: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Yield what there is between two offsets, in blocks of at most BLOCK bytes, each with its offset."""
        for start, size, path in self._extents():
            position, last = max(offset - start, 0), min(size, end - start)
            if position >= last:
                continue
            with _opened(path) as descriptor:
                while data := os.pread(descriptor, max(min(BLOCK, last - position), 0), position):
                    self._check_stopped()
                    yield start + position, data
                    position += len(data)

    def missing(self, offset: int, written: int) -> LogChunk | None:
        """Return an empty chunk that says what the log lacks after its end, `offset`; None: nothing."""
        if written <= offset:
            return None
        why = self._removed() or f"{self.path} could not be written"
        return LogChunk(offset=written, data=b"", left_out=written - offset, missing=why)

    def _removed(self) -> str:
        """Return the message that the log was removed, or an empty string if it is there."""
        return "" if self.path.exists() else f"{self.path} is not there"

    def size(self) -> int:
        """Return the offset after the last byte."""
        return max(start + size for start, size, _ in self._extents())

    def tail_offset(self, lines: int) -> int:
        """Return the offset where the last `lines` lines begin; 0 if the log has no more lines."""
        extents = self._extents()
        start, size, _ = extents[-1]
        begin, wanted = start + size, lines
        is_last = True
        for start, size, path in reversed(extents):
            end = size
            while wanted and end:
                length = min(end, MAX_CHUNK)
                block = _read(path, end - length, length) or b""
                # no line begins after the newline that ends the log
                searched = len(block) - (is_last and block.endswith(b"\n"))
                found, wanted = _lines_back(block[:searched], wanted)
                end, is_last = end - length, False
                if found < length:  # else it begins with the next file, perhaps behind the gap
                    begin = start + end + found
        return begin

    def offset_since(self, at: float) -> int:
        """Return the offset of the first bytes that arrived at this epoch time or later, or the end."""
        for _, path in self._files():
            with _opened(_marks_path(path)) as descriptor:
                marks = range(os.fstat(descriptor).st_size // _MARK.size)
                first = bisect_left(marks, at * 1e6, key=lambda index: _mark_at(descriptor, index)[1])
                if first < len(marks):
                    return _mark_at(descriptor, first)[0]
        return self.size()

    def times_of(self, offsets: Iterable[int], *, has_parts: bool) -> Iterator[float | None]:
        """Yield the epoch times at which the bytes at these ascending offsets arrived; None: not known.

        `has_parts`: look for files behind the head; to list a folder for each of many small logs is slow.
        """
        files = self._files() if has_parts else [(0, self.path)]
        read_from, marks = Path(), list[tuple[int, int]]()
        for offset in offsets:
            path = next(path for start, path in reversed(files) if start <= offset)
            if path != read_from or (len(marks) == MAX_MARKS and offset >= marks[-1][0]):
                read_from, marks = path, _marks(path, offset)
            found = bisect_right(marks, offset, key=itemgetter(0)) - 1
            yield marks[found][1] / 1e6 if found >= 0 else None

    def _files(self) -> list[tuple[int, Path]]:
        """Return the offset and path of the head and of each segment, in order."""
        prefix = f"{self.path.name}."
        try:
            with os.scandir(self.path.parent) as entries:
                ends = [entry.name.removeprefix(prefix) for entry in entries if entry.name.startswith(prefix)]
        except FileNotFoundError:
            ends = []
        segments = sorted((int(end), self.path.with_name(prefix + end)) for end in ends if end.isdecimal())
        return [(0, self.path), *segments]

    def _extents(self) -> list[tuple[int, int, Path]]:
        """Return the offset, size and path of each of these files."""
        return [(start, _size(path), path) for start, path in self._files()]


def last_lines(log: str | None, limit: int = MAX_CHUNK) -> tuple[str, ...]:
    """Return the last lines of a log, of at most `limit` bytes, as they can be shown anywhere.

    Return nothing if there is no log. Keep the end of a long line: its beginning may be a gigabyte away.
    """
    data = b"" if log is None else _last_bytes(log, limit)
    if not data:
        return ()
    lines = data.decode(errors="replace").removesuffix("\n").split("\n")
    shown = [one_line(plain_line(line).expandtabs()) for line in lines[-MAX_LINES:]]
    if len(data) == limit and len(lines) <= MAX_LINES:
        shown[0] = f"…{shown[0]}"
    return tuple(line if len(line) <= MAX_LINE else f"…{line[1 - MAX_LINE :]}" for line in shown)


def _last_bytes(log: str, limit: int) -> bytes:
    """Return the end of a log; nothing if it cannot be read."""
    reader = LogReader.at(log)
    with suppress(OSError):
        return reader.read_before(reader.size(), limit)[1]
    return b""


def _chunk(path: Path, offset: int, data: bytes, left_out: int) -> LogChunk:
    marks = _marks(path, offset)
    if len(marks) == MAX_MARKS and offset < marks[-1][0]:  # later marks were not read
        data = data[: marks[-1][0] - offset]
    times = [
        (max(begin - offset, 0), microseconds / 1e6)
        for begin, microseconds in marks
        if begin < offset + len(data)
    ]
    return LogChunk(offset=offset, data=data, times=times, left_out=left_out)


def _marks(path: Path, offset: int) -> list[tuple[int, int]]:
    """Return the mark that applies at `offset` of the file `path`, and at most MAX_MARKS in all."""
    with _opened(_marks_path(path)) as descriptor:
        count = os.fstat(descriptor).st_size // _MARK.size
        later = bisect_right(range(count), offset, key=lambda index: _mark_at(descriptor, index)[0])
        packed = os.pread(descriptor, MAX_MARKS * _MARK.size, max(later - 1, 0) * _MARK.size)
    whole = len(packed) - len(packed) % _MARK.size  # the last mark may be half written
    return [(begin, microseconds) for begin, microseconds in _MARK.iter_unpack(packed[:whole])]


def _mark_at(descriptor: int, index: int) -> tuple[int, int]:
    begin, microseconds = _MARK.unpack(os.pread(descriptor, _MARK.size, index * _MARK.size))
    return begin, microseconds


def _marks_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.times")


def _lines_back(block: bytes, wanted: int) -> tuple[int, int]:
    """Go back `wanted` lines from the end of a block.

    Returns the index where the first of them begins, and how many more begin before the block.
    """
    newlines = block.count(b"\n")
    if newlines < wanted:
        return 0, wanted - newlines
    end = len(block)
    for _ in range(wanted):
        end = block.rindex(b"\n", 0, end)
    return end + 1, 0


def _read(path: Path, position: int, length: int) -> bytes:
    with _opened(path) as descriptor:
        return os.pread(descriptor, length, position)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a file of a log for reading; one that does not exist is empty."""
    try:
        descriptor = open_log(path)
    except FileNotFoundError:
        descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_log(path: Path | str) -> int:
    """Open a file of a log for reading.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    # O_NONBLOCK: something in the place of a log, such as a FIFO, must not block a thread forever
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "the log is not a regular file", str(path))
    return descriptor


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0
