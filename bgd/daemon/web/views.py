"""Say in words what the pages show of jobs and attempts; the templates only lay it out."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from bgd.core.job import ACTIVE, WAITING, Outcome, State
from bgd.core.spec import DEFAULT_QUEUE
from bgd.formatting import (
    command_line,
    iso_time,
    progress_line,
    progress_of,
    reason_in_words,
    run_time,
    short_duration,
)
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
