"""The verbs wait and progress: wait for jobs, and show or report progress."""

from __future__ import annotations

import codecs
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext

import click

from bgctl.common import (
    WrongUsage,
    acknowledge_end,
    answer,
    global_options,
    has_colors,
    report,
    say,
    say_deadlock,
    wants_bar,
)
from bgctl.exit_codes import FAILED, describe_end, exit_code_of_job
from bgctl.options import DURATION, UNFINISHED, chosen_ids
from bgctl.selecting import Selection, with_selection
from bgctl.verbs import quiet_option, verb
from bgd import Client, Job
from bgd.errors import Refused
from bgd.text.brief import progress_line
from bgd.text.escape import one_line
from bgd.text.formatting import as_json, job_as_json, number_ranges
from bgd.text.units import counted
from bgd.wire.replies import LogPart
from bgd.wire.requests import MAX_PROGRESS_MESSAGE
from bgd.wire.views import JobProgress, Progress


@verb(
    "bgctl wait 12",
    "bgctl wait --timeout 10m 3-9",
    "bgctl wait --any 4 5",
    "bgctl wait --queue mail",
    "bgctl wait --progress 12",
    "bgctl wait --match 'listening on port [0-9]+' 12",
)
@with_selection(UNFINISHED, may_be_empty=True)
@click.option("--any", "any_of_them", is_flag=True, help="Wait only for the first job that finishes.")
@click.option("--progress", "shows_progress", is_flag=True, help="Show the progress of the jobs meanwhile.")
@click.option("--match", metavar="REGEX", help="Wait for a line of output that matches; print it.")
@click.option("--timeout", type=DURATION, metavar="D", help="Give up after D and exit with 75.")
@quiet_option
def wait_command(
    daemon: Client,
    selection: Selection,
    *,
    any_of_them: bool,
    shows_progress: bool,
    match: str | None,
    timeout: float | None,
) -> int:
    """Wait until jobs have finished, and print how they ended.

    The default is your latest job. Filters select jobs that are unfinished now. For one job, and with --any,
    exit with the job's code; for several, exit with 0 if all succeeded, else 1. With --json print each job as
    it finishes, and at the timeout those that have not.

    --match REGEX waits for a line in the output of one job, from its first attempt on, and exits with 0 when
    it is there, or with 1 when the job has finished without it. REGEX is a Python regular expression and may
    match anywhere in the line. A line is compared when it ends, so a prompt without a newline does not match
    while it waits for an answer. A line that takes longer than a second to compare ends the wait.
    """
    if match is not None and (any_of_them or shows_progress or selection.is_by_filter):
        raise click.UsageError("--match takes one job, and excludes --any, --progress and filters")
    if match is not None:
        ids = chosen_ids(daemon, selection.ids)
        say_deadlock(daemon, ids)
        return wait_for_line(daemon, ids, match, timeout)
    job_ids = selection.ids_in(daemon, UNFINISHED)
    if not job_ids:
        say("no jobs match")
    say_deadlock(daemon, job_ids)
    finished = []
    for job in _finishing(daemon, job_ids, timeout, shows_progress=shows_progress):
        finished.append(exit_code_of_job(job))
        if any_of_them:
            break
    if len(finished) == 1:
        return finished[0]
    return FAILED if any(finished) else 0


def _finishing(
    daemon: Client, job_ids: list[int], timeout: float | None, *, shows_progress: bool
) -> Iterator[Job]:
    """Yield jobs as they finish, each after it was shown; show the others at the timeout, as JSON."""
    unfinished = dict.fromkeys(job_ids)
    try:
        with _reporter(len(job_ids), shows_progress=shows_progress) as (show_progress, show_end):
            on_progress = show_progress if shows_progress else None
            for job in daemon.as_finished(job_ids, timeout=timeout, on_progress=on_progress):
                show_end(job)
                acknowledge_end(daemon, job.id)
                del unfinished[job.id]
                yield job
    except TimeoutError as error:
        for job_id in unfinished if global_options().json else ():
            answer(job_as_json(daemon.job(job_id).view))
        raise TimeoutError(f"{error}; `bgctl wait {number_ranges(unfinished)}` waits longer") from error


