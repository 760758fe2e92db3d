"""Which functions have a schedule, by `@bgd.job(cron=...)`, and how each is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import FunctionType, ModuleType

from bgd.core.schedule_spec import ScheduleSpec
from bgd.errors import Refused


def schedules_of(sources: Iterable[object]) -> dict[str, ScheduleSpec]:
    """Return the schedules of functions, and of all functions and methods that modules define, by name.

    Raises:
        TypeError: a function has no schedule, it needs arguments, or no worker would find it.
        Refused: a definition is not valid, or two functions have one name.
    """
    found: dict[str, ScheduleSpec] = {}
    for name, spec in _found(sources):
        other = found.setdefault(name, spec)
        if other.job.target != spec.job.target:
            raise Refused(
                f"{other.job.target} and {spec.job.target} both have the name {name!r}: change one name="
            )
    return found


def _found(sources: Iterable[object]) -> Iterator[tuple[str, ScheduleSpec]]:
    for source in sources:
        if isinstance(source, ModuleType):
            yield from filter(None, map(_schedule_spec, _functions_of(source)))
            continue
        spec = _schedule_spec(source)
        if spec is None:
            raise TypeError(
                f"{source!r} has no schedule: put @bgd.job(cron=...) above it, or pass its module"
            )
        yield spec


def _schedule_spec(source: object) -> tuple[str, ScheduleSpec] | None:
    """Return what `bgd.job` has made of a function, or its `options()` of that; None: it has no schedule."""
    method = getattr(source, "schedule_spec", None)
    return method() if callable(method) else None


def _functions_of(module: ModuleType) -> Iterator[FunctionType]:
    """Yield the functions and methods that a module defines, not those that it imports."""
    for value in vars(module).values():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        for member in vars(value).values() if isinstance(value, type) else (value,):
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if isinstance(function, FunctionType):
                yield function
