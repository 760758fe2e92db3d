"""The output of jobs on its way to stdout: harmless on a terminal, byte for byte elsewhere."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise

import click

from bgctl.common import global_options, is_terminal, print_json
from bgctl.terminal import HarmlessText, without_colors
from bgd.escape import one_line
from bgd.formatting import iso_time
from bgd.wire.replies import LogPart

_RESET = "\x1b[0m"  # a job may end in the middle of its colours


class Output:
    """Writes the pieces of one job's log; `is_empty` until there is something in one.

    Args:
        job_id: whose log it is.
        raw: give a terminal the very bytes, too.
        timestamps: begin each line with the time it came.
        headers: name the attempt before its output; else only where one follows another.
    """

    def __init__(
        self, job_id: int, *, raw: bool = False, timestamps: bool = False, headers: bool = False
    ) -> None:
        self._job_id = job_id
        self._stamps = _Stamps() if timestamps else None
        self._is_json = global_options().json
        self._is_raw = raw
        self._is_seen = is_terminal()
        self._is_harmless = self._is_seen and not raw
        self._headers = headers
        self._attempt: int | None = None
        self._is_mid_line = False
        self.is_empty = True
        self._text = HarmlessText(sys.stdout.encoding)
        self._json_decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_colored = False

    def write(self, part: LogPart) -> None:
        self.is_empty = self.is_empty and not (part.data or part.left_out)
        if part.attempt != self._attempt:
            self._begin(part.attempt)
        if part.left_out and not self._is_json:
            self._break_off(part)
        if self._is_json:
            self._write_json(part)
        elif self._is_harmless:
            self._show(self._text.feed(self._stamped(part)))
        else:
            self._pass_on(self._stamped(part))

    def end(self) -> None:
        """Write what was held back; only after the last piece."""
        if self._is_harmless and not self._is_json:
            self._show(self._text.feed(b"", is_last=True) + (_RESET if self._is_colored else ""))

    def leave_line(self) -> None:
        """Go to a new line on a terminal if the output stopped within one, before bgctl says something."""
        if self._is_seen and self._is_mid_line:
            self._is_mid_line = False
            click.echo()

    def _begin(self, attempt: int) -> None:
        if not self._is_json and (self._headers or self._attempt is not None):
            self.end()
            self.leave_line()
            click.echo(f"==> job {self._job_id}, attempt {attempt} <==", err=True)
        self._attempt = attempt

    def _break_off(self, part: LogPart) -> None:
        """Say that output is missing here; end its line, or two halves would read as one never written."""
        if self._is_harmless:
            self.leave_line()
        elif self._is_mid_line and not self._is_raw and part.data:
            self._pass_on(b"\n")
        if self._stamps is not None:
            self._stamps.begin_line()
        why = f"missing: {one_line(part.missing)}" if part.missing else "left out, over the log's limit"
        click.echo(f"==> {part.left_out} bytes {why} <==", err=True)

    def _pass_on(self, data: bytes) -> None:
        if data:
            self._is_mid_line = not data.endswith(b"\n")
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    def _show(self, text: str) -> None:
        self._is_colored = self._is_colored or "\x1b" in text
        if visible := without_colors(text):
            self._is_mid_line = not visible.endswith("\n")
        sys.stdout.write(text)
        sys.stdout.flush()

    def _stamped(self, part: LogPart) -> bytes:
        return part.data if self._stamps is None else self._stamps.before_lines(part)

    def _write_json(self, part: LogPart) -> None:
        if part.left_out:
            gap = {"left_out": part.left_out, "missing": part.missing or None}
            print_json({"job": self._job_id, "attempt": part.attempt, "at": None, "data": "", **gap})
        for at, data in _pieces(part):
            text = self._json_decoder.decode(data)
            print_json({"job": self._job_id, "attempt": part.attempt, "at": iso_time(at), "data": text})


class _Stamps:
    """Puts the time before each line, also of one that comes in pieces."""

    def __init__(self) -> None:
        self._is_at_line_start = True

    def begin_line(self) -> None:
        """Stamp what comes next, though no newline came before it."""
        self._is_at_line_start = True

    def before_lines(self, part: LogPart) -> bytes:
        lines = bytearray()
        for at, data in _pieces(part):
            stamp = f"{_local_time(at)} ".encode()
            for line in data.splitlines(keepends=True) if b"\n" in data else [data]:
                lines += stamp + line if self._is_at_line_start else line
                self._is_at_line_start = line.endswith(b"\n")
        return bytes(lines)


def _pieces(part: LogPart) -> Iterator[tuple[float | None, bytes]]:
    """Yield the bytes of a part by the time they came; None where that is not known."""
    bounds = [(0, None), *part.times, (len(part.data), None)]
    for (start, at), (end, _) in pairwise(bounds):
        if start < end:
            yield at, part.data[start:end]


def _local_time(at: float | None) -> str:
    if at is None:
        return "-"
    return datetime.fromtimestamp(at).astimezone().isoformat(timespec="milliseconds")
