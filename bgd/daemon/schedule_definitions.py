"""What a schedule's definition means on this machine: when it is due, and which job it queues."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Collection
from contextlib import suppress
from functools import cache
from math import inf
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bgd import timezones
from bgd.config import Config
from bgd.core.cron import ExpressionError
from bgd.core.schedule_spec import ScheduleSpec
from bgd.core.schedules import Timetable, next_at, timetable_of
from bgd.core.spec import JobSpec
from bgd.daemon.launches import own_environment
from bgd.errors import ConfigError


class ScheduleDefinition(Struct, frozen=True, gc=False):
    """A definition and what follows from it.

    * `problem`: why it cannot be used; then `timetable` is None.
    * `next_at`: its first occurrence after `seen_at`; inf: there is none.
    """

    spec: ScheduleSpec
    seen_at: float
    timetable: Timetable | None = None
    problem: str | None = None
    next_at: float = inf


def definition_of(name: str, spec: ScheduleSpec, seen_at: float) -> ScheduleDefinition:
    """Return what a definition means; takes a tenth of a millisecond."""
    if spec.timezone is not None and (problem := timezones.problem_with_zone(spec.timezone)):
        return ScheduleDefinition(spec, seen_at, problem=f"timezone {problem}")
    try:
        zone = timezones.zone(spec.timezone)
        timetable = timetable_of(spec, zone, f"{_machine_id()}\0{name}")
    except LookupError:
        remedy = "write" if spec.timezone else "add a timezone, or set the variable TZ of bgd, to"
        problem = (
            f"timezone {spec.timezone or timezones.machine_zone()!r} is not known on this machine: "
            f"{remedy} one such as Europe/Paris"
        )
        return ScheduleDefinition(spec, seen_at, problem=problem)
    except ExpressionError as error:
        return ScheduleDefinition(spec, seen_at, problem=str(error))
    due_at = next_at(timetable, seen_at)
    return ScheduleDefinition(spec, seen_at, timetable, next_at=inf if due_at is None else due_at)


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
    """Return what distinguishes this machine from others; empty if it has no id."""
    with suppress(OSError):
        return Path("/etc/machine-id").read_text().strip()
    return platform.node()


def digest_of(spec: ScheduleSpec) -> str:
    """Return what distinguishes a definition from others."""
    return hashlib.blake2b(msgspec.msgpack.encode(spec), digest_size=16).hexdigest()


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
