"""Read lines of a log, from any offset on, and show them as a terminal does. Everything here reads files.

A part of a log is some lines that follow each other, few enough for a page. Its neighbours are found from its
two offsets, so nothing between two places of a log has to be read.
"""

from __future__ import annotations

import asyncio
import codecs
from bisect import bisect_right
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar, TypeVarTuple
from urllib.parse import quote

from markupsafe import Markup
from msgspec import Struct
from msgspec.structs import replace

from bgd.daemon.threads import start_pool
from bgd.daemon.web.log_groups import END, folded, group_after, group_before, title_of, without_mark
from bgd.daemon.web.markup import line_markup
from bgd.logs.files import MAX_CHUNK, LogReader
from bgd.logs.search import Needle
from bgd.text.escape import begun_at_end, ended_at_begin
from bgd.text.terminal import Line, Terminal
from bgd.wire.http import unavailable

MAX_PART = MAX_CHUNK  # bytes of a part
MAX_LINES = 500  # of a part
LIVE_LINES = 100  # that an open page is sent at once
MAX_BEHIND = 4 * MAX_CHUNK  # bytes of a log that an open page may be behind
MAX_LINES_BEHIND = 1000  # of more, or of more bytes, all but the last MAX_LINES are skipped
MAX_OPEN_LINE = 16 * 1024  # characters; a longer line is broken
COUNTED = 16 * 1024 * 1024  # bytes at the beginning of a log in which lines are counted for their numbers
MAX_LINE = 64 * 1024 * 1024  # bytes of a line that overwrites itself; its end is shown
WINDOW = 16 * MAX_CHUNK  # bytes in which the beginning of a long line is looked for first
MAX_LISTED_LINE = 1000  # bytes of a line that a search found
STYLE_SEARCH = 16 * 1024  # bytes before a part in which its colours may have been set

THREADS = 4  # that read and show logs
MAX_SECONDS = 10.0  # for one call there, until the page is refused

OVER_LIMIT = "left out, over the log's limit"


class LogLine(Struct, frozen=True):
    """A line as a terminal shows it, and the offset where it begins.

    `number` is None unless all before it is known; `time` is that of its first byte, None if not known.
    """

    runs: Line
    at: int
    number: int | None
    time: float | None


class LogPart(Struct, frozen=True, kw_only=True):
    """Lines of a log that have ended, and behind them the open one, if no other part follows.

    A reader goes on from `at`, in `style`, in the line `number`: where the open line begins or, in a very
    long one, after a carriage return. `skipped`: what is between these two offsets was not read. `begin` and
    `first` are the offset and the number of the first line, `size` is that of the log. `group`: the title
    of the group of lines in which it begins.
    """

    lines: list[LogLine]
    open: LogLine | None
    at: int
    style: str
    number: int | None
    skipped: tuple[int, int] | None = None
    begin: int = 0
    first: int | None = None
    size: int = 0
    group: str | None = None


R = TypeVar("R")
Args = TypeVarTuple("Args")


class LogThreads:
    """Threads that read and show logs. Everything else has others: a log may take long.

    Attributes:
        searches: searches of single logs that go on now.
    """

    def __init__(self) -> None:
        self.searches = 0
        self._pool = start_pool(THREADS)

    async def run(self, log: LogReader | None, function: Callable[[*Args], R], *args: *Args) -> R:
        """Call a function on a thread. If the call is cancelled, end the function at its next read of `log`.

        Raises:
            RequestRefused: it takes longer than MAX_SECONDS.
        """
        try:
            async with asyncio.timeout(MAX_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)
        except (TimeoutError, asyncio.CancelledError) as error:
            if log is not None:
                log.stop()
            if isinstance(error, asyncio.CancelledError):
                raise
            raise unavailable(
                f"This takes longer than {MAX_SECONDS:g} seconds: try again later, or use `bgctl logs`.",
            ) from error


