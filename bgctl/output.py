"""Print the output of jobs, and follow a new job to its end."""

from __future__ import annotations

import codecs
import re
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import pairwise

from msgspec.structs import replace

from bgctl import exit_codes
from bgctl.common import (
    acknowledge_end,
    begun,
    global_options,
    is_screen,
    is_terminal,
    print_json,
    report,
    say,
    say_deadlock,
    writing_to_stdout,
)
from bgctl.exit_codes import describe_end, exit_code_of_job
from bgctl.terminal import PipeOutput, TerminalEscaper, without_colors
from bgd import Client, DaemonUnreachable, Job
from bgd.client.inherited import caller_session
from bgd.text.escape import ended_at_begin, one_line
from bgd.text.formatting import iso_time, job_as_json
from bgd.wire.replies import LogPart


def follow_job(daemon: Client, job: Job, *, raw: bool = False, most: int | None = None) -> int:
    """Print a new job's output until it has finished; return its exit code.

    Ctrl-C leaves the job running and prints how to return to it; a second Ctrl-C cancels it. With `raw`,
    print the output unchanged. `most`: limit on the bytes printed, messages included.
    """
    already = begun()
    attempt, offset = already.shown or (None, None)
    printer = LogPrinter(job.id, raw=raw, attempt=attempt)
    try:
        with writing_to_stdout(lambda: f"job {job.id} is queued: {_how_to_return(job)}"):
            if already.is_interrupted:
                raise KeyboardInterrupt  # noqa: TRY301 - it is handled as one from now on
            if already.is_lost:
                daemon.reconnect()
            return _follow(daemon, job, printer, attempt or 0, offset, most)
    except DaemonUnreachable as error:
        printer.end_line()
        raise DaemonUnreachable(f"{error}; {maybe_goes_on(job.id, _how_to_return(job))}") from error
    except KeyboardInterrupt:
        printer.end_line()
        if not _is_cancel_confirmed(job):
            return leave(daemon, job.id, exit_codes.INTERRUPTED, _how_to_return(job))
    say(f"cancelling job {job.id}")
    daemon.cancel([job.id])  # if it has just finished, report that end
    return report_end(daemon, job.wait())


def _follow(
    daemon: Client, job: Job, printer: LogPrinter, attempt: int, offset: int | None, most: int | None
) -> int:
    if is_terminal():
        from bgctl.showing import say_if_waiting  # noqa: PLC0415 - it imports the parser

        say_if_waiting(daemon, job.id)
    else:
        say_deadlock(daemon, [job.id])
    timestamps = global_options().json
    parts = daemon.logs(job.id, attempt=attempt, offset=offset, follow=True, timestamps=timestamps)
    for part in parts if most is None else head_and_tail(job.id, parts, most):
        printer.write(part)
    printer.end()
    job.wait()
    if exit_code_of_job(job):
        printer.end_line()
    return report_end(daemon, job)


def head_and_tail(job_id: int, parts: Iterable[LogPart], most: int) -> Iterator[LogPart]:
    """Yield the first bytes of output as they come, and at its end the last ones, in bounded memory.

    The first part after a gap says how many bytes are left out before it, and which command shows them.
    """
    room = half = (most - _MESSAGES) // 2
    tail, held, left_out, gap = deque[LogPart](), 0, 0, (1, 0)
    for part in parts:
        rest = part
        if room:
            head, rest = _cut(part, room)
            yield head
            room = 0 if rest.data else room - len(head.data)
            gap = rest.attempt, rest.offset
        if rest.data or rest.left_out:
            tail.append(rest)
            held += len(rest.data)
        while held > half:
            gone, rest = _cut(tail.popleft(), held - half)
            held -= len(gone.data)
            left_out += gone.left_out + len(gone.data)
            if rest.data:
                tail.appendleft(rest)
    if left_out:
        attempt, begin = gap
        piece = f"--attempt {attempt} --after-byte {begin} --max-bytes {most}"
        why = f"left out by --max-output; `bgctl logs {job_id} {piece}` shows more"
        tail[0] = replace(tail[0], left_out=left_out + tail[0].left_out, missing=why)
    yield from tail


