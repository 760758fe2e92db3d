"""wait: until jobs have finished."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import click

from bgctl.common import client, global_options, is_terminal, print_json, say, verb
from bgctl.exit_codes import FAILED, describe_end, exit_code_of
from bgctl.options import DURATION, UNFINISHED, chosen_ids
from bgctl.selecting import Selection, with_selection
from bgd import Job
from bgd.formatting import job_as_json, progress_as_json, progress_line
from bgd.wire.views import JobProgress


@verb(
    "wait",
    "bgctl wait 12",
    "bgctl wait --timeout 10m 3-9",
    "bgctl wait --any 4 5",
    "bgctl wait --queue mail",
    "bgctl wait --progress 12",
)
@with_selection(UNFINISHED, may_be_nothing=True)
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


def _teller(jobs: int, *, has_bars: bool) -> AbstractContextManager[Teller]:
    """Return lines, or bars where a person wants them."""
    if not has_bars or global_options().json or not is_terminal():
        return nullcontext(_Lines())
    from bgctl.bars import bars  # noqa: PLC0415 - it is slow to import

    return bars(jobs)