def _reporter(jobs: int, *, shows_progress: bool) -> AbstractContextManager[Reporter]:
    """Return what reports progress and ends: bars if the user wants progress on a terminal, else lines."""
    if not shows_progress or global_options().json or not wants_bar(sys.stdout):
        return nullcontext((_print_progress, _print_end))
    return _bars(jobs)


Reporter = tuple[Callable[[JobProgress], None], Callable[[Job], None]]


def _print_progress(update: JobProgress) -> None:
    document = {"job": update.job, "attempt": update.attempt, "progress": as_json(update.progress)}
    line = progress_line(update.progress)
    answer(document, *([f"{update.job} {line}"] if line else []))


def _print_end(job: Job) -> None:
    answer(job_as_json(job.view), f"{job.id} {describe_end(job)}")


@contextmanager
def _bars(jobs: int) -> Iterator[Reporter]:
    """Show progress bars below everything that is printed meanwhile; remove them at the end."""
    # rich is slow to import, and no other output needs it
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, TaskID, TextColumn  # noqa: PLC0415
    from rich.progress import Progress as ProgressDisplay  # noqa: PLC0415

    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    ]
    console = Console(color_system="auto" if has_colors() else None, highlight=False)
    # nothing else writes to stdout meanwhile, so rich need not redirect it
    with ProgressDisplay(*columns, console=console, transient=True, redirect_stdout=False) as display:
        finished, of_job = 0, dict[int, TaskID]()
        all_jobs = counted(jobs, "job")
        of_all = display.add_task("all", total=jobs, text=f"0 of {all_jobs}", visible=jobs > 1)

        def show_progress(update: JobProgress) -> None:
            if update.job not in of_job:
                if len(of_job) >= _MAX_BARS:
                    return
                of_job[update.job] = display.add_task(f"job {update.job}", total=None, text="")
            fraction, text = update.progress.fraction, _bar_text(update.progress)
            total = None if fraction is None else 1.0  # without a fraction the bar pulses
            display.update(of_job[update.job], total=total, completed=fraction or 0.0, text=text)

        def show_end(job: Job) -> None:
            nonlocal finished
            finished += 1
            display.console.print(f"{job.id} {describe_end(job)}", markup=False, soft_wrap=True)
            display.update(of_all, completed=finished, text=f"{finished} of {all_jobs}")
            if job.id in of_job:
                display.remove_task(of_job.pop(job.id))

        yield show_progress, show_end


def _bar_text(progress: Progress) -> str:
    return progress_line(progress) if progress.fraction is not None else one_line(progress.message or "")


_MAX_BARS = 10  # a screen must hold them and the lines above


@verb(
    "bgctl progress 40%",
    "bgctl progress 3/10 'the third file'",
    "bgctl progress 'still counting'",
    "bgctl progress - 'file 17'",
)
@click.argument("fraction", metavar="FRACTION")
@click.argument("message", required=False)
def progress_command(daemon: Client, fraction: str, message: str | None) -> None:
    """Report the progress of a job from inside it.

    FRACTION is 0.4, 40% or 4/10, or - if it is unknown. Each report replaces the previous one. Nothing is
    printed, unless JSON is requested.
    """
    job, attempt = _attempt_of_caller()
    if message is None and fraction != _UNKNOWN and not _LOOKS_LIKE_A_NUMBER.match(fraction):
        fraction, message = _UNKNOWN, fraction
    progress = Progress(
        None if fraction == _UNKNOWN else _parse_fraction(fraction), _shortened(message or "") or None
    )
    daemon.set_progress(job, attempt, progress.fraction, progress.message)
    report({"job": job, "attempt": attempt, "progress": as_json(progress)})


def _attempt_of_caller() -> tuple[int, int]:
    try:
        return int(os.environ["BGD_JOB_ID"]), int(os.environ["BGD_ATTEMPT"])
    except (KeyError, ValueError):
        raise click.UsageError(
            "not inside a job: `bgctl progress` needs BGD_JOB_ID and BGD_ATTEMPT of a job"
        ) from None


def _parse_fraction(text: str) -> float:
    found = _FRACTION.fullmatch(text)
    if found is None:
        raise click.UsageError(f"{text!r} is not a fraction: write 0.4, 40% or 4/10, or - before a message")
    whole = float(found["of"] or (100 if found["percent"] else 1))
    if not whole:
        raise click.UsageError(f"{text!r} is not a fraction: it divides by 0")
    value = float(found["number"]) / whole
    if value > 1:
        raise click.UsageError(f"{text!r} is more than 1: write 0.4, 40% or 4/10")
    return value


