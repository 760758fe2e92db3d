"""Limits of an attempt, and whether a launcher can hold an attempt to them."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct


class Limits(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an attempt may have, as in a JobSpec; None: what the launcher itself may."""

    nice: int | None = None
    memory_max: int | None = None
    cpu_max: int | None = None
    pids_max: int | None = None
    open_files: int | None = None
    core_max: int | None = None

    @property
    def controllers(self) -> list[str]:
        """The controllers of cgroup v2 that it takes."""
        return [name for field, name in CONTROLLERS.items() if getattr(self, field) is not None]


NO_LIMITS = Limits()

CONTROLLERS = {"memory_max": "memory", "cpu_max": "cpu", "pids_max": "pids"}


class Abilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What limits a launcher can set.

    `controllers`: of cgroup v2; `problem`: why not all of them, and what to do. `least_nice`: the lowest
    niceness; `most_open_files`, `most_core`: the highest of those limits, None: there is no end.
    """

    controllers: list[str] = []
    problem: str = ""
    least_nice: int = -20
    most_open_files: int | None = None
    most_core: int | None = None


def problem_with(limits: Limits, abilities: Abilities) -> str | None:
    """Say in one line why a launcher of these abilities cannot set these limits, or None."""
    return next(_problems(limits, abilities), None)


def _problems(limits: Limits, able: Abilities) -> Iterator[str]:
    for field, name in CONTROLLERS.items():
        if getattr(limits, field) is not None and name not in able.controllers:
            yield f"{field} takes the {name} controller of cgroup v2: {able.problem}"
    if limits.nice is not None and limits.nice < able.least_nice:
        yield f"nice {limits.nice} is not permitted: bgd may go down to {able.least_nice}"
    for field, asked, most in (
        ("open_files", limits.open_files, able.most_open_files),
        ("core_max", limits.core_max, able.most_core),
    ):
        if asked is not None and most is not None and asked > most:
            yield f"{field} {asked} is not permitted: the launcher's own hard limit is {most}"
