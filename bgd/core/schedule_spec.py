"""The definition of a schedule: when it is due, what it runs, and what to do if it cannot."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from bgd.core.spec import MAX_ENV, Duration, JobSpec, Name, QueueName, Timeout
from bgd.text.units import Notation

MAX_SCHEDULES = 10_000
MAX_EXCEPTIONS = 400  # excluded days of one schedule
MAX_DAY = 100  # characters of YYYY-MM-DD, or of what somebody took for it
MAX_WHEN = 500  # characters that say when a schedule is due

ScheduleName = QueueName
WhenText = Annotated[str, Meta(min_length=1, max_length=MAX_WHEN)]
_Day = Annotated[
    str, Meta(max_length=MAX_DAY, description="a day such as '2026-12-24', or '12-25' for every year")
]
Days = Annotated[tuple[_Day, ...], Meta(max_length=MAX_EXCEPTIONS)]
_PASSED = Notation(
    '"all", "none" or a list of names', '["PATH", "HOME"]', lambda text: _ALL_OR_NONE.get(text, text)
)
_ALL_OR_NONE: dict[str, tuple[str, ...] | None] = {"all": None, "none": ()}
PassedVariables = Annotated[Annotated[tuple[Name, ...], Meta(max_length=MAX_ENV)] | None, _PASSED]
"""Names of variables; None: all."""


class Overlap(StrEnum):
    """What to do with an occurrence while an earlier job of its schedule has not finished."""

    SKIP = "skip"
    ALLOW = "allow"
    QUEUE = "queue"  # one job waits for the earlier one; further occurrences are skipped
    REPLACE = "replace"  # the earlier job is cancelled


class Missed(StrEnum):
    """What to do with occurrences that came due while bgd or the machine was down."""

    CRON = "cron"  # as in Debian's cron
    SKIP = "skip"
    LATEST = "latest"  # as `cron`, and the latest missed one runs


class Result(StrEnum):
    """The result of an occurrence."""

    RAN = "ran"
    SKIPPED = "skipped"
    MISSED = "missed"
    REPLACED = "replaced"  # its job had not begun when that of the next occurrence took its place


class ScheduleSpec(
    Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False
):
    """A schedule as it was defined. One of `cron`, `calendar` and `every` says when it is due.

    * `every`: a duration such as "15m"; due at its multiples, counted from 1970.
    * `timezone`: as in the tz database; None: the machine's.
    * `missed_within`: seconds after which a missed occurrence is too old for `latest`.
    * `jitter`: start up to this many seconds later; the delay is fixed for this machine and name.
    * `late_after`: seconds after an occurrence within which its job must finish.
    * `env_pass`: names of the daemon's variables that a command gets besides those in `job`; None: all.
    * `excluded`: days without occurrences, as YYYY-MM-DD or MM-DD.
    """

    job: JobSpec
    cron: WhenText | None = None
    calendar: WhenText | None = None
    every: WhenText | None = None
    timezone: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    overlap: Overlap = Overlap.SKIP
    missed: Missed = Missed.CRON
    missed_within: Timeout = 86_400.0
    jitter: Duration = 0.0
    late_after: Timeout | None = None
    excluded: Days = ()
    env_pass: PassedVariables = None
    paused: bool = False
