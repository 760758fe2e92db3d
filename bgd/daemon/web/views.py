"""Say in words what the pages show of jobs and attempts.

The templates lay it out and show instants as times. What is still growing is the instant since when it grows.
"""

from __future__ import annotations

from typing import Any

from bgd.core.job import ACTIVE, WAITING, Outcome, State
from bgd.core.spec import DEFAULT_QUEUE
from bgd.text.brief import command_line, progress_line, progress_of, run_time, short_duration
from bgd.text.formatting import brief_usage, reason_in_words
from bgd.wire.views import AttemptView, JobUsage, JobView


def job_row(view: JobView, usage: JobUsage | None = None) -> dict[str, Any]:
    """Return what the list shows of a job, in one line.

    `reason` says what the state leaves open: why it failed, what it waits for, or that it is suspended;
    `problem` is more about that. `waited` and `ran` are durations or, while they grow, instants. `queue`,
    `priority` and `attempts` are None where they are as usual, `usage` where it is not known.
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
        "usage": brief_usage(usage) if usage is not None and view.state in ACTIVE else None,
        "attempts": attempts_text(view) if view.attempt > 1 or (view.attempt and is_due) else None,
        "waits_until": view.due_at if is_due else None,
        "waited": view.created_at if is_waiting else short_duration(view.waited_seconds),
        "ran": time_run(view),
        "started": view.started_at,
        "submitted": view.created_at,
    }


def time_run(view: JobView) -> float | str:
    """Return how long the latest attempt ran or, while it runs, since when: a page counts on from there."""
    return (view.state in ACTIVE and not view.suspended and view.started_at) or run_time(view)


def progress_bar(view: JobView) -> tuple[float | None, str] | None:
    """Return the progress that a job reports, as a fraction or None, and in words; None: it reports none."""
    progress = progress_of(view)
    return None if progress is None else (progress.fraction, progress_line(progress))


def attempts_text(view: JobView) -> str:
    """Return the number of attempts, and the most there can be unless only a time limits retries."""
    if view.retry_until is not None:
        return str(view.attempt)
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


def command_text(view: JobView, most: int) -> str:
    return beginning(command_line(view, enough=most + 1), most)


def beginning(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}\N{HORIZONTAL ELLIPSIS}"


_MAX_COMMAND = 300  # characters, in a list; the job's own page has more
_MAX_TAGS = 3
MAX_TEXT = 20_000  # characters of a command, a result or an error; JSON has all of it
