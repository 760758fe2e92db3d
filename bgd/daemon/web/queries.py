"""Queries: what stands behind the question mark of an address, within its limits; and how to write it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, TypeVar
from urllib.parse import parse_qs, urlencode

import msgspec
from msgspec import Meta, Struct

from bgd.core.job import State
from bgd.wire.http import RequestRefused
from bgd.wire.requests import DEFAULT_LIST, List

T = TypeVar("T")

MAX_ROWS = 200  # jobs on a page

_MAX_FIELDS = 20
_LONGEST_SHOWN = 40  # characters of a value that is refused


class LogQuery(Struct, frozen=True):
    """`tail`: only so many last bytes."""

    tail: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    download: bool = False


class JobQuery(Struct, frozen=True):
    """`before`: only attempts before that number."""

    before: Annotated[int, Meta(ge=1, le=2**31)] | None = None


def list_query(text: str) -> List:
    """Return which jobs are asked for: of all states, if none is named."""
    fields = _fields(text)
    states = fields.pop("state", None) or list(State)
    if unknown := [state for state in states if state not in set(State)]:
        raise RequestRefused(
            HTTPStatus.BAD_REQUEST,
            f"There is no state {unknown[0][:_LONGEST_SHOWN]!r}. States are {', '.join(State)}.",
        )
    named = {name: values[-1] for name, values in fields.items() if name in _SINGLE}
    query = _converted({"id": 0, "states": states, "limit": DEFAULT_LIST, **named}, List)
    return msgspec.structs.replace(query, limit=min(query.limit, MAX_ROWS))


def log_query(text: str) -> LogQuery:
    return _converted({name: values[-1] for name, values in _fields(text).items()}, LogQuery)


def job_query(text: str) -> JobQuery:
    return _converted({name: values[-1] for name, values in _fields(text).items()}, JobQuery)


def address_of(query: List, **changes: object) -> str:
    """Return where the list of a query is, with some of its fields changed."""
    fields: dict[str, object] = {name: getattr(query, name) for name in _SINGLE}
    if query.limit == DEFAULT_LIST:
        del fields["limit"]
    fields["state"] = [] if set(query.states or ()) == set(State) else query.states
    fields |= changes
    text = urlencode({name: value for name, value in fields.items() if value is not None}, doseq=True)
    return f"/job-logs?{text}" if text else "/job-logs"


_SINGLE = ("queue", "name", "tag", "before", "limit")


def _fields(text: str) -> dict[str, list[str]]:
    try:
        return parse_qs(text, errors="replace", max_num_fields=_MAX_FIELDS)  # empty ones are left out
    except ValueError as error:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, f"There are more than {_MAX_FIELDS} fields.") from error


def _converted(fields: dict[str, object], kind: type[T]) -> T:
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise RequestRefused(
            HTTPStatus.BAD_REQUEST, f"This address has a value of {_field_of(error)!r} that cannot be used."
        ) from error


def _field_of(error: msgspec.ValidationError) -> str:
    """Return which field an error is about, from its end: "... - at `$.limit`"."""
    return str(error).rpartition("$.")[2].rstrip("`").partition("[")[0]
