"""Notifications: what somebody is told when jobs end, or when schedules miss a time."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from bgd.core.job import Outcome


class NotifyEvent(StrEnum):
    """What a notification is about."""

    FAILED = "failed"
    RECOVERED = "recovered"
    SUCCEEDED = "succeeded"
    STARTED = "started"
    MISSED = "missed"  # occurrences of a schedule that nobody saw in time
    LATE = "late"  # a job that had not succeeded when it had to
    SUMMARY = "summary"  # what was held back so that nobody is flooded
    TEST = "test"


class Counted(Struct, frozen=True, kw_only=True):
    """A line of a summary: how often something happened, and to which jobs and schedules."""

    event: NotifyEvent
    count: int
    subjects: tuple[str, ...] = ()


class Message(Struct, frozen=True, kw_only=True):
    """What the daemon hands to the program that delivers a notification, as JSON.

    * `id`: the same in every attempt to deliver it, so that whoever gets it twice can tell.
    * `target`: the NAME of `[notify.NAME]`; how it is reached is looked up when it is sent.
    * `subject`: in a few words, what this is about, for example the name of a job or a schedule.
    * `failures`: how many times in a row it failed. `count`: how many occurrences were missed.
    * `log`: path of the log of the latest attempt.
    """

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{8,64}\Z")]
    event: NotifyEvent
    at: Annotated[datetime, Meta(tz=True)]
    target: str
    subject: str
    schedule: str | None = None
    job: int | None = None
    name: str | None = None
    command: str | None = None
    queue: str | None = None
    outcome: Outcome | None = None
    exit_code: int | None = None
    signal: int | None = None
    attempts: int | None = None
    failures: int | None = None
    reason: str | None = None
    due_at: Annotated[datetime, Meta(tz=True)] | None = None
    count: int | None = None
    log: str | None = None
    summary: tuple[Counted, ...] | None = None
