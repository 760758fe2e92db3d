"""A schedule in force, and what its definition means on this machine: when it is due, which job it queues."""

from __future__ import annotations

import platform
from collections.abc import Collection
from contextlib import suppress
from functools import cache
from math import inf
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from bgd.core.cron import ExpressionError
from bgd.core.job import JobId
from bgd.core.schedule_spec import ScheduleSpec
from bgd.core.schedules import Timetable, timetable_of
from bgd.core.spec import JobSpec
from bgd.daemon.launches import own_environment
from bgd.daemon.storage.records import UNREADABLE, StoredSchedule
from bgd.errors import ConfigError
from bgd.settings.config import Config
from bgd.system import timezones


class Run(Struct, gc=False):
    """A job of a schedule, due at `due_at` on the wall clock.

    `due`: the same on the elapsed clock; None: whether it is late is settled.
    """

    due_at: float
    due: float | None
    is_late: bool = False


class ActiveSchedule(Struct, kw_only=True, gc=False):
    """A schedule in force. `timetable` None: it cannot be used, for the reason in `problem`.

    `runs`: its latest jobs, and all that have not finished, oldest first. `next_at`: when it is due next.
    `late_at`: when one of its jobs may be late, on the elapsed clock.
    """

    stored: StoredSchedule
    timetable: Timetable | None
    problem: str | None
    seen: float
    runs: dict[JobId, Run]
    next_at: float = inf
    late_at: float = inf

    @property
    def is_paused(self) -> bool:
        """Whether its occurrences are skipped: as a person said, or as it says itself."""
        return self.stored.spec.paused if self.stored.paused is None else self.stored.paused


def meaning_of(name: str, spec: ScheduleSpec) -> Timetable | str:
    """Return what a definition means, or why it cannot be used; takes a tenth of a millisecond."""
    if spec.job.argv == UNREADABLE.argv:
        return "its definition cannot be read in the database: replace or remove it"
    if spec.timezone is not None and (problem := timezones.problem_with_zone(spec.timezone)):
        return f"timezone {problem}"
    try:
        return timetable_of(spec, timezones.zone(spec.timezone), f"{_machine_id()}\0{name}")
    except LookupError:
        remedy = "write" if spec.timezone else "add a timezone, or set the variable TZ of bgd, to"
        return (
            f"timezone {spec.timezone or timezones.machine_zone()!r} is not known on this machine: "
            f"{remedy} one such as Europe/Paris"
        )
    except ExpressionError as error:
        return str(error)


def check_names(config: Config, stored: Collection[str]) -> None:
    """Check that no configured schedule has the name of a stored one.

    Raises:
        ConfigError: one is.
    """
    if both := sorted(config.schedules.keys() & set(stored)):
        raise ConfigError(
            f"{config.source}: schedules.{both[0]}: this name was added with `bgctl schedule add`: "
            "choose another, or `bgctl schedule remove` that one first"
        )


@cache
def _machine_id() -> str:
    """Return the id of this machine; empty if it has none."""
    with suppress(OSError):
        return Path("/etc/machine-id").read_text().strip()
    return platform.node()


def job_of(name: str, spec: ScheduleSpec) -> JobSpec:
    """Return the job of a schedule, which has the schedule's name unless it has one of its own.

    Variables of a command are added to those of the daemon that it gets.
    """
    job = spec.job if spec.job.name else replace(spec.job, name=name)
    if job.target is not None or (job.env is None and spec.env_pass is None):
        return job
    own = own_environment()
    passed = own.keys() if spec.env_pass is None else own.keys() & set(spec.env_pass)
    return replace(job, env={**{name: own[name] for name in passed}, **(job.env or {})})
