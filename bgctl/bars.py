"""Bars for a terminal: how far jobs say they are, while somebody waits for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from bgctl.common import has_colors
from bgctl.exit_codes import describe_end
from bgd import Job
from bgd.escape import one_line
from bgd.formatting import progress_line
from bgd.wire.views import JobProgress
from bgd.wire.views import Progress as Said

_MOST_BARS = 10  # of single jobs; a screen has to hold them, beside what is printed above


@contextmanager
def bars(jobs: int) -> Iterator[Bars]:
    """Show bars below what is printed meanwhile, and take them away in the end."""
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[said]}", markup=False),
    ]
    console = Console(color_system="auto" if has_colors() else None, highlight=False)
    # whoever else writes to the terminal meanwhile would be written into the bars: nobody does
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as display:
        yield Bars(display, jobs)


class Bars:
    """A bar for each job that says how far it is, and one for all of them if there are several.

    Args:
        jobs: how many are waited for.
    """

    def __init__(self, display: Progress, jobs: int) -> None:
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


def _words(said: Said) -> str:
    return progress_line(said) if said.fraction is not None else one_line(said.message or "")
