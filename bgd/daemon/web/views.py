"""Say in words what the pages show of jobs, attempts and logs; the templates only lay it out."""

from __future__ import annotations

from datetime import datetime

from markupsafe import Markup
from msgspec import Struct

from bgd.core.job import ACTIVE, Outcome, State
from bgd.daemon.logs import LogReader
from bgd.daemon.web.log_text import LogText, plain_line, plain_lines
from bgd.formatting import (
    command_line,
    iso_time,
    progress_line,
    progress_of,
    run_time,
    short_duration,
)
from bgd.wire.views import AttemptView, JobView


class JobRow(Struct, frozen=True, kw_only=True):
    """A job in the list.

    `outcome` says how its latest attempt failed, or that it is suspended. Only a running job has a `bar`.
    """

    id: int
    state: str
    outcome: str | None
    bar: ProgressBar | None
    name: str | None
    command: str
    queue: str
    priority: int
    attempts: str
    waited: str
    ran: RunningTime
    submitted: DisplayTime | None


class DisplayTime(Struct, frozen=True):
    """A time for people, absolute and relative, and for programs."""

    local: str
    relative: str
    iso: str


class ProgressBar(Struct, frozen=True):
    """The progress that a job reports; `fraction` is None if it only reports text."""

    fraction: float | None
    text: str


class RunningTime(Struct, frozen=True):
    """How long something ran, and if it still runs, since when: a page counts on from there."""

    text: str
    since: float | None


Fact = tuple[str, str | DisplayTime | RunningTime]  # label and value


def job_row(view: JobView, now: float) -> JobRow:
    """Return what the list shows of a job."""
    return JobRow(
        id=view.id,
        state=view.state,
        outcome=outcome_text(view) if view.state is State.FAILED else "suspended" if view.suspended else None,
        bar=progress_bar(view) if view.state in ACTIVE else None,
        name=view.name,
        command=command_text(view, _MAX_COMMAND),
        queue=view.queue,
        priority=view.priority,
        attempts=attempts_text(view),
        waited=waited_text(view, now),
        ran=RunningTime(run_time(view), runs_since(view)),
        submitted=display_time(view.created_at, now),
    )


def runs_since(view: JobView) -> float | None:
    return view.started_at if view.state in ACTIVE and not view.suspended else None


def progress_bar(view: JobView) -> ProgressBar | None:
    if (progress := progress_of(view)) is None:
        return None
    return ProgressBar(progress.fraction, progress_line(progress))


def attempts_text(view: JobView) -> str:
    return f"{view.attempt} of {max(view.attempt, view.retries + 1)}"


def waited_text(view: JobView, now: float) -> str:
    """Return how long the job waited from submission to its latest start, or when it is due."""
    if view.state is State.SCHEDULED and view.due_at is not None:
        return f"due in {short_duration(view.due_at - now)}"
    return short_duration(view.waited_seconds)


def outcome_text(ended: JobView | AttemptView) -> str:
    """Return how an attempt, or a job's latest one, ended; empty if it has not."""
    if ended.outcome is Outcome.EXIT:
        return f"exit code {ended.exit_code}"
    if ended.outcome is Outcome.SIGNAL:
        return f"signal {ended.signal}"
    return (ended.outcome or "").replace("_", " ")


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


def command_text(view: JobView, most: int) -> str:
    return beginning(command_line(view, enough=most + 1), most)


def beginning(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}\N{HORIZONTAL ELLIPSIS}"


_MAX_COMMAND = 300  # characters, in a list; the job's own page has more
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
        tail = LogTail(html, plain_line(lines.open), lines.at, lines.style, begin)
    return tail
