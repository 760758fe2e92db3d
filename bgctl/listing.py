"""list: the jobs there are."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from bgctl.common import client, common, is_terminal, say, verb
from bgctl.joboptions import QUEUE_NAME
from bgctl.show import brief, command_line, job_as_json, print_json
from bgctl.terminal import one_line
from bgd import Job, State
from bgd.units import parse_duration
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

_VISIBLE_BLANK = "\N{OPEN BOX}"

HEADINGS = ("ID", "STATE", "PRIORITY", "QUEUE", "ATTEMPT", "AGE", "TIME", "NAME", "COMMAND")


class Instant(click.ParamType[float]):
    """A point in the past: how long ago, or a date."""

    name = "when"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read "2h", "2026-10-01" or "2026-10-01 14:30", local unless it says otherwise."""
        if isinstance(value, float):
            return value
        text = str(value)
        try:
            return time.time() - parse_duration(text)
        except ValueError:
            pass
        try:
            return datetime.fromisoformat(text).timestamp()
        except ValueError:
            self.fail(f"{text!r} is neither how long ago, as 2h, nor a date, as 2026-10-01 14:30", param, ctx)


@verb(
    "list",
    "bgctl list",
    "bgctl list --state failed --since 1d",
    "bgctl cancel $(bgctl list -q --name 'nightly-*')",
)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([str(state) for state in State]),
    help="In this state; several may be given.",
)
@click.option("--queue", type=QUEUE_NAME, metavar="NAME", help="In this queue.")
@click.option("--name", metavar="GLOB", help="Whose name is like this: * and ? stand for anything.")
@click.option("--tag", metavar="TEXT", help="With this tag.")
@click.option("--since", type=Instant(), metavar="WHEN", help="Submitted since 2h ago, or since 2026-10-01.")
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_LIST),
    default=DEFAULT_LIST,
    show_default=True,
    metavar="N",
    help="At most so many.",
)
@click.option("--sort", type=click.Choice(list(_SORT_KEYS)), help="In this order; else the newest first.")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
def list_command(*, sort: str | None, quiet: bool, **filters: Any) -> int:
    """List unfinished and the latest finished jobs."""
    with client() as daemon:
        jobs = daemon.jobs(**filters)
    is_cut = len(jobs) == filters["limit"]
    if sort is not None:
        jobs.sort(key=_SORT_KEYS[sort])
    if common().json:
        print_json([job_as_json(job.view) for job in jobs])
    elif quiet:
        for job in jobs:
            click.echo(job.id)
    elif not jobs:
        is_choice = any(value for name, value in filters.items() if name != "limit")
        say("no jobs match" if is_choice else "no jobs yet")
    else:
        _print_jobs(jobs)
        if is_cut and is_terminal():
            say(f"these are {len(jobs)}; there may be more: --limit N")
    return 0


def _print_jobs(jobs: list[Job]) -> None:
    now = time.time()
    rows = [_row(job, now) for job in jobs]
    if is_terminal():
        from bgctl.table import print_table  # noqa: PLC0415 - it is slow to import

        print_table(HEADINGS, rows)
    else:
        print_columns(HEADINGS, rows)


def print_columns(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print aligned columns for programs: split at blanks, all but the last hold none."""
    lines = [
        headings,
        *((*(cell.replace(" ", _VISIBLE_BLANK) for cell in row[:-1]), row[-1]) for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _row(job: Job, now: float) -> tuple[str, ...]:
    return (
        str(job.id),
        job.state,
        str(job.priority),
        job.queue,
        f"{job.attempt}/{max(job.attempt, job.retries + 1)}",
        brief(now - job.created_at),
        _time_of(job, now),
        one_line(job.name or "-"),
        command_line(job.view),
    )


def _time_of(job: Job, now: float) -> str:
    """Return how long the latest attempt took or has been running, or when the next is due."""
    if job.state is State.SCHEDULED and job.due_at is not None:
        return f"in:{brief(job.due_at - now)}"
    if job.started_at is None:
        return "-"
    return brief((job.finished_at or now) - job.started_at)
