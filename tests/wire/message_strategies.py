"""Hypothesis strategies for every message of both protocols."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, get_args

import msgspec
from hypothesis import find
from hypothesis import strategies as st
from msgspec import inspect

from bgd.wire import launching, messages, replies, requests
from bgd.wire import schedules as schedules  # noqa: PLC0414 - its messages count, too

Message = Any  # a struct of one of the unions below

# By direction: its messages, and how they are encoded and decoded
DIRECTIONS: dict[str, tuple[Any, Callable[[Message], bytes], Callable[[bytes], Message]]] = {
    "hello": ((messages.Hello,), messages.encode, messages.decode_hello),
    "request": (messages.kinds_of(requests.Request).values(), messages.encode, messages.decode_request),
    "reply": (messages.kinds_of(replies.Reply).values(), messages.encode, messages.decode_reply),
    "to_launcher": (get_args(launching.ToLauncher), launching.encode, launching.decode_to_launcher),
    "from_launcher": (get_args(launching.FromLauncher), launching.encode, launching.decode_from_launcher),
}

KINDS = [(direction, kind) for direction, (among, _, _) in DIRECTIONS.items() for kind in among]


def tag_of(kind: type[msgspec.Struct]) -> str:
    return str(kind.__struct_config__.tag)


def kinds_of(direction: str) -> list[type[msgspec.Struct]]:
    return [kind for among, kind in KINDS if among == direction]


@functools.cache
def messages_of(kind: type[msgspec.Struct]) -> st.SearchStrategy[Message]:
    """Return a strategy for all values that a receiver accepts as such a message."""
    return values_of(inspect.type_info(kind))


def values_of(kind: inspect.Type) -> st.SearchStrategy[Any]:  # noqa: C901, PLR0911, PLR0912 - a line each
    match kind:
        case inspect.Metadata(type=described):
            return values_of(described)
        case inspect.NoneType():
            return st.none()
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType(ge=ge, le=le):
            return st.integers(-(2**63) if ge is None else ge, 2**64 - 1 if le is None else le)
        case inspect.FloatType(gt=gt, ge=ge, le=le):
            return st.floats(ge if gt is None else gt, le, exclude_min=gt is not None, allow_nan=False)
        case inspect.StrType(pattern=str(pattern)):
            return st.from_regex(pattern)
        case inspect.StrType(min_length=least, max_length=most):
            return st.text(min_size=least or 0, max_size=min(most or 50, 50))
        case inspect.BytesType(min_length=least, max_length=most):
            return st.binary(min_size=least or 0, max_size=min(most or 100, 100))
        case inspect.EnumType(cls=enum):
            return st.sampled_from(enum)
        case inspect.ListType(item_type=item, min_length=least):
            return st.lists(values_of(item), min_size=least or 0, max_size=3)
        case inspect.VarTupleType(item_type=item, min_length=least):
            return st.lists(values_of(item), min_size=least or 0, max_size=3).map(tuple)
        case inspect.TupleType(item_types=items):
            return st.tuples(*map(values_of, items))
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(values_of(key), values_of(value), max_size=3)
        case inspect.UnionType(types=kinds):
            return functools.reduce(operator.or_, map(values_of, kinds))
        case inspect.StructType(cls=struct, fields=fields):
            return st.builds(struct, **{field.name: values_of(field.type) for field in fields})
        case _:
            raise NotImplementedError(f"no strategy for {kind}")


def full_message(kind: type[msgspec.Struct]) -> Message:
    """Return a message with a value in every field that can have one."""
    return _full_value(inspect.type_info(kind))


def _full_value(kind: inspect.Type) -> Any:  # noqa: PLR0911 - a line each
    match kind:
        case inspect.UnionType(types=kinds):
            return _full_value(next(each for each in kinds if not isinstance(each, inspect.NoneType)))
        case inspect.BoolType():
            return True
        case inspect.IntType(ge=ge, le=le) | inspect.FloatType(ge=ge, le=le):
            usual = 3 if isinstance(kind, inspect.IntType) else 1.5
            return type(usual)(min(max(usual, usual if ge is None else ge), usual if le is None else le))
        case inspect.StrType(pattern=None):
            return "größer"
        case inspect.EnumType(cls=enum):
            return list(enum)[-1]
        case (
            inspect.ListType(item_type=item, min_length=least)
            | inspect.VarTupleType(item_type=item, min_length=least)
        ):
            return [_full_value(item)] * (least or 1)
        case inspect.TupleType(item_types=items):
            return tuple(map(_full_value, items))
        case inspect.DictType(key_type=key, value_type=value):
            return {_full_value(key): _full_value(value)}
        case inspect.StructType(cls=struct, fields=fields):
            return struct(**{field.name: _full_value(field.type) for field in fields})
        case _:
            return find(values_of(kind), bool)
