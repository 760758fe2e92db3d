"""Say in words what the pages show of jobs, attempts and logs; the templates only lay it out."""

from __future__ import annotations

import json
from datetime import datetime

from markupsafe import Markup
from msgspec import Struct

from bgd.core.job import ACTIVE, FINAL, WAITING, Outcome, State
from bgd.daemon.logs import LogReader
from bgd.daemon.web.live import LogText
from bgd.formatting import (
    command_line,
    iso_time,
    labelled_options,
    limits_of,
    memory_of,
    progress_line,
    progress_of,
    retries_line,
    rules_line,
    run_time,
    short_duration,
)
from bgd.units import format_duration
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


class JobDetails(Struct, frozen=True, kw_only=True):
    """A job on its own page."""

    id: int
    state: str
    name: str | None
    reason: str | None
    bar: ProgressBar | None
    command: str
    is_class: bool
    is_finished: bool
    can_be_edited: bool
    priority: int
    facts: list[Fact]
    result: str | None


class AttemptDetails(Struct, frozen=True, kw_only=True):
    """An attempt on its job's page.

    `state` chooses the colour of the badge that shows `outcome`. `omitted` says how much of the log's
    beginning is not shown. `is_running`: its log may grow.
    """

    number: int
    state: str
    outcome: str
    facts: list[Fact]
    error: str | None
    traceback: str | None
    log: LogTail
    has_output: bool
    omitted: str | None
    is_running: bool


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
        outcome=_outcome(view) if view.state is State.FAILED else "suspended" if view.suspended else None,
        bar=_progress_bar(view) if view.state in ACTIVE else None,
        name=view.name,
        command=_command(view, _MAX_COMMAND),
        queue=view.queue,
        priority=view.priority,
        attempts=_attempts(view),
        waited=_waited(view, now),
        ran=RunningTime(run_time(view), _runs_since(view)),
        submitted=_display_time(view.created_at, now),
    )


def job_details(view: JobView, result: str | None, now: float) -> JobDetails:
    """Return what a job's page shows; `result` is the JSON text of its return value, if it has one."""
    facts: list[Fact] = [
        ("Queue", view.queue),
        ("Priority", str(view.priority)),
        ("Attempts", _attempts(view)),
        ("Retries", retries_line(view)),
        ("On errors", rules_line(view)),
        ("Snoozed", f"{view.snoozes} times" if view.snoozes > 1 else "once" * view.snoozes),
        ("Submitted", _display_time(view.created_at, now)),
        ("By", view.user),
        ("Due", _display_time(view.due_at, now) if view.due_at else ""),
        ("Expires", _display_time(view.expires_at, now) if view.expires_at else ""),
        ("Waits for", ", ".join(f"job {job}" for job in view.waits_for)),
        ("Waited", _waited(view, now)),
        ("Ran", RunningTime(run_time(view), _runs_since(view))),
        ("Finished", _display_time(view.finished_at, now) if view.finished_at else ""),
        ("Suspended", "its processes are stopped" if view.suspended else ""),
        ("Slots", str(view.slots) if view.slots > 1 else ""),
        ("Time limit", format_duration(view.timeout) if view.timeout else ""),
        ("Limits", limits_of(view)),
        *((label.capitalize(), text) for label, text in labelled_options(view)),
        ("Leftovers", "left running" if view.keep_leftovers else ""),
        ("Folder", view.cwd or ""),
        ("Reads", view.stdin or ""),
        ("Terminal", "of its own" if view.pty else ""),
        ("Isolation", view.isolation or ""),
        ("Key", view.key or ""),
        ("Tags", ", ".join(view.tags)),
    ]
    return JobDetails(
        id=view.id,
        state=view.state,
        name=view.name,
        reason=view.reason,
        bar=_progress_bar(view),
        command=_command(view, _MAX_TEXT),
        is_class=view.target is not None,
        is_finished=view.state in FINAL,
        can_be_edited=view.state in WAITING,
        priority=view.priority,
        facts=_known(facts),
        result=None if result is None else _indented(result, _MAX_TEXT),
    )


