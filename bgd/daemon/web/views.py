"""Say in words what the pages show of jobs, attempts and logs; the templates only lay it out."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from markupsafe import Markup
from msgspec import Struct
from msgspec.structs import replace

from bgd.core.job import ACTIVE, WAITING, Outcome, State
from bgd.core.spec import DEFAULT_QUEUE
from bgd.daemon.web.log_text import LogText, plain_lines
from bgd.daemon.web.markup import line_markup
from bgd.formatting import (
    command_line,
    iso_time,
    progress_line,
    progress_of,
    reason_in_words,
    run_time,
    short_duration,
)
from bgd.logfiles import LogReader
from bgd.wire.views import AttemptView, JobView


class DisplayTime(Struct, frozen=True):
    """A time for people, absolute and relative, and for programs."""

    local: str
    relative: str
    iso: str


class RunningTime(Struct, frozen=True):
    """How long something ran, and if it still runs, since when: a page counts on from there."""

    text: str
    since: float | None


def lasting(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without what a page counts on by itself: a change of only that is none."""
    return {name: _lasting(value) for name, value in row.items()}


def _lasting(value: object) -> object:
    match value:
        case DisplayTime():
            return replace(value, relative="")
        case RunningTime(since=float()):
            return replace(value, text="")
        case dict():
            return lasting(value)
        case _:
            return value


def job_row(view: JobView, now: float) -> dict[str, Any]:
    """Return what the list shows of a job, in one line.

    `reason` says what the state leaves open: why it failed, what it waits for, or that it is suspended;
    `problem` is more about that. `queue`, `priority` and `attempts` are None where they are as usual.
    """
    is_waiting = view.state in WAITING
    is_due = view.state is State.SCHEDULED and view.due_at is not None
    return {
        "id": f"job-{view.id}",
        "job": view.id,
        "state": view.state.value,
        "reason": reason_in_words(view),
        "problem": "; ".join(filter(None, [view.problem, view.reason])),
        "bar": progress_bar(view) if view.state in ACTIVE else None,
        "name": view.name,
        "command": command_text(view, _MAX_COMMAND),
        "tags": tuple(view.tags[:_MAX_TAGS]),
        "more_tags": max(len(view.tags) - _MAX_TAGS, 0),
        "queue": None if view.queue == DEFAULT_QUEUE else view.queue,
        "priority": view.priority or None,
        "attempts": attempts_text(view) if view.attempt > 1 or (view.attempt and is_due) else None,
        "waits_until": time_or_none(view.due_at, now) if is_due else None,
        "waited": RunningTime(short_duration(view.waited_seconds), view.created_at if is_waiting else None),
        "ran": RunningTime(run_time(view), runs_since(view)),
        "started": time_or_none(view.started_at, now),
        "submitted": display_time(view.created_at, now),
    }


def runs_since(view: JobView) -> float | None:
    return view.started_at if view.state in ACTIVE and not view.suspended else None


def progress_bar(view: JobView) -> tuple[float | None, str] | None:
    """Return the progress that a job reports, as a fraction or None, and in words; None: it reports none."""
    progress = progress_of(view)
    return None if progress is None else (progress.fraction, progress_line(progress))


def attempts_text(view: JobView) -> str:
    return f"{view.attempt} of {max(view.attempt, view.retries + 1)}"


def attempt_badge(attempt: AttemptView) -> str:
    """Return the state whose badge an attempt gets."""
    match attempt.outcome:
        case None:
            return State.RUNNING
        case Outcome.SUCCEEDED:
            return State.SUCCEEDED
        case Outcome.CANCELLED:
            return State.CANCELLED
        case Outcome.SNOOZED:
            return State.SCHEDULED
        case (
            Outcome.EXIT
            | Outcome.SIGNAL
            | Outcome.TIMEOUT
            | Outcome.INTERRUPTED
            | Outcome.UNKNOWN
            | Outcome.NOT_STARTED
            | Outcome.OOM
            | Outcome.LOG_LIMIT
            | Outcome.REFUSED
            | Outcome.ERROR
        ):
            return State.FAILED


def size_text(count: int) -> str:
    for unit, name in _SIZES:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"


_SIZES = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def display_time(at: float, now: float) -> DisplayTime:
    local = f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S}"
    relative = f"{short_duration(now - at)} ago" if at <= now else f"in {short_duration(at - now)}"
    return DisplayTime(local, relative, iso_time(at) or "")


def time_or_none(at: float | None, now: float) -> DisplayTime | None:
    return None if at is None else display_time(at, now)


def command_text(view: JobView, most: int) -> str:
    return beginning(command_line(view, enough=most + 1), most)


def beginning(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}\N{HORIZONTAL ELLIPSIS}"


_MAX_COMMAND = 300  # characters, in a list; the job's own page has more
_MAX_TAGS = 3
MAX_TEXT = 20_000  # characters of a command, a result or an error; JSON has all of it


# --- The end of a log


class LogTail(Struct, frozen=True):
    """The last output of an attempt, as HTML: the lines that have ended, and the open one.

    `at` and `style` are those at the beginning of the open line. `omitted`: bytes before all that.
    """

    html: Markup
    open_html: Markup
    at: int = 0
    style: str = ""
    omitted: int = 0


NO_OUTPUT = LogTail(Markup(""), Markup(""))


def read_tail(log: LogReader, most: int) -> LogTail:
    """Return about the last `most` bytes of a log, from the beginning of a line on. Reads files."""
    end = log.size()
    begin = max(end - most, 0)
    first = log.read(begin, most)
    if first.left_out or begin:  # only what follows a gap is one text
        begin = first.offset + first.data.find(b"\n") + 1
    text = LogText(log, begin)
    tail, html = NO_OUTPUT, Markup("")
    while text.offset < end and (lines := text.read()):
        html += plain_lines(lines.lines)
        tail = LogTail(html, line_markup(lines.open.runs), lines.at, lines.style, begin)
    return tail
