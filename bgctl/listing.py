"""The verbs list, stats and events: jobs, statistics about them, and their events."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from bgctl.common import (
    STATE_COLORS,
    client,
    excerpt,
    global_options,
    has_colors,
    is_terminal,
    local_time,
    print_columns,
    print_json,
    say,
    verb,
)
from bgctl.options import FINISHED, TIME_LIMIT, whole_number
from bgctl.selecting import with_filters
from bgd import Client, Job, State
from bgd.escape import one_line
from bgd.formatting import (
    command_line,
    iso_time,
    job_as_json,
    progress_as_json,
    progress_line,
    progress_of,
    run_time,
    short_duration,
)
from bgd.units import format_duration
from bgd.wire.replies import Stats
from bgd.wire.requests import DEFAULT_LIST, MAX_EVENT, MAX_LIST
from bgd.wire.views import EventView

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
@click.option("--sort", type=click.Choice(list(_SORT_KEYS)), help="Sort by this key; default: newest first.")
@click.option("-q", "--quiet", is_flag=True, help="Print only ids.")
def list_command(
    *, filters: dict[str, Any], limit: int, before: int | None, sort: str | None, quiet: bool
) -> int:
    """List unfinished and latest finished jobs."""
    with client() as daemon:
        jobs = _jobs(daemon, filters, limit=limit, before=before, sort=sort)
        pause = _why_paused(daemon, jobs) if is_terminal() else None
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
            options = _options_for_rest(jobs, is_by_id=bool(before or filters["states"]))
            say(f"showing {len(jobs)} jobs; there may be more: {options}")
        if pause is not None:
            say(pause)
    return 0


def _jobs(
    daemon: Client, filters: dict[str, Any], *, limit: int, before: int | None, sort: str | None
) -> list[Job]:
    """Return the first `limit` jobs, newest first or in the requested order."""
    if sort is None:
        return daemon.jobs(**filters, limit=limit, before=before)
    jobs: list[Job] = []
    page = daemon.jobs(**filters, limit=MAX_LIST, before=before)
    while page:
        jobs += page
        page = daemon.jobs(**filters, limit=MAX_LIST, before=page[-1].id) if len(page) == MAX_LIST else []
    return sorted(jobs, key=_SORT_KEYS[sort])[:limit]


def _options_for_rest(jobs: list[Job], *, is_by_id: bool) -> str:
    """Return the options that list the remaining jobs.

    A list that is not ordered by id alone starts with all running and waiting jobs, however old. Its next
    page starts below the oldest finished job.
    """
    ids = [job.id for job in jobs if is_by_id or job.state in FINISHED]
    return f"--limit N, --before {min(ids)}" if ids else "--limit N"


def _why_paused(daemon: Client, jobs: list[Job]) -> str | None:
    """Return which pause keeps any of these jobs from starting; None if there is none."""
    waiting = {job.queue for job in jobs if job.state is State.QUEUED}
    if not waiting:
        return None
    queues = daemon.queues()
    if queues.obstacle is not None:
        return f"nothing starts: {queues.obstacle}"
    if queues.paused:
        return "all queues are paused: `bgctl resume` starts jobs again"
    paused = [queue.name for queue in queues.queues if queue.paused and queue.name in waiting]
    return f"paused: {_first_of(paused)}: `bgctl resume QUEUE` starts its jobs again" if paused else None


def _print_jobs(jobs: list[Job]) -> None:
    now = time.time()
    headings: tuple[str, ...] = HEADINGS
    rows = [_row(job, now) for job in jobs]
    if any(progress_of(job.view) for job in jobs):
        headings = (*headings[:-1], _PROGRESS, headings[-1])
        cells = [progress_line(progress_of(job.view)) or "-" for job in jobs]
        rows = [(*row[:-1], cell, row[-1]) for row, cell in zip(rows, cells, strict=True)]
    if is_terminal() or has_colors():  # the second for `less -R`
        _print_table(headings, rows)
    else:
        print_columns(headings, rows)


HEADINGS = ("ID", "STATE", "PRIORITY", "QUEUE", "ATTEMPT", "AGE", "TIME", "NAME", "COMMAND")
_PROGRESS = "PROGRESS"  # column before the command, if any job reports progress


def _row(job: Job, now: float) -> tuple[str, ...]:
    return (
        str(job.id),
        "suspended" if job.suspended else job.state,
        str(job.priority),
        job.queue,
        f"{job.attempt}/{max(job.attempt, job.retries + 1)}",
        short_duration(now - job.created_at),
        _time_cell(job, now) or "-",
        one_line(job.name or "-"),
        command_line(job.view),
    )


def _time_cell(job: Job, now: float) -> str:
    """Return what the next attempt waits for, or the run time of the latest attempt."""
    if job.state is State.BLOCKED and job.waits_for:
        return f"after:{_first_of(job.waits_for)}"
    if job.state is State.SCHEDULED and job.due_at is not None:
        return f"in:{short_duration(job.due_at - now)}"
    return run_time(job.view)


def _first_of(things: Sequence[object]) -> str:
    """Return the first few things and the number of others."""
    named = ",".join(map(str, things[:_MAX_NAMED]))
    more = len(things) - _MAX_NAMED
    return f"{named},+{more}" if more > 0 else named


_MAX_NAMED = 3  # jobs or queues in a narrow cell


def _print_table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table that fits the terminal, one job per line.

    Cut long names and commands, with an ellipsis. Omit the column NAME if no job has a name. If the terminal
    is too narrow, omit other columns: first those with only default values, then the least useful. Never cut
    ids and states.
    """
    # rich is slow to import, and columns for programs do not need it
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    columns = {heading: [row[index] for row in rows] for index, heading in enumerate(headings)}
    if not set(columns["NAME"]) - {"-"}:
        del columns["NAME"]
    console = Console(color_system="standard" if has_colors() else None, highlight=False)
    widths = _column_widths(columns, console.width)
    # let an even narrower terminal wrap lines, because rich would cut ids
    console.width = max(console.width, sum(widths.values()) + _GAP * (len(widths) - 1))
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for heading in widths:
        table.add_column(heading, justify="right" if heading in _RIGHT_ALIGNED else "left", no_wrap=True)
    for cells in zip(*(columns[heading] for heading in widths), strict=True):
        row = []
        for heading, cell in zip(widths, cells, strict=True):
            text = Text(cell, style=STATE_COLORS.get(cell, "") if heading == "STATE" else "")
            text.truncate(widths[heading], overflow="ellipsis")
            row.append(text)
        table.add_row(*row)
    console.print(table)