def _cut(part: LogPart, size: int) -> tuple[LogPart, LogPart]:
    """Cut a part in two after `size` bytes, and after a character that begins before."""
    size += ended_at_begin(part.data[size:])
    times = [(max(start - size, 0), at) for start, at in part.times]
    rest = LogPart(part.id, part.attempt, part.data[size:], times, offset=part.offset + size)
    return replace(part, data=part.data[:size]), rest


_MESSAGES = 500  # bytes reserved for the messages of bgctl


def leave(daemon: Client, job_id: int, code: int, how_to_return: str) -> int:
    """Say that a job keeps running and return `code`; if it has just ended, report that."""
    try:
        return report_end(daemon, daemon.job(job_id).wait(0))
    except TimeoutError:
        say(f"job {job_id} keeps running: {how_to_return}")
    except DaemonUnreachable:
        say(maybe_goes_on(job_id, how_to_return))
    return code


def maybe_goes_on(job_id: int, how_to_return: str) -> str:
    """Return what is true of a job whose daemon does not answer."""
    return f"unless job {job_id} has ended, it keeps running: {how_to_return}"


def report_end(daemon: Client, job: Job) -> int:
    """Say how a finished job ended, if it did not succeed; return its exit code.

    A session is told of success, too: it may kill bgctl before it gets the exit code.
    """
    code = exit_code_of_job(job)
    if code or global_options().json or caller_session():
        report(job_as_json(job.view), f"job {job.id} {describe_end(job)}")
    acknowledge_end(daemon, job.id)
    return code


def _how_to_return(job: Job) -> str:
    return f"`bgctl logs -f {job.id}` follows it, `bgctl cancel {job.id}` cancels it"


def _is_cancel_confirmed(job: Job) -> bool:
    try:
        say(f"Ctrl-C again within {_CONFIRM_SECONDS:g} s cancels job {job.id}")
        threading.Event().wait(_CONFIRM_SECONDS)
    except KeyboardInterrupt:
        return True
    return False


_CONFIRM_SECONDS = 2.0  # to press Ctrl-C again