class LogText:
    """Reads the log of an attempt and shows it as a terminal does. Blocks: call it on a thread.

    Attributes:
        offset: from where it reads next.
    """

    def __init__(self, log: LogReader, offset: int, style: str = "", number: int | None = None) -> None:
        self._log = log
        self.offset = self._line_begin = self._resume = offset
        self._skipped: tuple[int, int] | None = None
        self._number = number
        self._time: float | None = None  # of the open line
        self._terminal = Terminal(style)
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._lines: list[LogLine] = []  # not returned yet
        self._group: str | None = None  # of the line that begins at this offset
        self._group_known_at = -1

    def read_on(self) -> LogPart | None:
        """Return the next output for a page that follows the log; skip what the page cannot catch up with."""
        size = self._log.size()
        behind = size - self.offset
        unread = self._log.blocks(self.offset, size) if MAX_LINES_BEHIND < behind <= MAX_BEHIND else ()
        if behind > MAX_BEHIND or sum(block.count(b"\n") for _, block in unread) > MAX_LINES_BEHIND:
            self._skip(size)
        begin = self._line_begin
        if (part := self.read(lines=LIVE_LINES)) is None:
            return None
        if begin != self._group_known_at:
            self._group = group_before(self._log, begin)
        part = replace(part, group=self._group)
        self._group = group_after((line.runs for line in part.lines), self._group)
        self._group_known_at = self._line_begin
        return part

    def read(self, limit: int = MAX_CHUNK, lines: int = MAX_LINES) -> LogPart | None:
        """Return at most the next min(limit, MAX_CHUNK) bytes or `lines` lines; None: no more output yet.

        `limit` counts the bytes of a gap, too.
        """
        chunk = self._log.read(self.offset, limit)
        if not chunk.data:
            return None
        data = chunk.data[: max(self.offset + limit - chunk.offset, 0)]
        if data.count(b"\n") > lines:
            data = data[: _end_of_lines(data, lines)]
        if chunk.left_out:
            end = chunk.offset if data else self.offset + limit
            self._break_off(f"{chunk.left_out} bytes {chunk.missing or OVER_LIMIT}", end)
            self._number = None
        self._add(data, chunk.times)
        return self.take()

    def take(self) -> LogPart:
        """Return what was read and not returned yet."""
        lines, self._lines = self._lines, []
        skipped, self._skipped = self._skipped, None
        return LogPart(
            lines=lines,
            open=LogLine(self._terminal.open_line, self._line_begin, self._number, self._time),
            at=self._resume,
            style=self._terminal.style,
            number=self._number,
            skipped=skipped,
        )

    def _skip(self, size: int) -> None:
        """Go on with the last lines of the log, which has this size."""
        begin, data = self._log.read_before(size, MAX_PART)
        begin += _begin_of_lines(data, MAX_LINES)
        if self._number is not None:
            self._number = _count_lines(self._log, begin, self._line_begin, self._number)
        self._skipped = (self.offset, begin)
        self._go_on_at(begin)

    def _add(self, data: bytes, times: list[tuple[int, float]]) -> None:
        """Show output that comes next, with the times of its bytes."""
        base, position = self.offset, 0
        self.offset += len(data)
        returned = data.find(b"\r", data.rfind(b"\n") + 1, -1) + 1
        if returned and self.offset - self._line_begin > MAX_CHUNK:  # do not read all of this line again
            ended = self._terminal.feed(self._decode(data[:returned]))
            self._terminal.mark()
            ended += self._terminal.feed(self._decode(data[returned:]))
        else:
            returned = 0
            ended = self._terminal.feed(self._decode(data))
        for runs in ended:
            self._begin_time(times, position)
            position = data.index(b"\n", position) + 1
            self._end_line(runs, base + position)
            if self._number is not None:
                self._number += 1
        if position < len(data):
            self._begin_time(times, position)
        if returned:
            self._resume = base + returned
        if self._terminal.length > MAX_OPEN_LINE:
            self._end_line(self._terminal.end(), self.offset)

    def _begin_time(self, times: list[tuple[int, float]], position: int) -> None:
        if self._time is None and (later := bisect_right(times, position, key=lambda mark: mark[0])):
            self._time = times[later - 1][1]

    def _end_line(self, runs: Line, end: int) -> None:
        self._lines.append(LogLine(runs, self._line_begin, self._number, self._time))
        self._line_begin = self._resume = end
        self._time = None

    def _break_off(self, why: str, offset: int) -> None:
        gap = LogLine([(f"==> {why} <==", "")], self.offset, None, None)
        self._go_on_at(offset)
        self._lines.append(gap)

    def _go_on_at(self, offset: int) -> None:
        if self._terminal.length:
            self._end_line(self._terminal.end(), self.offset)
        self.offset = self._line_begin = self._resume = offset


# --- Parts


def part_from(log: LogReader, begin: int, number: int | None = None) -> LogPart:
    """Return the part that begins at an offset, where a line begins, which may be before a gap.

    `number` is that of the line, if it is known.
    """
    size = log.size()
    begin = min(begin, size)
    start = begin
    chunk = log.read(begin, MAX_PART)
    end = chunk.offset + len(chunk.data)
    if end < size and not chunk.left_out and b"\n" not in chunk.data and b"\r" in chunk.data:
        end = _line_end(log, end)
        start = _last_of_line(log, begin, end)
    elif end < size or chunk.data.count(b"\n") > MAX_LINES:
        end = chunk.offset + _end_of_lines(chunk.data, MAX_LINES)
    return _part(log, begin, start, end, size, number or _count_lines(log, begin))