def _column_widths(columns: dict[str, list[str]], width: int) -> dict[str, int]:
    """Return the columns that fit, in order, with their widths."""
    widths = {heading: max(map(len, [heading, *cells])) for heading, cells in columns.items()}
    for heading in widths.keys() & _MAX_WIDTHS:
        widths[heading] = min(widths[heading], _MAX_WIDTHS[heading])
    longest_command = widths.pop("COMMAND")
    uniform = [heading for heading, usual in _DEFAULT_VALUES.items() if set(columns[heading]) == {usual}]
    wanted = [(heading, _GOOD_COMMAND_WIDTH) for heading in (*uniform, "ATTEMPT")]
    for heading, cells in (*wanted, *((heading, _MIN_COMMAND_WIDTH) for heading in _DROP_ORDER)):
        if _space_left(widths, width) < min(cells, longest_command):
            widths.pop(heading, None)
    return widths | {"COMMAND": max(_space_left(widths, width), _MIN_COMMAND_WIDTH)}


def _space_left(widths: dict[str, int], width: int) -> int:
    return width - sum(widths.values()) - _GAP * len(widths)


_GAP = 2  # blanks between columns
_MIN_COMMAND_WIDTH = 10  # cells; a narrower command is useless
_GOOD_COMMAND_WIDTH = 20  # cells; a narrower command says little
_MAX_WIDTHS = {"NAME": 20, "PROGRESS": 24}
_RIGHT_ALIGNED = {"ID", "PRIORITY", "ATTEMPT", "AGE", "TIME"}
_DEFAULT_VALUES = {"QUEUE": "default", "PRIORITY": "0"}
_DROP_ORDER = ("AGE", "TIME", "PRIORITY", "QUEUE", "NAME", "PROGRESS")  # least useful first
_DEFAULT_WINDOW = 3600.0  # seconds


