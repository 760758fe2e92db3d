"""Limits on what an attempt may use, and which of them a launcher can set."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct


class Limits(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Limits of an attempt, as in a JobSpec. None: the launcher's own."""

    nice: int | None = None
    memory_max: int | None = None
    cpu_max: int | None = None
    pids_max: int | None = None
    open_files: int | None = None
    core_max: int | None = None

    @property
    def controllers(self) -> list[str]:
        """The controllers of cgroup v2 that these limits need."""
        return [name for field, name in CONTROLLERS.items() if getattr(self, field) is not None]


NO_LIMITS = Limits()
CONTROLLERS = {"memory_max": "memory", "cpu_max": "cpu", "pids_max": "pids"}


class Abilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The limits that a launcher can set.

    `controllers`: those of cgroup v2 that it has. `problem`: why it does not have all, and what to do.
    `least_nice`: the lowest niceness. `most_open_files`, `most_core`: the highest of these limits; None: any.
    """

    controllers: list[str] = []
    problem: str = ""
    least_nice: int = -20
    most_open_files: int | None = None
    most_core: int | None = None


def problem_with_limits(limits: Limits, abilities: Abilities) -> str | None:
    """Return in one line why a launcher with these abilities cannot set these limits; None: it can."""
    return next(_problems_with_limits(limits, abilities), None)


def _problems_with_limits(limits: Limits, able: Abilities) -> Iterator[str]:
    for field, name in CONTROLLERS.items():
        if getattr(limits, field) is not None and name not in able.controllers:
            yield f"{field} needs the {name} controller of cgroup v2: {able.problem}"
    if limits.nice is not None and limits.nice < able.least_nice:
        yield f"nice {limits.nice} is not permitted: the lowest for bgd is {able.least_nice}"
    for field, asked, most in (
        ("open_files", limits.open_files, able.most_open_files),
        ("core_max", limits.core_max, able.most_core),
    ):
        if asked is not None and most is not None and asked > most:
            yield f"{field} {asked} is not permitted: the launcher's own hard limit is {most}"
