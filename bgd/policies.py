"""Policies: how [classes."PATTERN"] of the configuration is read, and put into words again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bgd import values
from bgd.core.classes import POLICY_KEYS, ClassPolicy
from bgd.core.decision import Aim, Rules, Wish
from bgd.core.spec import Duration, FileBytes, MemoryBytes, QueueName, Timeout, kind_of
from bgd.core.target import is_dotted_name, problem_with_entry
from bgd.errors import ConfigError
from bgd.settings import Setting, named_in, read
from bgd.units import format_duration, parse_duration

SECTION = "classes"
KEYS = (*POLICY_KEYS, "on_exceptions")

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
    options = {
        name: read(found, f"{section}.{key}", _reader_of(kind_of(name)), None)
        for key, name in POLICY_KEYS.items()
        if f"{section}.{key}" in found
    }
    return ClassPolicy(options, read(found, f"{section}.on_exceptions", _rules, None))


def _reader_of(kind: Any) -> values.Reader[object]:
    """Return what reads an option of this type; a type that is read in no special way is read as its base."""
    readers: dict[Any, values.Reader[object]] = {
        QueueName: values.queue_name,
        Duration: values.seconds,
        Timeout: values.seconds_of(Timeout),
        MemoryBytes: values.size(MemoryBytes),
        FileBytes: values.size(FileBytes),
    }
    if kind in readers:
        return readers[kind]
    return values.whole_number(kind) if kind.__origin__ is int else values.number(kind)


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
