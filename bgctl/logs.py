"""logs, and following a new job: the output of jobs."""

from __future__ import annotations

import codecs
import os
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise

import click

from bgctl import exit_codes
from bgctl.common import client, global_options, is_terminal, print_json, say, verb
from bgctl.exit_codes import describe_end, exit_code_of
from bgctl.options import JobIdRanges, JobIdsType, chosen_ids, whole_number
from bgctl.showing import say_if_waiting
from bgctl.terminal import HarmlessText, without_colors
from bgd import Client, DaemonUnreachable, Job, Outcome, Refused
from bgd.escape import one_line
from bgd.formatting import iso_time, job_as_json
from bgd.wire.replies import LogPart
from bgd.wire.requests import MAX_ATTEMPT, MAX_TAIL


@verb(
    "logs",
    "bgctl logs 12",
    "bgctl logs -f -n 20 last",
    "bgctl logs --all --timestamps 12 > log.txt",
)
@click.option(
    "-f", "--follow", is_flag=True, help="Go on until the job has finished, over all attempts to come."
)
@click.option(
    "-n", "lines", type=whole_number(0, MAX_TAIL), metavar="N", help="Only the last N lines of what there is."
)
@click.option(
    "--attempt", type=whole_number(1, MAX_ATTEMPT), metavar="N", help="Of this attempt; else of the latest."
)
@click.option("--all", "all_attempts", is_flag=True, help="Of all attempts, oldest first.")
@click.option("--timestamps", is_flag=True, help="Begin each line with the time it came.")
@click.option("--raw", is_flag=True, help="Give a terminal control characters as they are.")
@click.option("--path", is_flag=True, help="Print where the log lies instead.")
@click.argument("ids", nargs=-1, type=JobIdsType(), metavar="[ID]...")
def logs_command(  # noqa: PLR0913 - one parameter an option
    ids: JobIdRanges,
    *,
    follow: bool,
    lines: int | None,
    attempt: int | None,
    all_attempts: bool,
    timestamps: bool,
    raw: bool,
    path: bool,
) -> int:
    """Show the output of jobs.

    Without an ID your latest job is meant. On a terminal control characters are shown, not obeyed, but for
    colours.
    """
    if attempt is not None and all_attempts:
        raise click.UsageError("--attempt and --all exclude each other")
    wanted = 0 if all_attempts else attempt
    with_times = timestamps or global_options().json
    code = 0
    with client() as daemon:
        job_ids = chosen_ids(daemon, ids)
        for job_id in job_ids:
            if path:
                code = _print_path(daemon, job_id, attempt) or code
                continue
            if follow and is_terminal():
                say_if_waiting(daemon, job_id)
            output = Output(job_id, raw=raw, timestamps=timestamps, headers=all_attempts or len(job_ids) > 1)
            for part in daemon.logs(
                job_id,
                attempt=wanted,
                follow=follow,
                tail=lines,
                timestamps=with_times,
            ):
                output.write(part)
            output.end()
            if output.is_empty and lines != 0 and not global_options().json:
                say(_why_empty(daemon, job_id, attempt))
    return code


def _why_empty(daemon: Client, job_id: int, attempt: int | None) -> str:
    """Say why there is no output, which a person would else take for a fault."""
    job = daemon.job(job_id)
    found = [each for each in job.attempts() if attempt in {None, each.attempt}]
    if found and found[-1].outcome is Outcome.NOT_STARTED and found[-1].error is not None:
        return f"job {job_id} was not started: {one_line(found[-1].error.message)}"
    if job.finished_at is None:
        return f"job {job_id} is {job.state}: no output yet"
    return f"job {job_id} wrote nothing" if found else f"job {job_id} was never started"


def _print_path(daemon: Client, job_id: int, attempt: int | None) -> int:
    """Print where the log is; return the exit code: not 0 if there is none and will be none."""
    attempts = daemon.attempts(job_id)
    found = [each for each in attempts if attempt in {None, each.attempt}]
    if not found:
        raise Refused(f"job {job_id} has no attempt {attempt or 'yet'}")
    shown = found[-1]
    is_there = _is_there(shown.log_path)
    if not is_there and shown.outcome is not None:
        wrote = f"wrote {shown.log_bytes} bytes, and {shown.log_path} is not there" if shown.log_bytes else ""
        say(f"job {job_id} {wrote or 'wrote nothing: it has no log'}")
        return exit_codes.REFUSED
    if global_options().json:
        print_json({"job": job_id, "attempt": shown.attempt, "log_path": shown.log_path})
    else:
        click.echo(shown.log_path)
    if not is_there:
        say(f"job {job_id} has no log yet: its first output makes the file")
    return 0


def _is_there(path: str) -> bool:
    try:
        os.stat(path)  # noqa: PTH116 - unlike Path.exists it tells what is not there from what is not shown
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # for all that this user may see
    return True


def follow_job(daemon: Client, job: Job, *, raw: bool = False) -> int:
    """Show a new job's output until it has finished; return its exit code.

    Ctrl-C leaves it alone and says how to come back; a second one cancels it. `raw`: a terminal gets the
    very bytes.
    """
    output = Output(job.id, raw=raw)
    try:
        return _followed(daemon, job, output)
    except DaemonUnreachable as error:
        output.leave_line()
        raise DaemonUnreachable(f"{error}; job {job.id} runs on: {_way_back(job)}") from error
    except KeyboardInterrupt:
        output.leave_line()
        if not _is_to_be_cancelled(job):
            say(f"job {job.id} runs on: {_way_back(job)}")
            return exit_codes.INTERRUPTED
    say(f"cancelling job {job.id}")
    daemon.cancel([job.id])  # if it has just finished, its end is told all the same
    return wait_for_job(job)


def wait_for_job(job: Job) -> int:
    """Wait until a job has finished; return its exit code."""
    return _told(job.wait())


def _followed(daemon: Client, job: Job, output: Output) -> int:
    if is_terminal():
        say_if_waiting(daemon, job.id)
    for part in daemon.logs(job.id, attempt=0, follow=True):
        output.write(part)
    output.end()
    job.wait()
    if exit_code_of(job):
        output.leave_line()
    return _told(job)


def _told(job: Job) -> int:
    if global_options().json:
        print_json(job_as_json(job.view))
    elif code := exit_code_of(job):
        say(f"job {job.id} {describe_end(job)}")
        return code
    return exit_code_of(job)


def _way_back(job: Job) -> str:
    return f"`bgctl logs -f {job.id}` shows it, `bgctl cancel {job.id}` ends it"


def _is_to_be_cancelled(job: Job) -> bool:
    say(f"Ctrl-C again within {_SECOND_THOUGHT_SECONDS:g} s cancels job {job.id}")
    try:
        threading.Event().wait(_SECOND_THOUGHT_SECONDS)
    except KeyboardInterrupt:
        return True
    return False


_SECOND_THOUGHT_SECONDS = 2.0  # for a second Ctrl-C


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


_RESET = "\x1b[0m"  # a job may end in the middle of its colours
