"""wait: until jobs have finished."""

from __future__ import annotations

import click

from bgctl.common import client, common, say, verb
from bgctl.ids import chosen_ids
from bgctl.kinds import DURATION
from bgctl.selecting import UNFINISHED, Selection, with_selection
from bgctl.show import job_as_json, print_json
from bgctl.verdict import FAILED, exit_code_of, words_for
from bgd import Job


@verb(
    "wait",
    "bgctl wait 12",
    "bgctl wait --timeout 10m 3-9",
    "bgctl wait --any 4 5",
    "bgctl wait --queue mail",
)
@with_selection(UNFINISHED, may_be_nothing=True)
@click.option("--any", "any_of_them", is_flag=True, help="Only for the first of them.")
@click.option("--timeout", type=DURATION, metavar="D", help="Give up after so long, and exit with 75.")
def wait_command(selection: Selection, *, any_of_them: bool, timeout: float | None) -> int:
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
        for job in daemon.as_finished(job_ids, timeout=timeout):
            _tell(job)
            finished.append(exit_code_of(job))
            if any_of_them:
                break
    if len(job_ids) == 1:
        return finished[0]
    return FAILED if any(finished) else 0


def _tell(job: Job) -> None:
    if common().json:
        print_json(job_as_json(job.view))
    else:
        click.echo(f"{job.id} {words_for(job)}")
