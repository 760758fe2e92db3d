"""The verbs list, stats and events: jobs, statistics about them, and their events."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click
from msgspec import Struct

from bgctl.columns import (
    FOR_PROGRAMS,
    cells_for_programs,
    column_cells,
    columns_of,
    excerpt,
    first_of,
    group_of,
    options_for_rest,
)
from bgctl.common import (
    answer,
    global_options,
    has_colors,
    is_terminal,
    labelled,
    print_json,
    print_json_array,
    print_lines,
    result_word,
    say,
    state_color,
)
from bgctl.options import TIME_LIMIT, JobIdRanges, whole_number, with_ids
from bgctl.selecting import all_matching, jobs_matching, with_filters
from bgctl.tables import ALL_PAUSED, local_time, table_of
from bgctl.terminal import cells_of, fitted, screen_size
from bgctl.verbs import verb
from bgd import Client, Job, Outcome, State
from bgd.core.filters import STATE_NAMES, SUSPENDED
from bgd.text import brief
from bgd.text.brief import command_line, progress_line, run_time, short_duration
from bgd.text.escape import one_line
from bgd.text.formatting import (
    as_json,
    clock_time,
    is_slow,
    job_as_json,
    load,
    reply_as_json,
    state_in_words,
    why_queued,
)
from bgd.text.units import format_duration, format_size
from bgd.wire.replies import Stats
from bgd.wire.requests import DEFAULT_LIST, MAX_EVENT, MAX_LIST
from bgd.wire.views import EventView, GroupStats, JobUsage, JobView, ScheduleEvent

Usages = Mapping[int, JobUsage]  # what running jobs use now, by id

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
USAGE_KEYS: dict[str, Callable[[JobUsage], float]] = {
    "cpu": lambda usage: usage.cpu_percent or 0.0,
    "memory": lambda usage: usage.memory_bytes,
}
_SELECTING = "--state, --queue, --name and --tag select jobs, `bgctl show ID` shows one"
GROUPS = [tuple(map(State, states)) for states in brief.GROUPS]  # in the order of a list


class Query(Struct, frozen=True, kw_only=True):
    """Which jobs a list shows, and in which order.

    `limit` None: as many as fit on the terminal, in a pipe the daemon's usual limit, and all for JSON and
    ids. `sort` None: running jobs, then waiting ones, then finished ones, the newest of each first; after an
    id (`before`) all newest first.
    """

    filters: dict[str, Any]
    ids: JobIdRanges = ()
    limit: int | None = None
    before: int | None = None
    shows_all: bool = False
    sort: str | None = None
    reverse: bool = False
    usage: bool = False

    @property
    def needs_usage(self) -> bool:
        """Whether it shows, or sorts by, what running jobs use now."""
        return self.usage or self.sort in USAGE_KEYS


@verb(
    "bgctl list",
    "bgctl list --state failed --since 1d",
    "bgctl list 64-363",
    "bgctl list --sort started --reverse -n 20",
    "bgctl logs -f $(bgctl list --ids --state running)",
)
@with_filters
@click.option(
    "-n",
    "--limit",
    type=whole_number(1, MAX_LIST),
    metavar="N",
    help="Limit on jobs.",
)
@click.option("-a", "--all", "shows_all", is_flag=True, help="List all jobs.")
@click.option(
    "--before", type=whole_number(1, 2**63 - 1), metavar="ID", help="List only jobs with lower ids."
)
@click.option(
    "--sort",
    type=click.Choice([*_SORT_KEYS, *USAGE_KEYS]),
    metavar="KEY",
    help="Sort by one of the keys above.",
)
@click.option("-r", "--reverse", is_flag=True, help="Reverse the order.")
@click.option("--usage", is_flag=True, help="Show CPU, memory and processes of running jobs.")
@click.option("--ids", "only_ids", is_flag=True, help="Print only ids.")
@click.option("-w", "--watch", is_flag=True, help="Redraw the list when it changes; q quits.")
@with_ids()
def list_command(daemon: Client, *, only_ids: bool, watch: bool, **given: Any) -> None:
    """List jobs: running first, then waiting, then finished.

    With IDs, such as 64-363, list all of these that exist and match.

    The newest of each come first. --sort KEY sorts by id, state, priority, queue, name, created, started,
    finished, cpu or memory. It puts the lowest or earliest first, or the highest priority, CPU or memory;
    --reverse reverses any order. On a terminal, the list has as many jobs as fit, in a pipe 50. With --json
    or --ids it has all.
    """
    query = Query(**given)
    if names := [part for word in query.ids for part in word if isinstance(part, str)]:
        hint = f"type `bgctl list --state {names[0]}`" if names[0] in STATE_NAMES else _SELECTING
        raise click.UsageError(f"{names[0]!r} is not an id: {hint}")
    if query.shows_all and query.limit is not None:
        raise click.UsageError("--all and --limit cannot be combined")
    if watch:
        from bgctl.watching import watch_jobs  # noqa: PLC0415 - most lists are printed once

        watch_jobs(daemon, query)
    else:
        print_list(daemon, query, only_ids=only_ids)


def print_list(daemon: Client, query: Query, *, only_ids: bool = False) -> None:
    """Print jobs: as JSON, as a table, or as columns for programs."""
    usages = running_usages(daemon) if query.needs_usage else None
    if global_options().json:
        print_json_array(job_with_usage(job, usages) for job in _jobs_for_programs(daemon, query, usages))
        return
    if only_ids:
        for job in _jobs_for_programs(daemon, query, usages):
            print(job.id)
        sys.stdout.flush()
        return
    columns, lines = screen_size()
    fits = lines if is_terminal() and query.limit is None and not _is_whole(query) else None
    jobs, notes = listed(daemon, query, fits, usages)
    if not jobs:
        say(no_jobs(query))
    # colors: for `less -R`; $FORCE_COLOR does not change what programs read
    elif is_terminal() or global_options().color == "always":
        print_lines(*table_lines([job.view for job in jobs], columns, time.time(), usages))
    else:
        _print_for_programs(jobs, usages)
    for note in notes:
        say(note)


def running_usages(daemon: Client) -> Usages:
    """Return what running jobs use now; say why if nothing is known."""
    answer = daemon.usage()
    if answer.problem is not None:
        say(f"what jobs use is not known: {answer.problem}")
    return answer.jobs


def job_with_usage(job: Job, usages: Usages | None) -> dict[str, object]:
    """Return a job for JSON, with what it uses now if that was asked for; null: nothing."""
    fields = job_as_json(job.view)
    return fields if usages is None else fields | {"usage": as_json(usages.get(job.id))}


def no_jobs(query: Query) -> str:
    """Return the message in place of an empty list."""
    return "no jobs match" if any(query.filters.values()) or query.before or query.ids else "no jobs yet"


def _is_whole(query: Query) -> bool:
    """Return whether to list all jobs that match, whatever fits."""
    return query.shows_all or bool(query.ids)


def listed(
    daemon: Client, query: Query, lines: int | None, usages: Usages | None = None
) -> tuple[list[Job], list[str]]:
    """Return the jobs that a list shows, in order, and notes for users.

    `lines`: of the terminal that the jobs and notes must fit on, with a line for the prompt; None: no limit.
    """
    if lines is not None:
        most = max(lines - _OTHER_LINES, _FEWEST_LINES)
        jobs, has_more = _jobs_that_fit(daemon, query, most, usages)
        rest = [_describe_rest(daemon, query, jobs)] if has_more else []
    else:
        limit = query.limit or (None if _is_whole(query) else DEFAULT_LIST)
        jobs = _jobs(daemon, query, limit, usages)
        is_cut = len(jobs) == limit and (query.limit is None or is_terminal())
        rest = [_options_for_rest(query, jobs)] if is_cut else []
    pause = _why_paused(daemon, jobs) if is_terminal() else None
    return jobs, rest + ([] if pause is None else [pause])


_OTHER_LINES = 4  # headings, two notes, and the prompt
_FEWEST_LINES = 5  # jobs even on a tiny terminal


def _jobs_for_programs(daemon: Client, query: Query, usages: Usages | None) -> Iterable[Job]:
    """Return all jobs that a query without a limit selects, page by page if it has no order of its own."""
    if query.limit or query.sort or query.reverse:
        return _jobs(daemon, query, query.limit, usages)
    return all_matching(daemon, query.filters, query.ids, query.before)


def _options_for_rest(query: Query, jobs: list[Job]) -> str:
    is_by_id, is_sorted = bool(query.before or query.filters["states"]), bool(query.sort or query.reverse)
    return options_for_rest([job.view for job in jobs], is_by_id=is_by_id, is_sorted=is_sorted)


def _jobs(daemon: Client, query: Query, limit: int | None, usages: Usages | None) -> list[Job]:
    """Return the first `limit` jobs in the order of the query; None means all."""
    step = -1 if query.reverse else 1
    if query.sort is None:
        found = jobs_matching(daemon, query.filters, query.ids, limit=limit, before=query.before)
        return (found if query.before else sorted(found, key=lambda job: group_of(job.view)))[::step]
    found = jobs_matching(daemon, query.filters, query.ids, before=query.before)
    if query.sort in USAGE_KEYS:
        return _by_usage(found, query.sort, usages or {})[::step][:limit]
    return sorted(found, key=_SORT_KEYS[query.sort])[::step][:limit]


def _by_usage(jobs: list[Job], key: str, usages: Usages) -> list[Job]:
    """Sort jobs by what they use, highest first; jobs without figures come last."""
    return sorted(jobs, key=lambda job: (-USAGE_KEYS[key](usages[job.id]) if job.id in usages else 1, job.id))


def _jobs_that_fit(daemon: Client, query: Query, most: int, usages: Usages | None) -> tuple[list[Job], bool]:
    """Return at most this many jobs in the order of the query, and whether there are others.

    All running jobs are among them if they fit. Waiting and finished jobs share the rest.
    """
    if query.sort is not None or query.before is not None:
        found = _jobs(daemon, query, most + 1, usages)
        return found[:most], len(found) > most
    running, waiting, finished = (
        jobs_matching(daemon, query.filters | {"states": names}, query.ids, limit=most + 1) if names else []
        for names in (_names_within(query.filters["states"], states) for states in GROUPS)
    )
    left = max(most - len(running), 0)
    for_waiting = max(left - len(finished), (left + 1) // 2)
    shown = running[:most] + waiting[:for_waiting]
    shown += finished[: most - len(shown)]
    has_more = len(shown) < len(running) + len(waiting) + len(finished)
    return shown[::-1] if query.reverse else shown, has_more


def _names_within(asked: Sequence[str], states: Sequence[str]) -> list[str]:
    """Return the names of those of these states that were asked for; all if none was."""
    return [
        name for name in asked or states if name in states or (name == SUSPENDED and State.RUNNING in states)
    ]


def _describe_rest(daemon: Client, query: Query, jobs: list[Job]) -> str:
    """Return a hint about the jobs that do not fit on the terminal."""
    if any(query.filters.values()) or query.before is not None:
        return "more jobs match: `bgctl list` lists them with --all"
    shown = Counter(job.state for job in jobs)
    counts = daemon.info().counts
    rest = [f"{count} {state}" for state in State if (count := counts.get(state, 0) - shown[state]) > 0]
    others = f"not shown: {', '.join(rest)}; " if rest else ""
    return f"{others}`bgctl list --all` lists {'them' if rest else 'the other jobs'}"


def _why_paused(daemon: Client, jobs: list[Job]) -> str | None:
    """Return which pause keeps any of these jobs from starting; None if there is none."""
    waiting = {job.queue for job in jobs if job.state is State.QUEUED}
    if not waiting:
        return None
    queues = daemon.queues()
    if queues.obstacle is not None:
        return f"nothing starts: {queues.obstacle}"
    if queues.paused:
        return ALL_PAUSED
    paused = [queue.name for queue in queues.queues if queue.paused and queue.name in waiting]
    return f"paused: {first_of(paused)}: `bgctl resume QUEUE` starts its jobs again" if paused else None


# --- for programs


def _print_for_programs(jobs: list[Job], usages: Usages | None) -> None:
    views = [job.view for job in jobs]
    cells = cells_for_programs(views, time.time())
    if usages is not None:
        cells = _with_usages(cells, views, usages, nothing="-")
    print_lines(*columns_of(cells))


def _with_usages(
    cells: dict[str, list[str]], jobs: Sequence[JobView], usages: Usages, nothing: str
) -> dict[str, list[str]]:
    """Add columns with what jobs use now after their states."""
    used = [usages.get(job.id) for job in jobs]
    columns = {
        "CPU": ["" if each is None else load(each) for each in used],
        "MEMORY": ["" if each is None else format_size(each.memory_bytes) for each in used],
        "PROCESSES": ["" if each is None else str(each.processes) for each in used],
    }
    added = {heading: [cell or nothing for cell in column] for heading, column in columns.items()}
    return {heading: cells[heading] for heading in ("ID", "STATE")} | added | cells


# --- for people: a table as wide as the terminal, one line per job


def table_lines(
    jobs: Sequence[JobView], columns: int, now: float | None, usages: Usages | None = None
) -> list[str]:
    """Return a table of jobs that fits in this many columns, headings first.

    Long names and commands are cut. Empty columns, and columns with only default values, are left out; if
    commands do not fit, so are the least useful ones. Ids and states are never cut.

    `now` None: show times of day, which stay true until the job changes, in place of ages.
    """
    table = {
        heading: cells
        for heading, cells in _cells(jobs, now, usages).items()
        if not all(re.fullmatch(_USUAL.get(heading, ""), cell) for cell in cells)
    }
    widths = _column_widths(table, columns)
    lines = [_styled(_aligned(heading, heading, width), bold=True) for heading, width in widths.items()]
    rows = [_GAP.join(lines).rstrip()]
    for number, job in enumerate(jobs):
        row = []
        for heading, width in widths.items():
            cell = _aligned(heading, fitted(table[heading][number], width), width)
            row.append(_styled(cell, fg=state_color(job)) if heading == "STATE" else cell)
        rows.append(_GAP.join(row).rstrip())
    return rows


_USUAL = {"ATTEMPT": "[01]/1", "PRIORITY": "0", "QUEUE": "default"}


def _cells(jobs: Sequence[JobView], now: float | None, usages: Usages | None) -> dict[str, list[str]]:
    columns = FOR_PROGRAMS | {
        "STATE": lambda view, _: state_in_words(view),
        "TIME": _time_in_words,
        "COMMAND": lambda view, _: command_line(view, _LONGEST_COMMAND),
    }
    if now is None:
        columns["AGE"] = lambda view, _: clock_time(view.created_at)
    cells = column_cells(jobs, now, columns)
    if now is None:
        cells = {"SUBMITTED" if heading == "AGE" else heading: column for heading, column in cells.items()}
    return cells if usages is None else _with_usages(cells, jobs, usages, nothing="")


_LONGEST_COMMAND = 2000  # characters; no terminal is wider


def _time_in_words(view: JobView, now: float | None) -> str:
    """Return what a job waits for, since when or how long it runs, or how long it ran."""
    if view.state is State.QUEUED:
        return why_queued(view)
    if view.state is State.BLOCKED and view.waits_for:
        return f"after {first_of(view.waits_for)}"
    if view.state is State.SCHEDULED and view.due_at is not None:
        due = f"at {clock_time(view.due_at)}" if now is None else f"in {short_duration(view.due_at - now)}"
        return f"retry {due}" if view.attempt and view.outcome is not Outcome.SNOOZED else due
    if view.state in GROUPS[0]:
        if now is None:
            return f"since {clock_time(view.started_at)}" if view.started_at else ""
        does = "waiting" if view.needs_node else "running"
        return f"{does} for {run_time(view)}{_slow_mark(view)}"
    return f"took {took}{_slow_mark(view)}" if (took := run_time(view)) else ""


def _slow_mark(view: JobView) -> str:
    return " (slow)" if is_slow(view) else ""


def _styled(text: str, **style: Any) -> str:
    return click.style(text, **style) if has_colors() else text


def _aligned(heading: str, text: str, width: int) -> str:
    padding = " " * (width - cells_of(text))
    return padding + text if heading in _RIGHT_ALIGNED else text + padding


def _column_widths(table: dict[str, list[str]], columns: int) -> dict[str, int]:
    """Return the columns that fit, in order, with their widths."""
    widths = {heading: max(map(cells_of, [heading, *cells])) for heading, cells in table.items()}
    for heading, most in {**_MAX_WIDTHS, "TIME": max(_REASON_WIDTH, columns // 3)}.items():
        if heading in widths:
            widths[heading] = min(widths[heading], most)
    command = widths.pop("COMMAND")
    for heading in ("PROCESSES", "ATTEMPT", "AGE", "SUBMITTED", "PRIORITY", "QUEUE"):  # least useful first
        if _space_left(widths, columns) < min(command, _GOOD_COMMAND_WIDTH):
            widths.pop(heading, None)
    for heading in ("NAME", "PROGRESS", "TIME"):
        if _space_left(widths, columns) < min(command, _MIN_COMMAND_WIDTH) and heading in widths:
            widths[heading] = min(widths[heading], _NARROW)
        if _space_left(widths, columns) < min(command, _MIN_COMMAND_WIDTH):
            widths.pop(heading, None)
    return widths | {"COMMAND": min(command, max(_space_left(widths, columns), _MIN_COMMAND_WIDTH))}


def _space_left(widths: dict[str, int], columns: int) -> int:
    return columns - sum(widths.values()) - len(_GAP) * len(widths)


_GAP = "  "  # between columns
_MIN_COMMAND_WIDTH = 10  # cells; a narrower command is useless
_GOOD_COMMAND_WIDTH = 20  # cells; a narrower command says little
_MAX_WIDTHS = {"NAME": 20, "PROGRESS": 24}
_NARROW = 10  # cells; enough to recognize a name
_REASON_WIDTH = 34  # cells; the beginning of why a job waits
_RIGHT_ALIGNED = {"ID", "PRIORITY", "ATTEMPT", "AGE", "CPU", "MEMORY", "PROCESSES"}


# --- statistics


_DEFAULT_WINDOW = 3600.0  # seconds


@verb("bgctl stats", "bgctl stats --window 1d --json")
@click.option(
    "--window",
    type=TIME_LIMIT,
    default=_DEFAULT_WINDOW,
    metavar="D",
    help="Period to look back; default: 1h.",
)
def stats_command(daemon: Client, *, window: float) -> None:
    """Show the number of jobs, and recent outcomes and times.

    Then for each queue and each name, busiest first: attempts that ended, failed ones among them, median wait
    and duration, and the duration that 95 of 100 stay within. A job has an attempt more for each retry.
    """
    stats = daemon.stats(window=window)
    lines = [*labelled(_stats_lines(stats))]
    for heading, groups in (("QUEUE", stats.queues), ("NAME", stats.names)):
        if groups:
            lines += ["", *table_of((*_GROUP_HEADINGS, heading), map(_group_row, groups))]
    answer(reply_as_json(stats), *lines)


_GROUP_HEADINGS = ("ATTEMPTS", "FAILED", "WAITED", "TOOK", "MOST-WITHIN")


def _group_row(group: GroupStats) -> tuple[str, ...]:
    times = [short_duration(each) or "-" for each in (group.wait_median, group.run_median, group.run_p95)]
    return (str(group.ended), str(group.failed), *times, one_line(group.name))


def _stats_lines(stats: Stats) -> list[tuple[str, str]]:
    oldest = stats.oldest_queued_at
    counts = {str(state): stats.counts.get(state, 0) for group in GROUPS for state in group}
    by_number = sorted(stats.outcomes.items(), key=lambda each: -each[1])
    window = "hour" if stats.window == _HOUR else format_duration(stats.window)
    outcomes = {_ENDED.get(name, name): count for name, count in by_number}
    return [
        ("jobs", _counts(counts)),
        ("attempts", f"ended in the last {window}: {_counts(outcomes)}"),
        ("waited", _times(stats.wait_median, stats.wait_p95)),
        ("ran", _times(stats.run_median, stats.run_p95)),
        ("oldest", "none is queued" if oldest is None else f"queued {local_time(oldest, time.time())}"),
    ]


_HOUR = 3600.0
# of outcomes that say less in a sentence
_ENDED = {
    "exit": "failed (exit code)",
    "error": "raised an exception",
    "signal": "killed by a signal",
}


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count) or "none"


def _times(median: float | None, p95: float | None) -> str:
    if median is None or p95 is None:
        return "-"
    return f"median {short_duration(median)}, 95% within {short_duration(p95)}"


@verb("bgctl events -f", "bgctl events --since 1200 | jq -c 'select(.state == \"failed\")'")
@click.option("-f", "--follow", is_flag=True, help="Continue with new events until Ctrl-C.")
@click.option(
    "--since",
    type=whole_number(0, MAX_EVENT),
    metavar="ID",
    help="Start after this event; 0 means all kept events.",
)
def events_command(daemon: Client, *, follow: bool, since: int | None) -> None:
    """Print events of jobs and schedules.

    Each event is one line: a JSON object or, on a terminal, plain text. Without --since, print all kept
    events, or with -f only new ones. Progress is not kept, so only -f shows it.
    """
    as_text = is_terminal() and not global_options().json
    for event in daemon.events(since=since, follow=follow, progress=True, schedules=True):
        if as_text:
            click.echo(_event_line(event))
        else:
            print_json(as_json(event))


def _event_line(event: EventView | ScheduleEvent) -> str:
    at = datetime.fromtimestamp(event.at).astimezone()
    if isinstance(event, ScheduleEvent):
        count = f", {event.count} times" if event.count > 1 else ""
        job = "" if event.job is None else f" (job {event.job})"
        reason = f" {excerpt(event.reason)}" if event.reason else ""
        return f"{at:%H:%M:%S} schedule {event.schedule}: {result_word(event.outcome)}{count}{job}{reason}"
    status = event.state if event.progress is None else progress_line(event.progress)
    words = [f"{at:%H:%M:%S}", f"job {event.job}", f"{event.what}:", status]
    if event.attempt:
        words.append(f"(attempt {event.attempt}{f', {event.outcome}' if event.outcome else ''})")
    if event.reason:
        words.append(excerpt(event.reason))
    if event.by:
        words.append(f"by {event.by}")
    return " ".join(words)
