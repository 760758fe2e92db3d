"""Wording: what may stand in a field, told in plain words from the field's type."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from bgd.core.spec import QUEUE_NAME
from bgd.errors import Refused

S = TypeVar("S", bound=Struct)

_LONGEST = 60  # characters of a value that are worth repeating


def converted(values: dict[str, Any], kind: type[S]) -> S:
    """Return the struct that has these values.

    Raises:
        Refused: one of them is out of range or of the wrong kind; the message says which and what would do.
    """
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise Refused(_problem(str(error), values, kind)) from error


def checked(request: S) -> S:
    """Return a request whose values are in range.

    Raises:
        Refused: as `converted`.
    """
    return converted(msgspec.to_builtins(request, builtin_types=(bytes,)), type(request))


def _problem(message: str, values: dict[str, Any], kind: type[Struct]) -> str:
    from msgspec import inspect  # noqa: PLC0415 - only who made a mistake pays for it

    explanation, _, path = message.partition(" - at `$.")
    name = path.rstrip("`").partition("[")[0].partition(".")[0]
    for field in inspect.type_info(kind).fields:  # type: ignore[attr-defined]  # of a struct it has them
        if field.encode_name == name and isinstance(values[name], dict):
            return f"{name}: {_requirement(field.type)}{_which_is_no_text(values[name])}"
        if field.encode_name == name and (index := path.rstrip("`")[len(name) :].strip("[]")).isdecimal():
            value, item = values[name][int(index)], _item_of(field.type)
            return f"{name}[{index}]: {_requirement(item)}, not {_shown(value)}"
        if field.encode_name == name:
            return f"{name}: {_requirement(field.type)}, not {_shown(values[name])}"
    return explanation


def _requirement(kind: Any) -> str:  # noqa: C901, PLR0911 - a line for each type
    from msgspec import inspect  # noqa: PLC0415 - as above

    match kind:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType(ge=int(least), le=int(most)):
            return f"a whole number from {least} to {most}"
        case inspect.FloatType(gt=None, ge=least, le=most):
            return f"a number from {least:g} to {most:.0f}"
        case inspect.FloatType(gt=least, le=most):
            return f"a number above {least:g} and at most {most:.0f}"
        case inspect.StrType(pattern=str()):  # there is but one pattern, that of a queue's name
            return QUEUE_NAME
        case inspect.StrType(min_length=least, max_length=most):
            return f"text of {least or 0} to {most} characters" if most else "text"
        case inspect.BytesType(max_length=most):
            return f"at most {most} bytes"
        case (
            inspect.ListType(item_type=item, max_length=most)
            | inspect.VarTupleType(item_type=item, max_length=most)
        ):
            return f"a list of at most {most}, each {_requirement(item)}"
        case inspect.DictType(max_length=most):
            return f"at most {most} names, each with a text"
        case inspect.UnionType(types=kinds):
            some = [each for each in kinds if not isinstance(each, inspect.NoneType)]
            return " or ".join(map(_requirement, some)) + (" or None" if len(some) < len(kinds) else "")
        case inspect.EnumType(cls=words):
            return f"one of {', '.join(words)}"
        case _:
            return f"a {type(kind).__name__.removesuffix('Type').lower()}"


def _item_of(kind: Any) -> Any:
    """Return the type of the items of a list, or of the list that a union has."""
    for each in getattr(kind, "types", (kind,)):
        if hasattr(each, "item_type"):
            return each.item_type
    return kind


def _which_is_no_text(values: dict[Any, Any]) -> str:
    """Name the variable that is wrong, and no other: their values are nobody's business."""
    wrong = [name for name, value in values.items() if not (isinstance(name, str) and isinstance(value, str))]
    return f", not {_shown(wrong[0])}: {type(values[wrong[0]]).__name__}" if wrong else f", not {len(values)}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
