"""What people are shown of a job and of its attempts: facts that `bgctl show` and the pages lay out."""

from __future__ import annotations

from msgspec import Struct

from bgd.formatting import (
    executor_line,
    labelled_options,
    limits_of,
    memory_of,
    retries_line,
    rules_line,
    slowness,
    tokens_line,
)
from bgd.units import format_duration
from bgd.wire.views import AttemptView, JobView


class Instant(Struct, frozen=True):
    """An epoch time."""

    at: float


class Listed(Struct, frozen=True):
    """Values of a field by which jobs can be found: "queue", "tag" or "job"."""

    field: str
    values: list[str]


Value = str | Instant | Listed
Fact = tuple[str, Value]  # label and value


def facts_of(view: JobView) -> list[Fact]:
    """Return what was asked for and when, without what a job runs and its name."""
    return _known(
        ("queue", Listed("queue", [view.queue])),
        ("priority", str(view.priority)),
        ("slots", str(view.slots) if view.slots > 1 else ""),
        ("tags", Listed("tag", view.tags)),
        ("key", view.key),
        ("user", view.user),
        ("folder", view.cwd),
        ("reads", view.stdin),
        ("terminal", "of its own" if view.pty else ""),
        ("isolation", view.isolation),
        ("retries", retries_line(view)),
        ("on errors", rules_line(view)),
        ("snoozed", f"{view.snoozes} times" if view.snoozes > 1 else "once" * view.snoozes),
        ("timeout", format_duration(view.timeout) if view.timeout else ""),
        ("limits", limits_of(view)),
        *labelled_options(view),
        ("leftovers", "left running" if view.keep_leftovers else ""),
        ("submitted", Instant(view.created_at)),
        ("expires", Instant(view.expires_at) if view.expires_at else ""),
        ("speed", slowness(view)),
    )


def facts_of_attempt(attempt: AttemptView) -> list[Fact]:
    """Return what is known of an attempt, without its outcome, its error and its log."""
    is_over = attempt.outcome is not None
    used = [
        "" if attempt.user_seconds is None else f"{attempt.user_seconds:.2f}s user",
        "" if attempt.system_seconds is None else f"{attempt.system_seconds:.2f}s system",
        "" if (memory := memory_of(attempt)) is None else f"{memory / 1e6:.1f}MB",
    ]
    return _known(
        ("started", Instant(attempt.started_at) if attempt.started_at else ""),
        ("ran on" if is_over else "runs on", executor_line(attempt)),
        ("held" if is_over else "holds", tokens_line(attempt)),
        ("process", str(attempt.pid) if attempt.pid and not is_over else ""),
        ("used", ", ".join(filter(None, used))),
        ("left", f"{attempt.leftovers}: bgd ended this" if attempt.leftovers else ""),
    )


def _known(*facts: tuple[str, Value | None]) -> list[Fact]:
    return [(label, value) for label, value in facts if value and value != Listed("tag", [])]
