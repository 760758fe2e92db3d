"""list: the jobs there are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import click

from bgctl.common import client, global_options, is_terminal, print_columns, print_json, say, verb
from bgctl.options import FINISHED, whole_number
from bgctl.selecting import with_filters
from bgd import Client, Job, State
from bgd.escape import one_line
from bgd.formatting import command_line, job_as_json, progress_line, progress_of, run_time, short_duration
from bgd.wire.requests import DEFAULT_LIST, MAX_LIST

_SORT_KEYS: dict[str, Callable[[Job], tuple[object, ...]]] = {
    "id": lambda job: (job.id,),
    "state": lambda job: (list(State).index(job.state), -job.id),
    "priority": lambda job: (-job.priority, job.id),
    "queue": lambda job: (job.queue, job.id),
    "name": lambda job: (job.name or "", job.id),
    "created": lambda job: (job.created_at, job.id),
    "started": lambda job: (job.started_at or 0.0, job.id),
    "finished": lambda job: (job.finished_at or 0.0, job.id),
}

_MOST_NAMED = 3  # jobs or queues, where there is little room

HEADINGS = ("ID", "STATE", "PRIORITY", "QUEUE", "ATTEMPT", "AGE", "TIME", "NAME", "COMMAND")
PROGRESS = "PROGRESS"  # before the command, where a job has any


@verb(
    "list",
    "bgctl list",
    "bgctl list --state failed --since 1d",
    "bgctl logs -f $(bgctl list -q --state running)",
)
@with_filters
@click.option(
    "--limit",
    type=whole_number(1, MAX_LIST),
    default=DEFAULT_LIST,
    show_default=True,
    metavar="N",
    help="Limit on jobs listed.",
)
@click.option(
    "--before", type=whole_number(1, 2**63 - 1), metavar="ID", help="List only jobs with lower ids."
)
@click.option("--sort", type=click.Choice(list(_SORT_KEYS)), help="In this order; else the newest first.")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
def list_command(
    *, filters: dict[str, Any], limit: int, before: int | None, sort: str | None, quiet: bool
) -> int:
    """List unfinished and the latest finished jobs."""
    with client() as daemon:
        jobs = _jobs(daemon, filters, limit=limit, before=before, sort=sort)
        pause = _pause(daemon, jobs) if is_terminal() else None
    is_cut = len(jobs) == limit
    if global_options().json:
        print_json([job_as_json(job.view) for job in jobs])
    elif quiet:
        for job in jobs:
            click.echo(job.id)
    elif not jobs:
        say("no jobs match" if any(filters.values()) or before else "no jobs yet")
    else:
        _print_jobs(jobs)
        if is_cut and is_terminal():
            way_on = _way_on(jobs, is_by_id=bool(before or filters["states"]))
            say(f"these are {len(jobs)}; there may be more: {way_on}")
        if pause is not None:
            say(pause)
    return 0


def _jobs(
    daemon: Client, filters: dict[str, Any], *, limit: int, before: int | None, sort: str | None
) -> list[Job]:
    """Return the first `limit` jobs, newest first or in the order asked for."""
    if sort is None:
        return daemon.jobs(**filters, limit=limit, before=before)
    jobs: list[Job] = []
    page = daemon.jobs(**filters, limit=MAX_LIST, before=before)
    while page:
        jobs += page
        page = daemon.jobs(**filters, limit=MAX_LIST, before=page[-1].id) if len(page) == MAX_LIST else []
    return sorted(jobs, key=_SORT_KEYS[sort])[:limit]


def _way_on(jobs: list[Job], *, is_by_id: bool) -> str:
    """Return the options that list the rest.

    A list that is not by ids alone begins with all that runs or waits, however old: its oldest finished job
    leads on.
    """
    ids = [job.id for job in jobs if is_by_id or job.state in FINISHED]
    return f"--limit N, --before {min(ids)}" if ids else "--limit N"


def _pause(daemon: Client, jobs: list[Job]) -> str | None:
    """Say which pause keeps queued ones of these jobs from starting; None if none does."""
    waiting = {job.queue for job in jobs if job.state is State.QUEUED}
    if not waiting:
        return None
    queues = daemon.queues()
    if queues.obstacle is not None:
        return f"nothing starts: {queues.obstacle}"
    if queues.paused:
        return "all queues are paused: `bgctl resume` lets jobs start"
    paused = [queue.name for queue in queues.queues if queue.paused and queue.name in waiting]
    return f"paused: {_few(paused)}: `bgctl resume QUEUE` lets its jobs start" if paused else None


def _print_jobs(jobs: list[Job]) -> None:
    now = time.time()
    headings: tuple[str, ...] = HEADINGS
    rows = [_row(job, now) for job in jobs]
    if any(progress_of(job.view) for job in jobs):
        headings = (*headings[:-1], PROGRESS, headings[-1])
        said = [progress_line(progress_of(job.view)) or "-" for job in jobs]
        rows = [(*row[:-1], how_far, row[-1]) for row, how_far in zip(rows, said, strict=True)]
    if is_terminal():
        from bgctl.table import print_table  # noqa: PLC0415 - it is slow to import

        print_table(headings, rows)
    else:
        print_columns(headings, rows)


def _row(job: Job, now: float) -> tuple[str, ...]:
    return (
        str(job.id),
        "suspended" if job.suspended else job.state,
        str(job.priority),
        job.queue,
        f"{job.attempt}/{max(job.attempt, job.retries + 1)}",
        short_duration(now - job.created_at),
        _time_of(job, now) or "-",
        one_line(job.name or "-"),
        command_line(job.view),
    )


def _time_of(job: Job, now: float) -> str:
    """Return what the next attempt waits for, or how long the latest took or has been running."""
    if job.state is State.BLOCKED and job.waits_for:
        return f"after:{_few(job.waits_for)}"
    if job.state is State.SCHEDULED and job.due_at is not None:
        return f"in:{short_duration(job.due_at - now)}"
    return run_time(job.view)


def _few(things: Sequence[object]) -> str:
    named = ",".join(map(str, things[:_MOST_NAMED]))
    more = len(things) - _MOST_NAMED
    return f"{named},+{more}" if more > 0 else named
