"""The verbs wait and progress: wait for jobs, and show or report progress."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import click

from bgctl.common import client, global_options, has_colors, is_terminal, print_json, say
from bgctl.exit_codes import FAILED, describe_end, exit_code_of_job
from bgctl.options import DURATION, UNFINISHED, chosen_ids
from bgctl.selecting import Selection, with_selection
from bgctl.verbs import verb
from bgd import Job
from bgd.escape import one_line
from bgd.formatting import as_json, job_as_json, progress_line
from bgd.units import counted
from bgd.wire.requests import MAX_PROGRESS_MESSAGE
from bgd.wire.views import JobProgress, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressDisplay
    from rich.progress import TaskID


@verb(
    "wait",
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
def wait_command(
    selection: Selection, *, any_of_them: bool, shows_progress: bool, match: str | None, timeout: float | None
) -> int:
    """Wait until jobs have finished, and print how they ended.

    The default is your latest job. Filters select jobs that are unfinished now. For one job, exit with its
    code; for several, exit with 0 if all succeeded, else 1.

    --match REGEX waits for a line in the output of one job, from its first attempt on, and exits with 0 when
    it is there, or with 1 when the job has finished without it. REGEX is a Python regular expression and may
    match anywhere in the line. A line that takes longer than a second to compare ends the wait.
    """
    if match is not None and (any_of_them or shows_progress or selection.is_by_filter):
        raise click.UsageError("--match takes one job, and excludes --any, --progress and filters")
    with client() as daemon:
        if match is not None:
            from bgctl.matching import wait_for_line  # noqa: PLC0415 - few waits need it

            return wait_for_line(daemon, chosen_ids(daemon, selection.ids), match, timeout)
        if selection.is_by_filter:
            job_ids = [job.id for job in selection.jobs_in(daemon, UNFINISHED)]
        else:
            job_ids = chosen_ids(daemon, selection.ids)
        if not job_ids:
            say("no jobs match")
        finished = []
        with _reporter(len(job_ids), shows_progress=shows_progress) as (show_progress, show_end):
            on_progress = show_progress if shows_progress else None
            for job in daemon.as_finished(job_ids, timeout=timeout, on_progress=on_progress):
                show_end(job)
                finished.append(exit_code_of_job(job))
                if any_of_them:
                    break
    if len(job_ids) == 1:
        return finished[0]
    return FAILED if any(finished) else 0


def _reporter(jobs: int, *, shows_progress: bool) -> AbstractContextManager[Reporter]:
    """Return what reports progress and ends: bars if the user wants progress on a terminal, else lines."""
    if not shows_progress or global_options().json or not is_terminal():
        return nullcontext((_print_progress, _print_end))
    return _bars(jobs)


Reporter = tuple[Callable[[JobProgress], None], Callable[[Job], None]]


def _print_progress(update: JobProgress) -> None:
    if global_options().json:
        progress = as_json(update.progress)
        print_json({"job": update.job, "attempt": update.attempt, "progress": progress})
    elif line := progress_line(update.progress):
        click.echo(f"{update.job} {line}")


def _print_end(job: Job) -> None:
    if global_options().json:
        print_json(job_as_json(job.view))
    else:
        click.echo(f"{job.id} {describe_end(job)}")


@contextmanager
def _bars(jobs: int) -> Iterator[Reporter]:
    """Show progress bars below everything that is printed meanwhile; remove them at the end."""
    # rich is slow to import, and no other output needs it
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, TextColumn  # noqa: PLC0415
    from rich.progress import Progress as ProgressDisplay  # noqa: PLC0415

    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    ]
    console = Console(color_system="auto" if has_colors() else None, highlight=False)
    # nothing else writes to stdout meanwhile, so rich need not redirect it
    with ProgressDisplay(*columns, console=console, transient=True, redirect_stdout=False) as display:
        bars = _Bars(display, jobs)
        yield bars.show_progress, bars.show_end


class _Bars:
    """Shows a bar for each job that reports progress, and one for all jobs if there are several.

    Args:
        display: draws the bars.
        jobs: number of jobs to wait for.
    """

    def __init__(self, display: ProgressDisplay, jobs: int) -> None:
        self._display = display
        self._jobs = jobs
        self._finished = 0
        self._all = display.add_task("all", total=jobs, text=self._count()) if jobs > 1 else None
        self._bar_of: dict[int, TaskID] = {}

    def show_progress(self, update: JobProgress) -> None:
        """Update the bar of a job; only the first few jobs get one."""
        progress = update.progress
        if update.job not in self._bar_of:
            if len(self._bar_of) >= _MAX_BARS:
                return
            self._bar_of[update.job] = self._display.add_task(f"job {update.job}", total=None, text="")
        bar = self._bar_of[update.job]
        # without a fraction the bar pulses
        total = None if progress.fraction is None else 1.0
        self._display.update(bar, total=total, completed=progress.fraction or 0.0, text=_bar_text(progress))

    def show_end(self, job: Job) -> None:
        """Remove the bar of a job, count it, and print above the bars how it ended."""
        self._display.console.print(f"{job.id} {describe_end(job)}", markup=False, soft_wrap=True)
        self._finished += 1
        if self._all is not None:
            self._display.update(self._all, completed=self._finished, text=self._count())
        if job.id in self._bar_of:
            self._display.remove_task(self._bar_of.pop(job.id))

    def _count(self) -> str:
        return f"{self._finished} of {counted(self._jobs, 'job')}"


def _bar_text(progress: Progress) -> str:
    return progress_line(progress) if progress.fraction is not None else one_line(progress.message or "")


_MAX_BARS = 10  # a screen must hold them and the lines above


@verb(
    "progress",
    "bgctl progress 40%",
    "bgctl progress 3/10 'the third file'",
    "bgctl progress 'still counting'",
    "bgctl progress - 'file 17'",
)
@click.argument("fraction", metavar="FRACTION")
@click.argument("message", required=False)
def progress_command(fraction: str, message: str | None) -> int:
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
    with client() as daemon:
        daemon.set_progress(job, attempt, progress.fraction, progress.message)
    if global_options().json:
        print_json({"job": job, "attempt": attempt, "progress": as_json(progress)})
    return 0


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
