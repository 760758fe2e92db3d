"""Wait for a line of output that matches a pattern."""

from __future__ import annotations

import codecs
import re
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

import click

from bgctl.common import global_options, print_json, say
from bgctl.exit_codes import FAILED, describe_end
from bgd import Client
from bgd.errors import Refused
from bgd.logsearch import CONTROL
from bgd.wire.replies import LogPart

MAX_LINE = 64 * 1024  # characters of a line that are compared; a longer line is cut into parts
MATCH_SECONDS = 1.0  # for comparing one line: a pattern such as (a+)+$ can take forever


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
    began = time.monotonic()
    try:
        with closing(daemon.logs(job_id, attempt=0, follow=True, timeout=timeout)) as parts:
            for attempt, line in _lines(parts):
                if _matches(wanted, line):
                    return _tell(job_id, attempt, line)
    except TimeoutError:
        waited = time.monotonic() - began
        if timeout is not None:
            waited = min(waited, timeout)
        raise TimeoutError(f"no line of job {job_id} has matched {pattern!r} within {waited:.3g} s") from None
    job = daemon.job(job_id).wait()
    say(f"no line of job {job_id} matches {pattern!r}, and the job is over: {describe_end(job)}")
    return FAILED


def _lines(parts: Iterable[LogPart]) -> Iterator[tuple[int, str]]:
    """Cut output into lines without colors, each with its attempt.

    What a carriage return overwrites is a line of its own.
    """
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    attempt, rest = 1, ""
    for part in parts:
        lines: list[str] = []
        if part.attempt != attempt or part.left_out:  # a line ends there
            yield from ((attempt, line) for line in _last_line(rest + decode(b"", final=True)))
            attempt, rest = part.attempt, ""
        *ended, rest = (rest + decode(part.data)).split("\n")
        for line in ended:
            lines += _pieces(line.rstrip("\r"))
        body = rest.rstrip("\r")  # a carriage return at the end may belong to a newline
        before, overwritten, _ = body.rpartition("\r")
        if overwritten:
            lines += _pieces(before)
        rest = rest[len(before + overwritten) :]
        if len(rest) > MAX_LINE:
            *cut, rest = _cut(rest)
            lines += map(_printed, cut)
        yield from ((attempt, line) for line in lines)
    yield from ((attempt, line) for line in _last_line(rest + decode(b"", final=True)))


def _last_line(rest: str) -> Iterable[str]:
    """Return what a line without an end shows."""
    return _pieces(rest.rstrip("\r")) if rest else ()


def _pieces(line: str) -> Iterator[str]:
    """Yield the texts that a line shows; none is empty, unless all of it is."""
    for shown in line.split("\r") if line else [""]:
        if shown or not line:
            yield from _cut(_printed(shown))


def _printed(text: str) -> str:
    """Return a text without sequences for the terminal."""
    return re.sub(CONTROL.decode(), "", text)


def _cut(line: str) -> list[str]:
    """Return the parts of a line, each of MAX_LINE at most; neighbours share half, for matches in between."""
    overlap = MAX_LINE // 2
    return [line[at : at + MAX_LINE] for at in range(0, max(len(line) - overlap, 1), MAX_LINE - overlap)]


def _matches(pattern: re.Pattern[str], line: str) -> bool:
    with _limited(pattern):
        return pattern.search(line) is not None


@contextmanager
def _limited(pattern: re.Pattern[str]) -> Iterator[None]:
    """Interrupt a comparison that takes too long, by a signal."""

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
