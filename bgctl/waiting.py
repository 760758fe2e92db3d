"""wait and progress: how far jobs are, and how they end."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

import click

from bgctl.common import client, global_options, has_colors, is_terminal, print_json, say, verb
from bgctl.exit_codes import FAILED, describe_end, exit_code_of
from bgctl.options import DURATION, UNFINISHED, chosen_ids
from bgctl.selecting import Selection, with_selection
from bgd import Job
from bgd.escape import one_line
from bgd.formatting import job_as_json, progress_as_json, progress_line
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
)
@with_selection(UNFINISHED, may_be_empty=True)
@click.option("--any", "any_of_them", is_flag=True, help="Only for the first of them.")
@click.option("--progress", "is_to_tell", is_flag=True, help="Tell meanwhile how far they say they are.")
@click.option("--timeout", type=DURATION, metavar="D", help="Give up after so long, and exit with 75.")
def wait_command(selection: Selection, *, any_of_them: bool, is_to_tell: bool, timeout: float | None) -> int:
    """Wait until jobs have finished, and say how.

    Without an ID your latest job is meant. A selection means those that have not finished now. With one
    job the exit code is its own, with several 0 if all succeeded, else 1.
    """
    with client() as daemon:
        if selection.is_by_filter:
            job_ids = [job.id for job in selection.jobs_in(daemon, UNFINISHED)]
        else:
            job_ids = chosen_ids(daemon, selection.ids)
        if not job_ids:
            say("no jobs match")
        finished = []
        with _teller(len(job_ids), has_bars=is_to_tell) as teller:
            hear = teller.hear if is_to_tell else None
            for job in daemon.as_finished(job_ids, timeout=timeout, on_progress=hear):
                teller.finish(job)
                finished.append(exit_code_of(job))
                if any_of_them:
                    break
    if len(job_ids) == 1:
        return finished[0]
    return FAILED if any(finished) else 0


def _teller(jobs: int, *, has_bars: bool) -> AbstractContextManager[Teller]:
    """Return lines, or bars where a person wants them."""
    if not has_bars or global_options().json or not is_terminal():
        return nullcontext(_Lines())
    return bars(jobs)


class Teller(Protocol):
    """Tells how far jobs are, and how they ended."""

    def hear(self, told: JobProgress) -> None: ...
    def finish(self, job: Job) -> None: ...


class _Lines:
    """Tells it by a line each time."""

    def hear(self, told: JobProgress) -> None:
        if global_options().json:
            progress = progress_as_json(told.progress)
            print_json({"job": told.job, "attempt": told.attempt, "progress": progress})
        elif line := progress_line(told.progress):
            click.echo(f"{told.job} {line}")

    def finish(self, job: Job) -> None:
        if global_options().json:
            print_json(job_as_json(job.view))
        else:
            click.echo(f"{job.id} {describe_end(job)}")


@contextmanager
def bars(jobs: int) -> Iterator[Bars]:
    """Show bars below what is printed meanwhile, and take them away in the end."""
    # slow to import, and no other output needs them
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, TextColumn  # noqa: PLC0415
    from rich.progress import Progress as ProgressDisplay  # noqa: PLC0415

    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[said]}", markup=False),
    ]
    console = Console(color_system="auto" if has_colors() else None, highlight=False)
    # whoever else writes to the terminal meanwhile would be written into the bars: nobody does
    with ProgressDisplay(*columns, console=console, transient=True, redirect_stdout=False) as display:
        yield Bars(display, jobs)


class Bars:
    """A bar for each job that says how far it is, and one for all of them if there are several.

    Args:
        jobs: how many are waited for.
    """

    def __init__(self, display: ProgressDisplay, jobs: int) -> None:
        self._display = display
        self._jobs = jobs
        self._finished = 0
        self._all = display.add_task("all", total=jobs, said=self._count()) if jobs > 1 else None
        self._bars: dict[int, TaskID] = {}

    def hear(self, told: JobProgress) -> None:
        """Show what a job says; of very many that do so only some are shown."""
        said = told.progress
        if told.job not in self._bars:
            if len(self._bars) >= _MOST_BARS:
                return
            self._bars[told.job] = self._display.add_task(f"job {told.job}", total=None, said="")
        bar = self._bars[told.job]
        # without a fraction the bar moves to and fro
        total = None if said.fraction is None else 1.0
        self._display.update(bar, total=total, completed=said.fraction or 0.0, said=_words(said))

    def finish(self, job: Job) -> None:
        """Take the job's bar away, count it, and say above the bars how it ended."""
        self._display.console.print(f"{job.id} {describe_end(job)}", markup=False, soft_wrap=True)
        self._finished += 1
        if self._all is not None:
            self._display.update(self._all, completed=self._finished, said=self._count())
        if job.id in self._bars:
            self._display.remove_task(self._bars.pop(job.id))

    def _count(self) -> str:
        return f"{self._finished} of {self._jobs} jobs"


def _words(said: Progress) -> str:
    return progress_line(said) if said.fraction is not None else one_line(said.message or "")


_MOST_BARS = 10  # of single jobs; a screen has to hold them, beside what is printed above


@verb(
    "progress",
    "bgctl progress 40%",
    "bgctl progress 3/10 'the third file'",
    "bgctl progress 'still counting'",
    "bgctl progress - '1 of who knows how many'",
)
@click.argument("fraction", metavar="FRACTION")
@click.argument("message", required=False)
def progress_command(fraction: str, message: str | None) -> int:
    """Say, in a job, how far it is.

    FRACTION is 0.4, 40% or 4/10, or - where nobody knows. What is said takes the place of what was said
    before. It prints nothing, unless JSON is asked for.
    """
    job, attempt = _own_attempt()
    if message is None and fraction != _NONE and not _LOOKS_LIKE_A_NUMBER.match(fraction):
        fraction, message = _NONE, fraction
    said = Progress(None if fraction == _NONE else _share(fraction), _cut(message or "") or None)
    with client() as daemon:
        daemon.set_progress(job, attempt, said.fraction, said.message)
    if global_options().json:
        print_json({"job": job, "attempt": attempt, "progress": progress_as_json(said)})
    return 0


def _own_attempt() -> tuple[int, int]:
    try:
        return int(os.environ["BGD_JOB_ID"]), int(os.environ["BGD_ATTEMPT"])
    except (KeyError, ValueError):
        raise click.UsageError(
            "this is no job: progress is told from inside one, which has BGD_JOB_ID and BGD_ATTEMPT"
        ) from None


def _share(text: str) -> float:
    found = _SHARE.fullmatch(text)
    if found is None:
        raise click.UsageError(f"{text!r} is no fraction: write 0.4, 40% or 4/10, and - before a message")
    whole = float(found["of"] or (100 if found["percent"] else 1))
    if not whole:
        raise click.UsageError(f"{text!r} is no fraction: nothing is a part of 0")
    share = float(found["number"]) / whole
    if share > 1:
        raise click.UsageError(f"{text!r} is more than all of it: write 0.4, 40% or 4/10")
    return share


_NONE = "-"
_LOOKS_LIKE_A_NUMBER = re.compile(r"[+-]?\.?[0-9]")
_NUMBER = r"[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18}"
_SHARE = re.compile(rf"(?P<number>{_NUMBER})(?:(?P<percent>%)|/(?P<of>{_NUMBER}))?")


def _cut(message: str) -> str:
    """Return the beginning of a message that is too long; what is not UTF-8 is made visible."""
    return message.encode(errors="backslashreplace").decode()[:MAX_PROGRESS_MESSAGE]
