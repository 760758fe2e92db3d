"""Requests about schedules, and their replies. Most clients never need them: import this late."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct, msgpack

from bgd.core.schedule_spec import MAX_SCHEDULES, Result, ScheduleName, ScheduleSpec
from bgd.core.spec import JobSpec
from bgd.wire.replies import Reply
from bgd.wire.requests import Request

MAX_UPCOMING = 100
MAX_HISTORY = 1_000

# --- requests ---------------------------------------------------------------------------------------------


class GetSchedules(Request, frozen=True, tag="schedules", kw_only=True):
    """-> SchedulesPart..., End: all schedules by name, or one.

    `upcoming`: how many of the next occurrences of each the answer has.
    """

    name: ScheduleName | None = None
    upcoming: Annotated[int, Meta(ge=0, le=MAX_UPCOMING)] = 1


class SetSchedule(Request, frozen=True, tag="set_schedule", kw_only=True):
    """-> SchedulesPart. Store a schedule.

    `replaces`: it takes the place of the one of this name; otherwise there must be none. `digest`: that one
    still has to have this digest, see ScheduleView; None: any. `repeated`: the answer to the same request was
    lost; it is no error if it is stored already.
    """

    name: ScheduleName
    spec: ScheduleSpec
    replaces: bool = False
    repeated: bool = False
    digest: Annotated[str, Meta(max_length=64)] | None = None


class SetSchedules(Request, frozen=True, tag="set_schedules", kw_only=True):
    """-> SchedulesSet. Store schedules in one transaction: all of them, or none.

    `replaces`: they also take the place of those of their names; otherwise there must be none. One that is
    stored with this definition already stays as it is. `repeated`: as in SetSchedule.
    """

    schedules: Annotated[dict[ScheduleName, ScheduleSpec], Meta(max_length=MAX_SCHEDULES)]
    replaces: bool = False
    repeated: bool = False


class RemoveSchedule(Request, frozen=True, tag="remove_schedule"):
    """-> Done. Its history stays, and a job of it that runs goes on. `repeated`: as in RemoveQueue."""

    name: ScheduleName
    repeated: bool = False


class PauseSchedule(Request, frozen=True, tag="pause_schedule"):
    """-> SchedulesPart. Skip its occurrences until it is resumed, or resume it. Kept over restarts."""

    name: ScheduleName
    paused: bool


class RunSchedule(Request, frozen=True, tag="run_schedule"):
    """-> Submitted: queue the job of a schedule now, as far as its overlap allows it."""

    name: ScheduleName


class GetHistory(Request, frozen=True, tag="history", kw_only=True):
    """-> HistoryPart. What became of the occurrences of a schedule, newest first, also of a removed one.

    `before`: only rows with lower ids: the next page.
    """

    name: ScheduleName
    limit: Annotated[int, Meta(ge=1, le=MAX_HISTORY)] = 50
    before: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None


# --- replies ----------------------------------------------------------------------------------------------

if TYPE_CHECKING:
    SeenSchedule = ScheduleSpec
else:  # that of a newer daemon may have fields that are not known here

    class SeenJob(JobSpec, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=False):
        """A job of a schedule as a client sees it."""

    class SeenSchedule(
        ScheduleSpec, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=False
    ):
        """A schedule as a client sees it."""

        job: SeenJob


def digest_of(spec: ScheduleSpec) -> str:
    """Return a hash of a definition."""
    return hashlib.blake2b(msgpack.encode(spec), digest_size=16).hexdigest()


class OccurrenceView(Struct, frozen=True, kw_only=True):
    """What became of an occurrence, or of `count` in a row from `due_at` on. Instants are epoch seconds."""

    id: int
    due_at: float
    outcome: Result
    job: int | None = None  # None also once the job is removed
    reason: str | None = None  # why it did not run, or the user who asked for it
    count: int = 1
    late: bool = False  # its job had not finished when the schedule's `late_after` was over


class ScheduleView(Struct, frozen=True, kw_only=True):
    """A schedule as people see it.

    * `is_configured`: it is from the configuration file, and cannot be edited or removed.
    * `words`: when it is due, in words.
    * `timezone`: the one in force.
    * `upcoming`: its next occurrences; none while it is paused.
    * `problem`: why it cannot be used; None: it can.
    * `is_late`: a job of it is late and has not finished.
    * `digest`: distinguishes this definition from others, if only one schedule was asked for.
    """

    name: str
    spec: SeenSchedule
    is_configured: bool
    is_paused: bool
    words: str
    timezone: str
    upcoming: list[float]
    latest: OccurrenceView | None = None
    problem: str | None = None
    is_late: bool = False
    digest: str | None = None


class SchedulesPart(Reply, frozen=True, tag="schedules"):
    """Some schedules."""

    schedules: list[ScheduleView]


class SchedulesSet(Reply, frozen=True, tag="schedules_set"):
    """Names of schedules, by what became of them; what is unchanged was stored like this before."""

    added: list[str]
    changed: list[str]
    unchanged: list[str]


class HistoryPart(Reply, frozen=True, tag="history"):
    """Some occurrences of a schedule."""

    occurrences: list[OccurrenceView]