def part_before(log: LogReader, end: int, number: int | None = None, *, lines: int | None = None) -> LogPart:
    """Return the part that ends at an offset, where the line `number` begins, if that is known.

    `lines` is how many it may have, by default MAX_LINES.
    """
    size, lines = log.size(), lines or MAX_LINES
    end = min(end, size)
    offset, data = log.read_before(end, MAX_PART)
    if data.endswith(b"\r") and offset + len(data) == end:  # it is within a long line, which is shown already
        end = line_begin(log, end)
        offset, data = log.read_before(end, MAX_PART)
    start = begin = offset + _begin_of_lines(data, lines) if data else 0
    if len(data) == MAX_PART and b"\n" not in data[:-1]:
        is_overwritten = b"\r" in data[:-1] or log.read_before(offset, 1)[1] == b"\r"
        begin = _line_begin(log, offset) if is_overwritten else begin
    if offset + len(data) < end:
        number = None
    elif number is not None:
        number = max(number - data[max(begin - offset, 0) :].count(b"\n"), 1)
    return _part(log, begin, start, end, size, number or _count_lines(log, begin))


def last_part(log: LogReader, most: int) -> LogPart:
    """Return about the last `most` bytes, from the beginning of a line on; the lines have no numbers."""
    size = log.size()
    begin, data = log.read_before(size, most)
    if begin:
        begin += data.find(b"\n") + 1
    return _part(log, begin, begin, size, size, None)


def line_begin(log: LogReader, offset: int, lowest: int = 0) -> int:
    """Return where the line at an offset begins; of an offset in a gap, the beginning of the gap.

    Of a very long line it is where a part may begin. If the line begins before `lowest`, the result is some
    offset that is not after `lowest`.
    """
    offset = min(offset, log.size())
    first, data = log.read_before(offset, MAX_PART)
    if first + len(data) < offset:
        return first + len(data)
    newline = data.rfind(b"\n") + 1
    if newline or len(data) < MAX_PART:
        return first + newline
    return _line_begin(log, max(first, lowest), lowest) if b"\r" in data else offset


def shown_line(log: LogReader, begin: int) -> LogLine:
    """Return the line that begins at an offset, or its beginning."""
    chunk = log.read(begin, MAX_LISTED_LINE)
    terminal = Terminal()
    lines = [*terminal.feed(chunk.data.decode(errors="replace")), terminal.end()]
    return LogLine(lines[0], begin, None, chunk.times[0][1] if chunk.times else None)


def _line_begin(log: LogReader, offset: int, lowest: int = 0) -> int:
    """Return where a line that is longer than a part begins; go back to `lowest`, or by MAX_LINE, at most."""
    lowest = max(offset - MAX_LINE, lowest)
    end, window = offset, WINDOW
    while end > lowest:
        first = found = at = max(end - window, lowest)
        for begin, block in log.blocks(first, end):
            if begin > at:  # behind a gap
                found = begin
            found = begin + newline if (newline := block.rfind(b"\n") + 1) else found
            at = begin + len(block)
        if at < end:  # there is a gap just before it
            return end
        if found > first:
            return found
        end, window = first, 4 * window
    return end


def _line_end(log: LogReader, offset: int) -> int:
    """Return where a line that is longer than a part ends, at most about MAX_LINE bytes behind an offset."""
    for begin, block in log.blocks(offset, offset + MAX_LINE):
        if begin != offset:  # behind a gap
            break
        if newline := block.find(b"\n") + 1:
            return offset + newline
        offset += len(block)
    return offset


def _part(log: LogReader, begin: int, start: int, end: int, size: int, number: int | None) -> LogPart:
    """Return the part between two offsets; only its end from `start` on is read."""
    text = LogText(log, start, _style_before(log, start), number)
    lines: list[LogLine] = []
    found = text.take()
    while text.offset < end and (more := text.read(end - text.offset)):
        found = more
        lines += found.lines
    is_last = end >= size
    if not is_last and found.open is not None and found.open.runs:  # a line that is longer than a part
        lines.append(found.open)
    if lines and start > begin:
        lines[0] = replace(lines[0], at=begin)
    part = replace(found, lines=lines, begin=begin, first=number, size=size, group=group_before(log, begin))
    return part if is_last else replace(part, at=end, open=None)


def _count_lines(log: LogReader, end: int, begin: int = 0, number: int = 1) -> int | None:
    """Return the number of the line that begins at an offset; None if it is far, or behind a gap.

    It is counted from another line on, which has this number: by default the first one.
    """
    if end - begin > COUNTED:
        return None
    for offset, block in log.blocks(begin, end):
        if offset != begin:
            return None
        number += block.count(b"\n")
        begin += len(block)
    return number if begin == end else None


