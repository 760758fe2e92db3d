"""What people are shown of jobs and attempts: facts for `bgctl show`, pages and notifications to lay out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from bgd.text.brief import short_duration
from bgd.text.formatting import (
    executor_line,
    is_slow,
    number_ranges,
    options_of,
    outcome_in_words,
    retries_line,
    rules_line,
)
from bgd.text.units import format_duration
from bgd.wire.views import AttemptView, JobView

if TYPE_CHECKING:  # `bgctl show` has no messages
    from bgd.core.notifications import Message


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
    """Return the options of a job and its submit time, without its program and name."""
    after = [*view.after, *view.after_any]
    return _known(
        ("queue", Listed("queue", [view.queue])),
        ("priority", str(view.priority)),
        ("slots", str(view.slots) if view.slots > 1 else ""),
        ("tags", Listed("tag", view.tags)),
        ("key", view.key),
        ("user", view.user),
        ("batch", str(view.batch or "")),
        ("folder", view.cwd),
        ("reads", view.stdin),
        ("terminal", "of its own" if view.pty else ""),
        ("isolation", view.isolation),
        ("retries", retries_line(view)),
        ("on errors", rules_line(view)),
        ("snoozed", f"{view.snoozes} times" if view.snoozes > 1 else "once" * view.snoozes),
        ("timeout", format_duration(view.timeout) if view.timeout else ""),
        ("limits", ", ".join(map(" ".join, options_of(view, "limit")))),
        *options_of(view, "label"),
        ("leftovers", "left running" if view.keep_leftovers else ""),
        ("after", f"job {number_ranges(after)}" if set(after) != set(view.waits_for) else ""),
        ("follows", str(view.cause) if view.cause else ""),
        ("follow-up", f"job {number_ranges(view.follow_ups)}" if view.follow_ups else ""),
        ("submitted", Instant(view.created_at)),
        ("expires", Instant(view.expires_at) if view.expires_at else ""),
        ("speed", f"slower than usual (up to {short_duration(view.usual_seconds)})" if is_slow(view) else ""),
    )


def facts_of_attempt(attempt: AttemptView) -> list[Fact]:
    """Return the facts about an attempt, without its outcome, error and log."""
    is_over = attempt.outcome is not None
    # of all its processes if that is known, else of the largest
    memory = attempt.max_rss_bytes if attempt.memory_peak_bytes is None else attempt.memory_peak_bytes
    tokens = "; ".join(f"{name} {', '.join(held)}" for name, held in attempt.tokens.items())
    used = [
        "" if attempt.user_seconds is None else f"{attempt.user_seconds:.2f}s user",
        "" if attempt.system_seconds is None else f"{attempt.system_seconds:.2f}s system",
        "" if memory is None else f"{memory / 1e6:.1f}MB",
    ]
    return _known(
        ("started", Instant(attempt.started_at) if attempt.started_at else ""),
        ("ran on" if is_over else "runs on", executor_line(attempt)),
        ("held" if is_over else "holds", tokens),
        ("process", str(attempt.pid) if attempt.pid and not is_over else ""),
        ("used", ", ".join(filter(None, used))),
        ("killed", f"leftover {attempt.leftovers}" if attempt.leftovers else ""),
    )


def facts_of_message(message: Message) -> list[Fact]:
    """Return what is known of an event that a target is notified of."""
    counts = [(each.event, f"{each.count}: {', '.join(each.subjects)}") for each in message.summary or ()]
    return _known(
        ("when", Instant(message.at.timestamp())),
        ("schedule", message.schedule),
        ("due", Instant(message.due_at.timestamp()) if message.due_at else ""),
        ("job", "" if message.job is None else str(message.job)),
        ("name", "" if message.name == message.schedule else message.name),
        ("command", message.command),
        ("queue", message.queue),
        ("ended", outcome_in_words(message)),
        ("attempts", str(message.attempts or "")),
        ("failures", f"{message.failures} in a row" if (message.failures or 0) > 1 else ""),
        ("missed", f"{message.count} times" if (message.count or 0) > 1 else ""),
        ("reason", message.reason),
        *((event, words.rstrip(": ")) for event, words in counts),
    )


def _known(*facts: tuple[str, Value | None]) -> list[Fact]:
    return [(label, value) for label, value in facts if value and value != Listed("tag", [])]
