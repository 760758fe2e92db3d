"""Notifications: decides on messages to targets when jobs end or schedules miss a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from bgd.core.job import Outcome

WINDOW = 60.0  # seconds in which a target gets at most `per_minute` messages
NEVER = 79  # exit code of a delivery that cannot succeed; sysexits.h, which sendmail uses, ends at 78
MAX_SUBJECTS = 20  # that a summary names for each event


class NotifyEvent(StrEnum):
    """What a notification is about."""

    STARTED = "started"
    FAILED = "failed"
    RECOVERED = "recovered"
    SUCCEEDED = "succeeded"
    MISSED = "missed"  # occurrences of a schedule that came due while bgd was down
    LATE = "late"  # a job that had not succeeded in time
    SUMMARY = "summary"  # messages held back to prevent a flood
    TEST = "test"


CHOSEN = tuple(each for each in NotifyEvent if each not in {NotifyEvent.SUMMARY, NotifyEvent.TEST})
"""The events that `on` of a target may name."""


class Counted(Struct, frozen=True, kw_only=True):
    """A line of a summary: a count, and the jobs and schedules."""

    event: NotifyEvent
    count: int
    subjects: tuple[str, ...] = ()


class _About(Struct, frozen=True, kw_only=True):
    """What a Fact and the Message about it have in common."""

    event: NotifyEvent
    job: int | None = None
    name: str | None = None
    schedule: str | None = None
    queue: str | None = None
    outcome: Outcome | None = None
    exit_code: int | None = None
    signal: int | None = None
    attempts: int | None = None
    reason: str | None = None
    count: int | None = None


class Message(_About, frozen=True, kw_only=True):
    """What the daemon hands to the program that delivers a notification, as JSON.

    * `id`: the same in every attempt to deliver it, so that a receiver can recognise a second delivery.
    * `target`: the NAME of `[notify.NAME]`, which is looked up at delivery.
    * `subject`: for example the name of a job or a schedule.
    * `failures`: how many times in a row it failed. `count`: how many occurrences were missed.
    * `log`: path of the log of the latest attempt.
    """

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{8,64}\Z")]
    at: Annotated[datetime, Meta(tz=True)]
    target: str
    subject: str
    command: str | None = None
    failures: int | None = None
    due_at: Annotated[datetime, Meta(tz=True)] | None = None
    log: str | None = None
    summary: tuple[Counted, ...] | None = None


# --- from facts to messages -----------------------------------------------------------------------------


class NotifyRule(Struct, frozen=True, kw_only=True):
    """When a target gets notifications.

    `on`: these events. `failures`: a failure only once there are this many in a row. `per_minute`: this many
    messages at most, of which one may be a summary.
    """

    on: Collection[str] = (NotifyEvent.FAILED,)
    failures: int = 1
    per_minute: int = 10


class Fact(_About, frozen=True, kw_only=True):
    """What has happened: a job started, failed or succeeded, or an occurrence of a schedule was missed.

    `target` None: the one that the job names, or that of [daemon] notify. The fields of a job may be left
    out: they are taken from its row. `count`: of occurrences in a row.
    """

    at: float
    target: str | None = None
    due_at: float | None = None

    @property
    def is_about_calls(self) -> bool:
        """Whether it is about the calls of a class, which are paused or go on."""
        return self.job is None and self.schedule is None

    @property
    def subject(self) -> str:
        """The subject of the fact, for users."""
        return self.schedule or self.name or f"job {self.job}"

    @property
    def streak(self) -> str:
        """The key that counts its failures: its schedule, else its name, else its job.

        The name of a schedule has no space, so the three kinds never share a streak.
        """
        return self.schedule or (f"name {self.name}" if self.name else f"job {self.job}")


def fact_of_calls(pattern: str, target: str | None, at: float, reason: str | None) -> Fact:
    """Return the fact that calls of a class are paused for a reason, or go on without one."""
    event = NotifyEvent.SUCCEEDED if reason is None else NotifyEvent.FAILED
    return Fact(event=event, at=at, target=target, name=f"calls to {pattern}", reason=reason)


class Streak(Struct, frozen=True):
    """How many times something has failed in a row, and whether the target was notified of it.

    `job`: the only job that can continue it; None for a schedule or a name.
    """

    failures: int = 0
    is_notified: bool = False
    job: int | None = None


NO_STREAK = Streak()
StreakKey = tuple[str, str]  # target and Fact.streak


class Waiting(Struct, frozen=True):
    """Messages to one target that wait for its limit of messages; later they are sent as one."""

    first: Message
    counts: tuple[Counted, ...]

    def message(self, at: float, new_id: str) -> Message:
        """Return the one message: the only one that waits, or a summary of all with this id."""
        total = sum(each.count for each in self.counts)
        if total == 1:
            return self.first
        return Message(
            id=new_id,
            event=NotifyEvent.SUMMARY,
            at=instant(at),
            target=self.first.target,
            subject=f"{total} notifications",
            summary=self.counts,
        )


class Decisions(Struct, kw_only=True):
    """The decisions about some facts.

    * `messages`: to send. `unknown`: targets that are not configured.
    * `until`: the id of the last fact that was decided about.
    * `streaks`: those that have changed; one without failures is deleted.
    * `waiting`: what waits for room at targets where that has changed.
    * `sent`: targets whose waiting messages were sent.
    * `forgotten`: targets that were removed from the configuration.
    """

    messages: list[Message] = []
    unknown: set[str] = set()
    until: int = 0
    streaks: dict[StreakKey, Streak] = {}
    waiting: dict[str, Waiting] = {}
    sent: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = ()


def decide(
    facts: Iterable[Fact],
    streaks: Mapping[StreakKey, Streak],
    rules: Mapping[str, NotifyRule],
    room: Mapping[str, int],
    waiting: Mapping[str, Waiting],
    new_id: Callable[[], str],
) -> Decisions:
    """Return the messages about some facts, in their order.

    `streaks`: at least those of these facts. `rules`: by target. `room`: how many messages each target may
    get now. `waiting`: messages that wait already. `new_id`: returns a random id for each message.
    """
    decisions = Decisions()
    left = dict(room)
    for fact in facts:
        target = fact.target
        if target is None or target not in rules:
            decisions.unknown.add(target or "")
            continue
        key = target, fact.streak
        before = decisions.streaks.get(key) or streaks.get(key, NO_STREAK)
        rule = replace(rules[target], failures=1) if fact.is_about_calls else rules[target]
        event, after = event_to_send(fact.event, before, rule)
        if after != before:
            decisions.streaks[key] = replace(after, job=None if fact.schedule or fact.name else fact.job)
        if event is None:
            continue
        message = _message(new_id(), event, fact, max(before.failures, after.failures))
        already = decisions.waiting.get(target) or waiting.get(target)
        if already is None and left.get(target, 0) > 0:
            left[target] -= 1
            decisions.messages.append(message)
        else:
            decisions.waiting[target] = _added(already, message)
    return decisions


def event_to_send(event: NotifyEvent, streak: Streak, rule: NotifyRule) -> tuple[NotifyEvent | None, Streak]:
    """Return the event to send about a fact, and the streak after it; None: send nothing.

    A success after a reported failure is sent as a recovery if the target wants that, else as a success.
    """
    if event is NotifyEvent.FAILED:
        failures = streak.failures + 1
        is_time = not streak.is_notified and failures >= rule.failures
        after = Streak(failures, is_notified=streak.is_notified or is_time)
        return (event if is_time and event in rule.on else None), after
    if event is NotifyEvent.SUCCEEDED:
        if streak.is_notified and NotifyEvent.RECOVERED in rule.on:
            return NotifyEvent.RECOVERED, NO_STREAK
        return (event if event in rule.on else None), NO_STREAK
    return (event if event in rule.on else None), streak


def instant(at: float) -> datetime:
    """Return an instant of epoch time as a Message has it."""
    return datetime.fromtimestamp(at, UTC)


def _message(message_id: str, event: NotifyEvent, fact: Fact, failures: int) -> Message:
    of_fact = asdict(fact) | {
        "event": event,
        "at": instant(fact.at),
        "due_at": None if fact.due_at is None else instant(fact.due_at),
        "failures": failures if event in {NotifyEvent.FAILED, NotifyEvent.RECOVERED} else None,
    }
    return Message(id=message_id, subject=fact.subject, **of_fact)


def _added(waiting: Waiting | None, message: Message) -> Waiting:
    """Return the waiting messages of a target after one more."""
    if waiting is None:
        return Waiting(message, (Counted(event=message.event, count=1, subjects=(message.subject,)),))
    counts = {each.event: each for each in waiting.counts}
    old = counts.get(message.event, Counted(event=message.event, count=0))
    is_new = message.subject not in old.subjects and len(old.subjects) < MAX_SUBJECTS
    subjects = (*old.subjects, message.subject) if is_new else old.subjects
    counts[message.event] = Counted(event=message.event, count=old.count + 1, subjects=subjects)
    return Waiting(waiting.first, tuple(counts.values()))


# --- limits -----------------------------------------------------------------------------------------------


def room(sent: deque[float], at: float, per_minute: int) -> int:
    """Return how many more messages a target may get now.

    `sent`: when it got its latest ones, on a clock that never jumps; those that no longer count are removed.
    """
    while sent and sent[0] + WINDOW <= at:
        sent.popleft()
    return max(per_minute - len(sent), 0)


def room_at(sent: deque[float], per_minute: int) -> float:
    """Return when a target may get its next message: a time in the past if it may already."""
    return sent[-per_minute] + WINDOW if len(sent) >= per_minute else 0.0