def _last_of_line(log: LogReader, begin: int, end: int) -> int:
    """Return from where a long line that overwrites itself has to be read: its end shows all of it."""
    offset, data = log.read_before(end, MAX_PART)
    return max(begin, offset + data.find(b"\r", 0, -1) + 1)


def _style_before(log: LogReader, offset: int) -> str:
    """Return the colours that are in effect at the beginning of a part."""
    _, data = log.read_before(offset, STYLE_SEARCH)
    if b"\x1b[" not in data:
        return ""
    terminal = Terminal()
    terminal.feed(data.decode(errors="replace"))
    terminal.mark()
    return terminal.style


def _end_of_lines(data: bytes, lines: int) -> int:
    """Return where the last of at most `lines` lines ends; of a longer line, where it can be broken."""
    end = 0
    for _ in range(lines):
        if not (newline := data.find(b"\n", end) + 1):
            break
        end = newline
    return end or data.rfind(b"\r", 0, -1) + 1 or len(data) - begun_at_end(data)


def _begin_of_lines(data: bytes, lines: int) -> int:
    """Return where the first of at most `lines` lines begins; of a longer line, where it can be broken."""
    begin = 0
    if len(data) == MAX_PART:  # it may begin within a line
        begin = data.find(b"\n", 0, -1) + 1 or data.find(b"\r", 0, -1) + 1 or ended_at_begin(data)
    end = len(data)
    for _ in range(lines + 1):
        end = data.rfind(b"\n", begin, end)
        if end < 0:
            return begin
    return end + 1


# --- HTML


def plain(part: LogPart, path: str = "") -> dict[str, Any]:
    """Return what the page of a job shows of a log, and from where it follows the log at this path."""
    lines = Markup("").join(line_markup(line.runs) + "\n" for line in part.lines)
    if part.skipped is not None:
        begin, end = part.skipped
        gap = Markup('<a class="gap" href="{}/view?at={}">==&gt; {:,} bytes are not shown here &lt;==</a>\n')
        lines = gap.format(path, begin, end - begin) + lines
    return {
        "lines": Markup('<span class="block">{}</span>').format(lines) if lines else lines,
        "open": line_markup(part.open.runs) if part.open else "",
        **_place(part),
    }


def _place(part: LogPart) -> dict[str, Any]:
    """Return from where a page goes on behind a part, and what was left out before it."""
    return {"at": part.at, "style": part.style, "line": part.number or "", "skipped": part.skipped}


def linked(part: LogPart, needle: Needle | None = None, target: int | None = None) -> dict[str, Any]:
    """Return what the page of a log shows: each line is a link to itself, and the text of `needle` is marked.

    `target`: the first line is the one that the page was asked for, for the place with this number in it.
    """
    titles = [title_of(line.runs) for line in part.lines]
    shown = [
        linked_line(line, needle, None if index else target, is_title=title not in {None, END})
        for index, (title, line) in enumerate(zip(titles, part.lines, strict=True))
    ]
    return {
        "lines": folded(zip(titles, shown, strict=True), part.group if shown and titles[0] is None else None),
        "open": linked_line(part.open, needle, None if shown else target)
        if part.open is not None and part.open.runs
        else Markup(""),
        **_place(part),
    }


def linked_line(
    line: LogLine, needle: Needle | None = None, target: int | None = None, *, is_title: bool = False
) -> Markup:
    """Return one line as HTML; it begins with a link to itself that has its number and time.

    The link is for the pointer: a key that stops at each of some hundred lines is of no use. `is_title`: the
    line is what a group is folded with, so it has no links.
    """
    runs = without_mark(line.runs) if is_title else line.runs
    kind = "" if target is None else ' class="target"'
    number = "" if line.number is None else line.number
    time = "" if line.time is None else _local_time(line.time)
    marked = needle.find_in("".join(text for text, _ in runs)) if needle else []
    current = None if target is None else min(target, len(marked) - 1)
    search = f"&amp;text={quote(needle.text)}#found" if needle else ""
    tag, place = "a", f'tabindex="-1" aria-hidden="true" href="view?at={line.at}{search}"'
    if is_title:
        tag, place = "span", f'data-at="{line.at}"'
    text = line_markup(runs, marked, current, has_links=not is_title)
    # put together by hand, because Markup.format takes 15 microseconds; only the text is a stranger's
    return Markup(  # noqa: S704
        f'<span{kind}><{tag} {place} data-n="{number}" data-t="{time}"></{tag}>{text}\n</span>'
    )


@lru_cache(maxsize=64)  # lines that were written together have the same time
def _local_time(at: float) -> str:
    try:
        local = datetime.fromtimestamp(at).astimezone()
    except (ValueError, OverflowError, OSError):  # a damaged file of times has any number
        return ""
    return local.replace(tzinfo=None).isoformat(" ", "milliseconds")
