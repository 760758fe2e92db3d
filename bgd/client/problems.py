"""Words for errors of callers: which values a field takes, and which option an unknown name stands for."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

from msgspec import Struct, inspect

from bgd.core.spec import EXECUTOR_NAME, MAX_SLOTS, QUEUE_NAME, QueueName
from bgd.errors import nearest

_QUEUE_PATTERN = QueueName.__metadata__[0].pattern  # type: ignore[attr-defined]  # of an Annotated
_LONGEST_SHOWN = 60  # characters of a wrong value that an error message repeats


def problem_with(message: str, values: dict[str, Any], kind: type[Struct]) -> str:
    """Return msgspec's error message in plain words."""
    explanation, _, path = message.partition(" - at `$.")
    name = path.rstrip("`").partition("[")[0].partition(".")[0]
    for field in inspect.type_info(kind).fields:  # type: ignore[attr-defined]  # the info of a struct has them
        if field.encode_name == name and isinstance(values[name], dict):
            return f"{name}: {_requirement(field.type)}{_wrong_variable(values[name])}"
        if field.encode_name == name and (index := path.rstrip("`")[len(name) :].strip("[]")).isdecimal():
            value, item = values[name][int(index)], _item_type(field.type)
            return f"{name}[{index}]: {_requirement(item)}, not {_shown(value)}"
        if field.encode_name == name:
            return f"{name}: {_requirement(field.type)}, not {_shown(values[name])}"
    return explanation


def _requirement(kind: Any) -> str:  # noqa: C901, PLR0911, PLR0912 - a line for each type
    """Return in words which values a field of this type takes."""
    match kind:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType(ge=int(least), le=int(most)):
            return f"a whole number from {least} to {most}"
        case inspect.FloatType(gt=None, ge=least, le=most):
            return f"a number from {least:g} to {most:.0f}"
        case inspect.FloatType(gt=least, le=most):
            return f"a number above {least:g} and at most {most:.0f}"
        case inspect.StrType(pattern=str() as pattern):  # only two names have one
            return QUEUE_NAME if pattern == _QUEUE_PATTERN else EXECUTOR_NAME
        case inspect.StrType(min_length=least, max_length=most):
            return f"text of {least or 0} to {most} characters" if most else "text"
        case inspect.BytesType(max_length=most):
            return f"at most {most} bytes"
        case (
            inspect.ListType(item_type=item, max_length=most)
            | inspect.VarTupleType(item_type=item, max_length=most)
        ):
            return f"a list of at most {most}, each {_requirement(item)}"
        case inspect.TupleType():  # of a limit
            return f"a key, or a key and a number from 1 to {MAX_SLOTS}"
        case inspect.DictType(value_type=inspect.IntType(le=int(count)), max_length=most):
            return f"at most {most} resources, each with a number from 1 to {count}"
        case inspect.DictType(max_length=most):
            return f"at most {most} names, each with a text"
        case inspect.UnionType(types=kinds):
            some = [each for each in kinds if not isinstance(each, inspect.NoneType)]
            return " or ".join(map(_requirement, some)) + (" or None" if len(some) < len(kinds) else "")
        case inspect.EnumType(cls=words):
            return f"one of {', '.join(words)}"
        case _:
            return f"a {type(kind).__name__.removesuffix('Type').lower()}"


def _item_type(kind: Any) -> Any:
    """Return the type of the items of a list, also where the list is part of a union."""
    for each in getattr(kind, "types", (kind,)):
        if hasattr(each, "item_type"):
            return each.item_type
    return kind


def _wrong_variable(values: dict[Any, Any]) -> str:
    """Name the variable that is wrong. The values of environment variables may be secret, so show none."""
    wrong = [name for name, value in values.items() if not (isinstance(name, str) and isinstance(value, str))]
    return f", not {_shown(wrong[0])}: {type(values[wrong[0]]).__name__}" if wrong else f", not {len(values)}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def no_option(name: str, allowed: AbstractSet[str]) -> str:
    """Return the error message for an unknown option; it suggests the allowed one that is probably meant."""
    known = _ELSEWHERE.get(name)
    told = f"write {known}" if known in allowed else nearest(name, allowed)
    return f"no option {name!r}: {told}"


_ELSEWHERE = {
    "countdown": "delay",
    "depends_on": "after",
    "eta": "at",
    "job_timeout": "timeout",
    "link": "on_success",
    "link_error": "on_failure",
    "max_attempts": "retries",
    "max_retries": "retries",
    "queue_name": "queue",
    "run_after": "at",
    "scheduled_at": "at",
    "time_limit": "timeout",
    "tries": "retries",
    "ttl": "expires",
    "unique": "key",
    "unique_for": "key_for",
}
"""bgd's names for options of Celery, RQ, Laravel, Oban and Django."""