@verb(
    "stats",
    "bgctl stats",
    "bgctl stats --window 1d --json",
)
@click.option(
    "--window", type=TIME_LIMIT, default=_DEFAULT_WINDOW, metavar="D", help="Look back this far; default: 1h."
)
def stats_command(*, window: float) -> int:
    """Show the number of jobs, and recent outcomes and times."""
    with client() as daemon:
        stats = daemon.stats(window=window)
    if global_options().json:
        print_json(_stats_as_json(stats))
    else:
        for label, value in _stats_lines(stats):
            click.echo(f"{label:<11}{value}")
    return 0


def _stats_as_json(stats: Stats) -> dict[str, object]:
    fields: dict[str, object] = {
        name: getattr(stats, name) for name in stats.__struct_fields__ if name != "id"
    }
    return fields | {"oldest_queued_at": iso_time(stats.oldest_queued_at)}


def _stats_lines(stats: Stats) -> list[tuple[str, str]]:
    oldest = stats.oldest_queued_at
    return [
        ("jobs", _counts(stats.counts)),
        ("ended", f"{_counts(stats.outcomes)} in the last {format_duration(stats.window)}"),
        ("waited", _times(stats.wait_median, stats.wait_p95)),
        ("ran", _times(stats.run_median, stats.run_p95)),
        ("oldest", "none is queued" if oldest is None else f"queued {local_time(oldest, time.time())}"),
    ]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"


def _times(median: float | None, p95: float | None) -> str:
    if median is None or p95 is None:
        return "-"
    return f"half up to {short_duration(median)}, 95 % up to {short_duration(p95)}"


@verb(
    "events",
    "bgctl events -f",
    "bgctl events --since 1200 | jq -c 'select(.state == \"failed\")'",
)
@click.option("-f", "--follow", is_flag=True, help="Continue with new events until Ctrl-C.")
@click.option(
    "--since",
    type=whole_number(0, MAX_EVENT),
    metavar="ID",
    help="Start after this event; 0 means all kept events.",
)
def events_command(*, follow: bool, since: int | None) -> int:
    """Print events of jobs.

    Each event is one line: a JSON object or, on a terminal, plain text. Without --since, print all kept
    events, or with -f only new ones. Progress is not kept, so only -f shows it.
    """
    as_text = is_terminal() and not global_options().json
    with client() as daemon:
        for event in daemon.events(since=since, follow=follow, progress=True):
            if as_text:
                click.echo(_event_line(event))
            else:
                print_json(_event_as_json(event))
    return 0


def _event_as_json(event: EventView) -> dict[str, object]:
    fields: dict[str, object] = {name: getattr(event, name) for name in event.__struct_fields__}
    return fields | {"at": iso_time(event.at), "progress": progress_as_json(event.progress)}


def _event_line(event: EventView) -> str:
    at = datetime.fromtimestamp(event.at).astimezone()
    status = event.state if event.progress is None else progress_line(event.progress)
    words = [f"{at:%H:%M:%S}", f"job {event.job}", f"{event.what}:", status]
    if event.attempt:
        words.append(f"(attempt {event.attempt}{f', {event.outcome}' if event.outcome else ''})")
    if event.reason:
        words.append(excerpt(event.reason))
    return " ".join(words)