_UNKNOWN = "-"
_LOOKS_LIKE_A_NUMBER = re.compile(r"[+-]?\.?[0-9]")
_NUMBER = r"[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18}"
_FRACTION = re.compile(rf"(?P<number>{_NUMBER})(?:(?P<percent>%)|/(?P<of>{_NUMBER}))?")


def _shortened(message: str) -> str:
    """Cut a message to the maximum length, with bytes that are not UTF-8 escaped."""
    return message.encode(errors="backslashreplace").decode()[:MAX_PROGRESS_MESSAGE]


# --- a line of output ---------------------------------------------------------------------------------------

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
    wanted = compiled(pattern, "--match")
    began = time.monotonic()
    try:
        with closing(daemon.logs(job_id, attempt=0, follow=True, timeout=timeout)) as parts:
            for each in _lines(parts):
                for attempt, line in matching(wanted, [each]):
                    answer({"job": job_id, "attempt": attempt, "line": line}, one_line(line))
                    return 0
    except TimeoutError:
        waited = time.monotonic() - began
        if timeout is not None:
            waited = min(waited, timeout)
        raise TimeoutError(
            f"no line of job {job_id} has matched {pattern!r} within {waited:.3g} s;"
            f" `bgctl logs -n 20 {job_id}` shows its last lines"
        ) from None
    job = daemon.job(job_id).wait()
    say(f"no line of job {job_id} matches {pattern!r}, and the job is over: {describe_end(job)}")
    return FAILED


def _lines(parts: Iterable[LogPart]) -> Iterator[tuple[int, str]]:
    reader = LineReader()
    for part in parts:
        yield from reader.feed(part)
    yield from reader.end()


class LineReader:
    """Cuts output into lines without colors, each with its attempt.

    What a carriage return overwrites is a line of its own.
    """

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._attempt, self._rest = 1, ""

    def feed(self, part: LogPart) -> list[tuple[int, str]]:
        """Return the lines that a part ends."""
        before = self.end() if part.attempt != self._attempt or part.left_out else []  # a line ends there
        self._attempt = part.attempt
        lines: list[str] = []
        *ended, rest = (self._rest + self._decode(part.data)).split("\n")
        for line in ended:
            lines += _pieces(line.rstrip("\r"))
        body = rest.rstrip("\r")  # a carriage return at the end may belong to a newline
        earlier, overwritten, _ = body.rpartition("\r")
        if overwritten:
            lines += _pieces(earlier)
        rest = rest[len(earlier + overwritten) :]
        if len(rest) > MAX_LINE:
            *cut, rest = _cut(rest)
            lines += map(_printed, cut)
        self._rest = rest
        return before + [(self._attempt, line) for line in lines]

    def end(self) -> list[tuple[int, str]]:
        """Return what a line without an end shows."""
        rest, self._rest = self._rest + self._decode(b"", final=True), ""
        return [(self._attempt, line) for line in _pieces(rest.rstrip("\r"))] if rest else []


def _pieces(line: str) -> Iterator[str]:
    """Yield the texts that a line shows; none is empty, unless all of it is."""
    for shown in line.split("\r") if line else [""]:
        if shown or not line:
            yield from _cut(_printed(shown))


def _printed(text: str) -> str:
    """Return a text without sequences for the terminal."""
    from bgd.logs.search import CONTROL  # noqa: PLC0415 - few waits need it

    return re.sub(CONTROL.decode(), "", text)


def _cut(line: str) -> list[str]:
    """Return the parts of a line, each of MAX_LINE at most; neighbours share half, for matches in between."""
    overlap = MAX_LINE // 2
    return [line[at : at + MAX_LINE] for at in range(0, max(len(line) - overlap, 1), MAX_LINE - overlap)]


def compiled(pattern: str, name: str) -> re.Pattern[str]:
    """Return a regular expression; raise WrongUsage if it is invalid. `name`: what users call it."""
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise WrongUsage(f"{name} {pattern!r} is not a regular expression: {error}") from error


def matching(pattern: re.Pattern[str], lines: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return the lines that match.

    Raises:
        Refused: comparing takes too long.
    """
    with _limited(pattern):
        return [each for each in lines if pattern.search(each[1])]


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
