"""The list of jobs as programs read it: all columns, aligned, with states as plain words.

This module imports next to nothing, because `bgctl list` starts with it.
"""

from __future__ import annotations

from bgd.text.brief import GROUPS, command_line, progress_line, progress_of, run_time, short_duration
from bgd.text.escape import one_line

TYPE_CHECKING = False  # as type checkers know it; typing takes as long to import as Python to start
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from bgd.wire.views import JobView

    Cell = Callable[[JobView, Any], str]  # the second argument is the time

_MAX_NAMED = 3  # jobs or queues in a narrow cell
_VISIBLE_BLANK = "\N{OPEN BOX}"


def group_of(view: JobView) -> int:
    """Return the place of a job in a list: running ones first, then waiting ones, then finished ones."""
    return next(place for place, states in enumerate(GROUPS) if view.state in states)


def column_cells(
    views: Sequence[JobView], now: float | None, columns: dict[str, Cell]
) -> dict[str, list[str]]:
    """Return the cells of each column by its heading."""
    return {heading: [cell(view, now) for view in views] for heading, cell in columns.items()}


def cells_for_programs(views: Sequence[JobView], now: float) -> dict[str, list[str]]:
    """Return all columns; that of progress only if a job has reported any."""
    cells = column_cells(views, now, FOR_PROGRAMS)
    if not any(map(progress_of, views)):
        del cells["PROGRESS"]
    return {heading: [cell or "-" for cell in column] for heading, column in cells.items()}


def options_for_rest(views: Sequence[JobView], *, is_by_id: bool = False, is_sorted: bool = False) -> str:
    """Return the options that list the jobs that follow these.

    A list that is not ordered by id alone starts with all running and waiting jobs, however old. Its next
    page starts below the oldest finished job.
    """
    ids = [] if is_sorted else [view.id for view in views if is_by_id or view.state in GROUPS[-1]]
    more = f", --before {min(ids)}" if ids else ""
    return f"showing {len(views)} jobs; there may be more: --all, --limit N{more}"


def columns_of(cells: dict[str, list[str]]) -> Iterator[str]:
    """Yield the lines of aligned columns for programs; only the last column may contain blanks."""
    *columns, last = cells.values()
    words = [[cell.replace(" ", _VISIBLE_BLANK) for cell in column] for column in columns]
    return aligned([tuple(cells), *zip(*words, last, strict=True)], len)


def aligned(lines: list[tuple[str, ...]], width_of: Callable[[str], int]) -> Iterator[str]:
    """Yield lines whose cells are as wide as the widest of their column."""
    widths = [max(map(width_of, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [cell + " " * (width - width_of(cell)) for cell, width in zip(line, widths, strict=True)]
        yield "  ".join(cells).rstrip()


def _attempts(view: JobView, _: float) -> str:
    if view.retry_until is not None:  # any number
        return str(view.attempt)
    return f"{view.attempt}/{max(view.attempt, view.retries + 1)}"


def _time(view: JobView, now: float) -> str:
    """Return the wait of the next attempt, or the run time of the latest one."""
    if view.state == "blocked" and view.waits_for:
        return f"after:{first_of(view.waits_for)}"
    if view.state == "scheduled" and view.due_at is not None:
        return f"in:{short_duration(view.due_at - now)}"
    return run_time(view)


def first_of(things: Sequence[object]) -> str:
    """Return the first few things and the number of others."""
    named = ",".join(map(str, things[:_MAX_NAMED]))
    more = len(things) - _MAX_NAMED
    return f"{named},+{more}" if more > 0 else named


def excerpt(text: str, most: int = 300) -> str:
    """Return untrusted text for use within a sentence: escaped, on one line, and cut to `most` characters."""
    text = one_line(text)
    return text if len(text) <= most else f"{text[:most]}..."


FOR_PROGRAMS: dict[str, Cell] = {
    "ID": lambda view, _: str(view.id),
    "STATE": lambda view, _: "suspended" if view.suspended else view.state,
    "PRIORITY": lambda view, _: str(view.priority),
    "QUEUE": lambda view, _: view.queue,
    "ATTEMPT": _attempts,
    "AGE": lambda view, now: short_duration(now - view.created_at),
    "TIME": _time,
    "NAME": lambda view, _: one_line(view.name or ""),
    "PROGRESS": lambda view, _: progress_line(progress_of(view)),
    "COMMAND": lambda view, _: command_line(view),
}
"""Columns of a list: the cell of a job by the heading."""
