"""Search logs of attempts for a text, a step at a time."""

from __future__ import annotations

import os
import re
import string
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from msgspec import Struct

from bgd.logs.files import BLOCK, LogReader, open_log
from bgd.text.escape import one_line
from bgd.text.terminal import plain_line

MAX_LINE = 256 * 1024  # bytes; a longer line is searched in parts
STEP = 16 * 1024 * 1024  # bytes that one call on a thread searches: some hundredths of a second

AHEAD = 32  # logs that are open before it is their turn; with more, a disk is hardly faster


MAX_COLORS = 1024  # bytes of color codes within an occurrence that lies on the border of two blocks
# ECMA-48: control sequences, as of colors, character sets, and strings for the terminal, as of links
CONTROL = rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[(-+][ -~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\))"


class SearchProgress(Struct, frozen=True):
    """What a search has found so far: how often the text occurs, and the offsets that are new.

    `at` and `size`: the bytes of the log that are searched, and all of them.
    """

    count: int
    hits: list[int]
    at: int
    size: int


class Needle(Struct, frozen=True):
    """A text to search for, which has no newline. Color codes within it do not hide it.

    Upper and lower case differ only if the text has a capital; of letters beyond A to Z they always do.
    """

    text: str
    data: bytes
    ignores_case: bool

    @classmethod
    def of(cls, text: str, *, ignores_case: bool = False) -> Needle:
        """Return a needle; `ignores_case`: also if the text has a capital."""
        if ignores_case:
            text = text.translate(_LOWER)
        return cls(text, text.encode(errors="surrogateescape"), ignores_case or text == text.lower())

    def comparable(self, data: bytes) -> bytes:
        """Return the bytes of a log as `places` takes them."""
        return data.lower() if self.ignores_case else data

    def places(self, comparable: bytes, at: int = 0) -> Iterator[tuple[int, int]]:
        """Yield where the text begins and ends, from an index on."""
        if b"\x1b" in comparable:
            yield from (match.span() for match in _between_colors(self.data).finditer(comparable, at))
            return
        while (begin := comparable.find(self.data, at)) >= 0:
            at = begin + len(self.data)
            yield begin, at

    def rest_of(self, comparable: bytes) -> int:
        """Return how many bytes at the end may begin an occurrence that goes on behind them."""
        reach = len(self.data) - 1 + (MAX_COLORS if b"\x1b" in comparable else 0)
        last = max(
            (end for _, end in self.places(comparable, max(len(comparable) - 2 * reach, 0))), default=0
        )
        return min(reach, len(comparable) - last)

    def find_in(self, text: str) -> list[tuple[int, int]]:
        """Return where the text begins and ends in a decoded line."""
        found: list[tuple[int, int]] = []
        compared = text.translate(_LOWER) if self.ignores_case else text
        end = 0
        while (begin := compared.find(self.text, end)) >= 0:
            end = begin + len(self.text)
            found.append((begin, end))
        return found

    def parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """Yield a decoded line in parts, and whether each is the text."""
        end = 0
        for begin, next_end in self.find_in(text):
            yield text[end:begin], False
            yield text[begin:next_end], True
            end = next_end
        yield text[end:], False

    def shown(self, line: bytes, most: int | None) -> str:
        """Return at most `most` characters of a line, among them the first place of the text.

        The line is as a terminal shows it or, if the text cannot be seen then, has all its characters.
        """
        decoded = line.decode(errors="replace").rstrip("\r\n")
        is_plain = decoded.isascii() and decoded.isprintable()
        text = decoded if is_plain else plain_line(decoded).expandtabs()
        places = self.find_in(text)
        if not places and any(self.places(self.comparable(line))):
            text = one_line(decoded)
            places = self.find_in(text)
        if most is None:
            return text
        begin = max(places[0][0] - most // 3, 0) if places and places[0][1] > most else 0
        before = "\N{HORIZONTAL ELLIPSIS}" if begin else ""
        return (
            before
            + text[begin : begin + most]
            + ("\N{HORIZONTAL ELLIPSIS}" if begin + most < len(text) else "")
        )


@lru_cache(maxsize=4)
def _between_colors(data: bytes) -> re.Pattern[bytes]:
    return re.compile(
        (b"(?:%b)*" % CONTROL).join(re.escape(data[index : index + 1]) for index in range(len(data)))
    )


_LOWER = {ord(letter): letter.lower() for letter in string.ascii_uppercase}  # as bytes.lower does


def _pieces(log: LogReader, needle: Needle, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield a log up to `size` in pieces, each with its offset: lines or, of a very long line, parts.

    No occurrence lies on the border of two pieces.
    """
    begin, rest = 0, b""
    for offset, block in log.blocks(0, size):
        if offset != begin + len(rest):  # behind a gap
            yield begin, rest
            begin, rest = offset, b""
        data = rest + block
        cut = data.rfind(b"\n") + 1
        if not cut and len(data) > MAX_LINE:
            cut = len(data) - needle.rest_of(needle.comparable(data))
        if cut:
            yield begin, data[:cut]
        begin, rest = begin + cut, data[cut:]
    yield begin, rest


class LogSearch:
    """Counts a text and notes where it occurs, up to the end that the log had at first."""

    def __init__(self, log: LogReader, needle: Needle, most: int) -> None:
        self._log = log
        self._needle = needle
        self._left = most  # offsets to return
        self._count = 0
        self._size = -1
        self._pieces: Iterator[tuple[int, bytes]] | None = None

    def step(self) -> SearchProgress | None:
        """Search about STEP more bytes; return None after the end. Blocks: call it on a thread."""
        if self._pieces is None:
            self._size = self._log.size()
            self._pieces = _pieces(self._log, self._needle, self._size)
        hits: list[int] = []
        first = None
        for begin, data in self._pieces:
            first = begin if first is None else first
            for place, _ in self._needle.places(self._needle.comparable(data)):
                self._count += 1
                if self._left:
                    hits.append(begin + place)
                    self._left -= 1
            if (at := begin + len(data)) - first >= STEP and at < self._size:
                return SearchProgress(self._count, hits, at, self._size)
        return None if first is None else SearchProgress(self._count, hits, self._size, self._size)


def lines_with(log: LogReader, needle: Needle) -> Iterator[list[tuple[int, bytes]]]:
    """Yield the lines of a log that contain a text, each with its offset; of a very long line, parts.

    Those that are found in one block are yielded at once.
    """
    for begin, data in _pieces(log, needle, log.size()):
        if found := found_lines(data, needle, begin):
            yield found


def found_lines(data: bytes, needle: Needle, begin: int = 0) -> list[tuple[int, bytes]]:
    """Return the lines that contain a text, each with its offset; `begin`: the offset of the first line."""
    found: list[tuple[int, bytes]] = []
    end = 0
    for at, _ in needle.places(needle.comparable(data)):
        if at < end:  # in the same line
            continue
        first = data.rfind(b"\n", 0, at) + 1
        end = data.find(b"\n", at)
        end = len(data) if end < 0 else end
        found.append((begin + first, data[first:end]))
    return found


# --- many small logs


def logs_in(folder: Path) -> dict[str, bool]:
    """Return the logs in a folder, and whether they continue in other files after a gap."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - faster, and only the names are needed
    except FileNotFoundError:
        return {}
    logs = dict.fromkeys((name for name in names if name.endswith(".log")), False)
    for name in names:
        log, dot, offset = name.rpartition(".")
        if dot and offset.isdecimal() and log.endswith(".log"):
            logs[log] = True
    return logs


class LogFile(Struct, frozen=True):
    """The log of an attempt, whose head is the file `path`; `has_parts`: there are others, behind a gap."""

    job: int
    attempt: int
    path: str
    has_parts: bool


def read_small_logs(
    logs: Iterable[LogFile], ahead: int = AHEAD
) -> Generator[tuple[LogFile, bytes | OSError | None], None, None]:
    """Yield logs in their order, each with its bytes; None: it has parts, or more than BLOCK.

    The next logs, `ahead` of them, are open before it is their turn. A disk then reads them at once, which
    takes a third of the time that it takes to read one after the other.
    """
    opened: deque[tuple[LogFile, tuple[int, int] | bytes | OSError | None]] = deque()
    try:
        for log in logs:
            opened.append((log, _begun(log)))
            if len(opened) > ahead:
                yield _read(*opened.popleft())
        while opened:
            yield _read(*opened.popleft())
    finally:
        for _, begun in opened:
            if isinstance(begun, tuple):
                os.close(begun[0])


def _begun(log: LogFile) -> tuple[int, int] | bytes | OSError | None:
    try:
        return None if log.has_parts else _open(log.path)
    except FileNotFoundError:  # removed meanwhile
        return b""
    except OSError as error:
        return error


def _read(
    log: LogFile, begun: tuple[int, int] | bytes | OSError | None
) -> tuple[LogFile, bytes | OSError | None]:
    if not isinstance(begun, tuple):
        return log, begun
    descriptor, size = begun
    try:
        return log, None if size > BLOCK else os.read(descriptor, size)
    except OSError as error:
        return log, error
    finally:
        os.close(descriptor)


def _open(path: str) -> tuple[int, int]:
    """Open a log, and let the disk begin to read it; return its descriptor and its size."""
    descriptor = open_log(path)
    os.posix_fadvise(descriptor, 0, BLOCK, os.POSIX_FADV_WILLNEED)
    return descriptor, os.fstat(descriptor).st_size
