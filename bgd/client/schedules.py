"""Converts callers' arguments of schedules to a ScheduleSpec."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec.structs import replace

import bgd
from bgd.client.programs import check_command
from bgd.client.session import UNNUMBERED
from bgd.client.specs import Caller, check_names, checked, class_spec, command_spec, plain_value
from bgd.core.schedule_spec import MAX_SCHEDULES, PassedVariables, ScheduleName, ScheduleSpec
from bgd.core.spec import NOT_SCHEDULED, OPTIONS, Duration, JobSpec, Timeout
from bgd.errors import Refused
from bgd.settings.paths import find_program
from bgd.text.units import WrongValue, read
from bgd.wire.framing import MAX_FRAME
from bgd.wire.messages import encode
from bgd.wire.schedules import ScheduleView, SetSchedules, digest_of

if TYPE_CHECKING:
    from bgd.client.options import JobOptions

_WHEN = ("cron", "calendar", "every")
_NOTATIONS = dict.fromkeys(("missed_within", "late_after"), Timeout) | {
    "jitter": Duration,
    "env_pass": PassedVariables,
}
SETTINGS = {*_WHEN, *_NOTATIONS, "timezone", "overlap", "missed", "excluded", "paused"}
_OPTIONS = (OPTIONS.keys() - NOT_SCHEDULED | {"shell", "check"}) - SETTINGS


def new_schedule(
    argv: Sequence[str] | None = None,
    *,
    target: str | None = None,
    args: Sequence[object] = (),
    kwargs: Mapping[str, object] | None = None,
    **given: Any,
) -> ScheduleSpec:
    """Return a new schedule; `given` are its settings and the options of its job.

    Raises:
        Refused: a value is out of range or of the wrong type, or the program is missing.
        TypeError: an option is unknown.
    """
    if (argv is None) == (target is None):
        raise Refused("a schedule runs either a command or a target")
    options = _options(given)
    if target is None:
        job = _command(argv, options)
    else:
        job = class_spec(target, args, kwargs or {}, options, Caller())
    return _with_settings(ScheduleSpec(job=job), given)


def changed_schedule(old: ScheduleSpec, argv: Sequence[str] | None, given: Mapping[str, Any]) -> ScheduleSpec:
    """Return a schedule with changes. Raises as `new_schedule`."""
    options = _options(given)
    if argv is not None and old.job.target is not None:
        raise Refused("a class job cannot become a command: add the command as a new schedule")
    if not options and argv is None:
        return _with_settings(old, given)
    if old.job.target is None:
        made = _command(argv or old.job.argv or (), options)
    else:
        made = class_spec(old.job.target, (), {}, {**options, "check": False}, Caller())
    fields = {name for name in options if name in OPTIONS} | ({"argv"} if argv is not None else set())
    if "env" in fields:
        fields.add("explicit_env")
    return _with_settings(
        replace(old, job=replace(old.job, **{name: getattr(made, name) for name in fields})), given
    )


def whole_spec(view: ScheduleView) -> ScheduleSpec:
    """Return the definition of a stored schedule, of which a changed one is made.

    Raises:
        Refused: the daemon is newer, and options that this program does not know would be lost.
    """
    spec = msgspec.convert(msgspec.to_builtins(view.spec), ScheduleSpec)
    if view.digest is not None and digest_of(spec) != view.digest:
        raise Refused(
            f"schedule {view.name} has options of a newer bgd, which this program (bgd {bgd.__version__})"
            " does not know and would remove: upgrade it"
        )
    return spec


def set_schedules(specs: dict[str, ScheduleSpec], *, replaces: bool) -> SetSchedules:
    """Return the request that stores schedules.

    Raises:
        Refused: they are too many for one.
    """
    if len(specs) > MAX_SCHEDULES:
        raise Refused(f"these are {len(specs)} schedules: a daemon takes at most {MAX_SCHEDULES}")
    request = SetSchedules(id=UNNUMBERED, schedules=specs, replaces=replaces)
    if (size := len(encode(request))) > _MAX_TOGETHER:
        raise Refused(
            f"these {len(specs)} schedules take {size} bytes: at most {_MAX_TOGETHER} fit into one"
            " transaction; store some at a time"
        )
    return request


_MAX_TOGETHER = MAX_FRAME - 100  # bytes: the number that a request gets when it is sent makes it longer


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
    """Return the schedule that `bgd.job` or `options()` gave a function; None: it has none."""
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


def schedule_of_function(job: JobSpec, settings: Mapping[str, Any]) -> tuple[str, ScheduleSpec]:
    """Return name and definition of a function's schedule: its own name=, or the target with dots.

    Raises:
        Refused: it is not a name that a schedule can have, or the definition is not valid.
    """
    name = job.name or (job.target or "").replace(":", ".")
    try:
        read(name, ScheduleName)
    except WrongValue as error:
        raise Refused(f"the schedule of {job.target}: {error}; give it a name=") from error
    spec = _with_settings(ScheduleSpec(job=job), settings)
    _check_definition(spec)
    return name, spec


def check_settings(given: Mapping[str, Any]) -> None:
    """Refuse settings that no schedule can have.

    Raises:
        TypeError: they do not say when.
        Refused: a value is out of range or of the wrong type.
    """
    if not given.keys() & set(_WHEN):
        raise TypeError(f"{min(given)} is for schedules: say when, with cron, calendar or every")
    _check_definition(_with_settings(ScheduleSpec(job=JobSpec(argv=("true",))), given))


def _check_definition(spec: ScheduleSpec) -> None:
    from bgd.core.schedules import problem_with_schedule  # noqa: PLC0415 - reads cron expressions; few need it

    if problem := problem_with_schedule(spec):
        raise Refused(problem)


def _options(given: Mapping[str, Any]) -> JobOptions:
    options = {name: value for name, value in given.items() if name not in SETTINGS}
    for name in sorted(NOT_SCHEDULED & options.keys()):
        raise Refused(f"a schedule takes no {name}: the schedule decides when its jobs start")
    check_names(options, _OPTIONS)
    return cast("JobOptions", options)


def _command(argv: Sequence[str] | None, options: JobOptions) -> JobSpec:
    """Return the spec of a command: its program's whole path, and only variables that were chosen."""
    caller = Caller()
    options = cast("JobOptions", {"env_pass": "none", **options})
    spec = command_spec(argv or (), options, caller)
    words = spec.argv or ()
    if options.get("check", True):
        check_command(list(words), cast("JobOptions", {**options, "env_pass": "all"}), caller)
        found = find_program(words[0], caller.environment | (spec.env or {}), spec.cwd or caller.folder)
        words = (found, *words[1:])
    return replace(spec, argv=tuple(words), env=spec.env or None)


def _with_settings(spec: ScheduleSpec, given: Mapping[str, Any]) -> ScheduleSpec:
    settings = {name: value for name, value in given.items() if name in SETTINGS}
    if settings.keys() & set(_WHEN):
        settings = dict.fromkeys(_WHEN) | settings
    for name, kind in _NOTATIONS.items():
        if name in settings:
            settings[name] = plain_value(settings[name], kind, name)
    return checked(replace(spec, **settings))