def attempt_details(attempt: AttemptView, tail: LogTail, now: float) -> AttemptDetails:
    """Return what a job's page shows of one attempt."""
    facts: list[Fact] = [
        ("Started", _display_time(attempt.started_at, now) if attempt.started_at else ""),
        (
            "Took" if attempt.outcome else "Running for",
            RunningTime(short_duration(attempt.run_seconds), None if attempt.outcome else attempt.started_at),
        ),
        ("Processor", _processor_time(attempt)),
        ("Memory", _size(memory) if (memory := memory_of(attempt)) else ""),
        ("Process", str(attempt.pid) if attempt.pid and attempt.outcome is None else ""),
        ("Output", _size(attempt.log_bytes) if attempt.log_bytes else ""),
        ("Left", f"{attempt.leftovers}: bgd ended this" if attempt.leftovers else ""),
    ]
    error = attempt.error
    return AttemptDetails(
        number=attempt.attempt,
        state=_badge_of(attempt),
        outcome=_outcome(attempt) or "running",
        facts=_known(facts),
        error=None if error is None else _beginning(error.in_words(attempt.outcome), _MAX_TEXT),
        traceback=None if error is None or error.traceback is None else _end(error.traceback, _MAX_TEXT),
        log=tail,
        has_output=bool(tail.html or tail.open_html),
        omitted=_size(tail.omitted) if tail.omitted else None,
        is_running=attempt.outcome is None,
    )


def _known(facts: list[Fact]) -> list[Fact]:
    return [(label, value) for label, value in facts if value and value != RunningTime("", None)]


def _runs_since(view: JobView) -> float | None:
    return view.started_at if view.state in ACTIVE and not view.suspended else None


def _progress_bar(view: JobView) -> ProgressBar | None:
    if (progress := progress_of(view)) is None:
        return None
    return ProgressBar(progress.fraction, progress_line(progress))


def _attempts(view: JobView) -> str:
    return f"{view.attempt} of {max(view.attempt, view.retries + 1)}"


def _waited(view: JobView, now: float) -> str:
    """Return how long the job waited from submission to its latest start, or when it is due."""
    if view.state is State.SCHEDULED and view.due_at is not None:
        return f"due in {short_duration(view.due_at - now)}"
    return short_duration(view.waited_seconds)


def _badge_of(attempt: AttemptView) -> str:
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


def _outcome(ended: JobView | AttemptView) -> str:
    """Return how an attempt, or a job's latest one, ended; empty if it has not."""
    if ended.outcome is Outcome.EXIT:
        return f"exit code {ended.exit_code}"
    if ended.outcome is Outcome.SIGNAL:
        return f"signal {ended.signal}"
    return (ended.outcome or "").replace("_", " ")


def _processor_time(attempt: AttemptView) -> str:
    if attempt.user_seconds is None or attempt.system_seconds is None:
        return ""
    return f"{attempt.user_seconds:.2f}s user, {attempt.system_seconds:.2f}s system"


def _size(count: int) -> str:
    for unit, name in _SIZES:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"


_SIZES = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def _display_time(at: float, now: float) -> DisplayTime:
    local = f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S}"
    relative = f"{short_duration(now - at)} ago" if at <= now else f"in {short_duration(at - now)}"
    return DisplayTime(local, relative, iso_time(at) or "")


def _command(view: JobView, most: int) -> str:
    return _beginning(command_line(view, enough=most + 1), most)


def _indented(result: str, most: int) -> str:
    """Return the beginning of JSON text with indents, which can make deeply nested text 1000 times larger."""
    text = ""
    for chunk in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(json.loads(result)):
        text += chunk
        if len(text) > most:
            break
    return _beginning(text, most)


def _beginning(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}\N{HORIZONTAL ELLIPSIS}"


def _end(text: str, most: int) -> str:
    return text if len(text) <= most else f"\N{HORIZONTAL ELLIPSIS}{text[-most:]}"


_MAX_COMMAND = 300  # characters, in a list; the job's own page has more
_MAX_TEXT = 20_000  # characters of a command, a result or an error; JSON has all of it


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
        html += lines.html
        tail = LogTail(html, lines.open_html, lines.at, lines.style, begin)
    return tail