class LogPrinter:
    """Prints one job's log to stdout; `is_empty` until a part has content.

    Args:
        job_id: the job.
        raw: print the output unchanged.
        timestamps: prefix each line with its time.
        headers: print the attempt before its output; otherwise only between attempts.
        attempt: the one whose output was printed before; None: none was.
    """

    def __init__(
        self,
        job_id: int,
        *,
        raw: bool = False,
        timestamps: bool = False,
        headers: bool = False,
        attempt: int | None = None,
    ) -> None:
        self._job_id = job_id
        self._timestamps = _LineTimestamps(after_returns=not raw) if timestamps else None
        self._is_json = global_options().json
        self._is_raw = raw
        self._is_terminal = is_terminal()
        self._is_escaped = self._is_terminal and not raw
        self._headers = headers
        self._attempt = attempt
        self._is_mid_line = False
        self.is_empty = True
        self._escaper = TerminalEscaper(sys.stdout.encoding, redraws=is_screen())
        self._pipe = PipeOutput()
        self._json_decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_colored = False

    def write(self, part: LogPart) -> None:
        self.is_empty = self.is_empty and not (part.data or part.left_out)
        if part.attempt != self._attempt:
            self._begin_attempt(part.attempt)
        if part.left_out and not self._is_json:
            self._report_gap(part)
        if self._is_json:
            self._write_json(part)
        elif self._is_escaped:
            self._write_text(self._escaper.feed(self._with_timestamps(part)))
        elif self._is_raw:
            self._write_bytes(self._with_timestamps(part))
        else:
            self._write_bytes(self._pipe.feed(self._with_timestamps(part)))

    def end(self) -> None:
        """Write the rest. Call it after the last part."""
        if self._is_escaped and not self._is_json:
            self._write_text(self._escaper.feed(b"", is_last=True) + (_RESET if self._is_colored else ""))
        elif not self._is_json:
            self._write_bytes(self._pipe.end())

    def end_line(self) -> None:
        """Start a new line on a terminal if the output stopped within one, before bgctl prints a message."""
        if not self._is_escaped:
            self._write_bytes(self._pipe.end())
        if self._is_terminal and self._is_mid_line:
            self._is_mid_line = False
            self._escaper.begin_line()
            print(flush=True)

    def _begin_attempt(self, attempt: int) -> None:
        if not self._is_json and (self._headers or self._attempt is not None):
            self.end()
            self.end_line()
            if not global_options().quiet:
                print(f"==> job {self._job_id}, attempt {attempt} <==", file=sys.stderr, flush=True)
        self._attempt = attempt

    def _report_gap(self, part: LogPart) -> None:
        """Report missing output; end the line first, or two halves would look like one line."""
        if self._is_escaped:
            self.end_line()
        self._write_bytes(self._pipe.end())
        if self._is_mid_line and not self._is_raw and part.data:
            self._write_bytes(b"\n")
        if self._timestamps is not None:
            self._timestamps.begin_line()
        why = f"missing: {one_line(part.missing)}" if part.missing else "left out, over the log's limit"
        print(f"==> {part.left_out} bytes {why} <==", file=sys.stderr, flush=True)

    def _write_bytes(self, data: bytes) -> None:
        if data:
            self._is_mid_line = not data.endswith(b"\n")
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    def _write_text(self, text: str) -> None:
        self._is_colored = self._is_colored or "\x1b" in text
        if visible := without_colors(text):
            self._is_mid_line = not visible.endswith("\n")
        sys.stdout.write(text)
        sys.stdout.flush()

    def _with_timestamps(self, part: LogPart) -> bytes:
        return part.data if self._timestamps is None else self._timestamps.before_lines(part)

    def _write_json(self, part: LogPart) -> None:
        if part.left_out:
            gap = {"left_out": part.left_out, "missing": part.missing or None}
            print_json({"job": self._job_id, "attempt": part.attempt, "at": None, "data": "", **gap})
        for at, data in _pieces_by_time(part):
            text = self._json_decoder.decode(data)
            print_json({"job": self._job_id, "attempt": part.attempt, "at": iso_time(at), "data": text})


class _LineTimestamps:
    """Prefixes each line with its time, even if the line arrives in pieces.

    `after_returns`: also after a carriage return that is not the end of a line, which overwrites the time.
    """

    def __init__(self, *, after_returns: bool) -> None:
        self._after_returns = after_returns
        self._is_at_line_start = True
        self._is_after_return = False

    def begin_line(self) -> None:
        """Prefix the next piece, although no newline came before it."""
        self._is_at_line_start, self._is_after_return = True, False

    def before_lines(self, part: LogPart) -> bytes:
        lines = bytearray()
        for at, data in _pieces_by_time(part):
            stamp = f"{_timestamp(at)} ".encode()
            for line in re.findall(_PIECES if self._after_returns else _LINES, data):
                if self._is_at_line_start or (self._is_after_return and line[:1] not in b"\r\n"):
                    lines += stamp
                lines += line
                self._is_at_line_start = line.endswith(b"\n")
                self._is_after_return = self._after_returns and line.endswith(b"\r")
        return bytes(lines)


_LINES = re.compile(rb"[^\n]*\n|[^\n]+")
_PIECES = re.compile(rb"[^\r\n]*(?:\r*\n|\r+)|[^\r\n]+")


def _pieces_by_time(part: LogPart) -> Iterator[tuple[float | None, bytes]]:
    """Yield the bytes of a part with the time when they arrived; None if it is not known."""
    bounds = [(0, None), *part.times, (len(part.data), None)]
    for (start, at), (end, _) in pairwise(bounds):
        if start < end:
            yield at, part.data[start:end]


def _timestamp(at: float | None) -> str:
    if at is None:
        return "-"
    return datetime.fromtimestamp(at).astimezone().isoformat(timespec="milliseconds")


_RESET = "\x1b[0m"  # resets colors that a job left on
