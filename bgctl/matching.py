"""Wait for a line of output that matches a pattern."""

from __future__ import annotations

import codecs
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from bgctl.common import global_options, print_json, say
from bgctl.exit_codes import FAILED, describe_end
from bgctl.terminal import without_colors
from bgd import Client
from bgd.errors import Refused
from bgd.wire.replies import LogPart

MAX_LINE = 64 * 1024  # characters of a line that are compared; a longer line counts as several
MATCH_SECONDS = 1.0  # that comparing one line may take: a pattern such as (a+)+$ can take for ever


def wait_for_line(daemon: Client, job_ids: list[int], pattern: str, timeout: float | None) -> int:
    """Print the first line that matches, and return 0; return 1 if the job finishes without one.

    Raises:
        TimeoutError: neither has happened in time.
        Refused: comparing one line takes too long.
    """
    if len(job_ids) > 1:
        raise click.UsageError(f"--match takes one job, not {len(job_ids)}")
    [job_id] = job_ids
    try:
        wanted = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise click.UsageError(f"--match {pattern!r} is not a regular expression: {error}") from error
    lines = _Lines()
    began = time.monotonic()
    try:
        for part in daemon.logs(job_id, attempt=0, follow=True, timeout=timeout):
            for line in lines.feed(part):
                if _matches(wanted, line):
                    return _tell(job_id, part.attempt, line)
        for line in lines.end():
            if _matches(wanted, line):
                return _tell(job_id, lines.attempt, line)
    except TimeoutError:
        waited = time.monotonic() - began
        if timeout is not None:
            waited = min(waited, timeout)
        raise TimeoutError(f"no line of job {job_id} has matched {pattern!r} within {waited:.3g} s") from None
    job = daemon.job(job_id).wait()
    say(f"no line of job {job_id} matches {pattern!r}, and it {describe_end(job)}")
    return FAILED


class _Lines:
    """Cuts output into lines, as they look without colors."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._rest = ""
        self.attempt = 1

    def feed(self, part: LogPart) -> Iterator[str]:
        """Yield the lines that are complete."""
        if part.attempt != self.attempt or part.left_out:  # a line does not go on there
            yield from self.end()
            self.attempt = part.attempt
        *lines, self._rest = (self._rest + self._decode(part.data)).split("\n")
        if len(self._rest) > MAX_LINE:
            lines.append(self._rest)
            self._rest = ""
        for line in lines:
            for begin in range(0, max(len(line), 1), MAX_LINE):
                yield without_colors(line[begin : begin + MAX_LINE]).rstrip("\r")

    def end(self) -> Iterator[str]:
        """Yield the line that has no end."""
        rest, self._rest = self._rest + self._decode(b"", final=True), ""
        if rest:
            yield without_colors(rest).rstrip("\r")


def _matches(pattern: re.Pattern[str], line: str) -> bool:
    with _limited(pattern):
        return pattern.search(line) is not None


@contextmanager
def _limited(pattern: re.Pattern[str]) -> Iterator[None]:
    """Interrupt a comparison that takes too long: Python's own can be, by a signal."""

    def give_up(*_: object) -> None:
        raise Refused(
            f"comparing a line with {pattern.pattern!r} takes longer than {MATCH_SECONDS:g} s: simplify the"
            " pattern, for example without a repetition within a repetition"
        )

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, MATCH_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _tell(job_id: int, attempt: int, line: str) -> int:
    if global_options().json:
        print_json({"job": job_id, "attempt": attempt, "line": line})
    else:
        from bgd.escape import one_line  # noqa: PLC0415 - only here

        print(one_line(line), flush=True)
    return 0
