"""Policies: how [classes."PATTERN"] of the configuration is read, and put into words again."""

from __future__ import annotations

from collections.abc import Mapping

from bgd import values
from bgd.core.classes import ClassPolicy
from bgd.core.decision import Aim, Rules, Wish
from bgd.core.spec import (
    Backoff,
    FileBytes,
    MemoryBytes,
    Nice,
    OpenFiles,
    Percent,
    Priority,
    ProcessCount,
    Retries,
    Share,
    Timeout,
)
from bgd.core.target import is_dotted_name, problem_with_entry
from bgd.errors import ConfigError
from bgd.settings import Setting, named_in, read
from bgd.units import format_duration, parse_duration

SECTION = "classes"
KEYS = ClassPolicy.__struct_fields__

MAX_RULES = 100  # exceptions of one policy; every job that it is for carries them
MAX_TYPE = 200  # characters of an exception's name

_HOW = 'write "retry", "retry 30s", "fail" or "snooze 5m"'


def class_policies(found: Mapping[str, Setting]) -> dict[str, ClassPolicy]:
    """Return the policies by their patterns.

    Raises:
        ConfigError: one of them is wrong.
    """
    patterns = named_in(found, SECTION)
    for pattern, setting in patterns.items():
        problem = problem_with_entry(pattern)
        if problem is not None:
            raise ConfigError(f"{setting.origin}: {problem}")
    return {pattern: _policy(found, f"{SECTION}.{pattern}") for pattern in patterns}


def words_of(wish: Wish) -> str:
    """Return what is to follow as the configuration has it."""
    return wish.aim if wish.after is None else f"{wish.aim} {format_duration(wish.after)}"


def _policy(found: Mapping[str, Setting], section: str) -> ClassPolicy:
    return ClassPolicy(
        retries=read(found, f"{section}.retries", values.whole_number(Retries), None),
        delay=read(found, f"{section}.delay", values.seconds, None),
        backoff=read(found, f"{section}.backoff", values.number(Backoff), None),
        max_delay=read(found, f"{section}.max_delay", values.seconds, None),
        jitter=read(found, f"{section}.jitter", values.number(Share), None),
        timeout=read(found, f"{section}.timeout", values.seconds_of(Timeout), None),
        queue=read(found, f"{section}.queue", values.queue_name, None),
        priority=read(found, f"{section}.priority", values.whole_number(Priority), None),
        nice=read(found, f"{section}.nice", values.whole_number(Nice), None),
        memory_max=read(found, f"{section}.memory_max", values.size(MemoryBytes), None),
        cpu_max=read(found, f"{section}.cpu_max", values.whole_number(Percent), None),
        pids_max=read(found, f"{section}.pids_max", values.whole_number(ProcessCount), None),
        open_files=read(found, f"{section}.open_files", values.whole_number(OpenFiles), None),
        core_max=read(found, f"{section}.core_max", values.size(FileBytes), None),
        on_exceptions=read(found, f"{section}.on_exceptions", _rules, None),
    )


def _rules(setting: Setting) -> Rules:
    table = setting.value
    if not isinstance(table, dict):
        raise ValueError(f'must be a table, as {{ "app.errors.Busy" = "snooze 5m" }}; {_HOW}')  # noqa: TRY004 - what readers raise
    if len(table) > MAX_RULES:
        raise ValueError(f"has {len(table)} exceptions, the limit is {MAX_RULES}")
    for name in table:
        if len(name) > MAX_TYPE or not is_dotted_name(name):
            raise ValueError(
                f"{name!r} is no exception's name: write ValueError or package.module.Class, quoted"
            )
    return tuple((name, _wish(text)) for name, text in table.items())


def _wish(text: object) -> Wish:
    aim, _, after = str(text).partition(" ")
    if aim not in set(Aim) or (aim == Aim.FAIL and after) or (aim == Aim.SNOOZE and not after):
        raise ValueError(f"{text!r} does not say what follows: {_HOW}")
    return Wish(Aim(aim), values.checked_seconds(parse_duration(after)) if after else None)
