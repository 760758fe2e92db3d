"""Queries: what follows the question mark of an address, and how to write it."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Annotated, TypeVar
from urllib.parse import parse_qs, urlencode

import msgspec
from msgspec import Meta, Struct

from bgd.core.job import State
from bgd.wire.http import RequestRefused
from bgd.wire.requests import DEFAULT_LIST, List

MAX_ROWS = 200  # jobs on a page
_MAX_FIELDS = 20
_MAX_QUOTED = 40  # characters of a refused value
_SINGLE_FIELDS = ("queue", "name", "tag", "before", "limit")


class LogQuery(Struct, frozen=True):
    """What to show of a log; `tail` is a number of bytes at its end."""

    tail: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    download: bool = False


class JobQuery(Struct, frozen=True):
    """Which attempts to show; only those with a number below `before`."""

    before: Annotated[int, Meta(ge=1, le=2**31)] | None = None


class LiveQuery(Struct, frozen=True):
    """What an open page has: its version, and of a log where its open line begins and in which style."""

    since: Annotated[int, Meta(ge=0, le=2**62)] = 0
    at: Annotated[int, Meta(ge=0, le=2**62)] = 0
    style: Annotated[str, Meta(max_length=100)] = ""


def list_query(text: str) -> List:
    """Return which jobs are asked for; those of all states if the address names none."""
    fields = parse_fields(text)
    states = fields.pop("state", None) or list(State)
    if unknown := [state for state in states if state not in set(State)]:
        raise RequestRefused(
            HTTPStatus.BAD_REQUEST,
            f"There is no state {unknown[0][:_MAX_QUOTED]!r}. States are {', '.join(State)}.",
        )
    named = {name: values[-1] for name, values in fields.items() if name in _SINGLE_FIELDS}
    query = convert_fields({"id": 0, "states": states, "limit": DEFAULT_LIST, **named}, List)
    return msgspec.structs.replace(query, limit=min(query.limit, MAX_ROWS))


def log_query(text: str) -> LogQuery:
    return convert_fields({name: values[-1] for name, values in parse_fields(text).items()}, LogQuery)


def job_query(text: str) -> JobQuery:
    return convert_fields({name: values[-1] for name, values in parse_fields(text).items()}, JobQuery)


def live_query(text: str) -> LiveQuery:
    return convert_fields({name: values[-1] for name, values in parse_fields(text).items()}, LiveQuery)


def list_url(query: List, path: str = "", **changes: object) -> str:
    """Return the address of the list for a query, or of a path below it, with some of its fields changed."""
    fields: dict[str, object] = {name: getattr(query, name) for name in _SINGLE_FIELDS}
    if query.limit == DEFAULT_LIST:
        del fields["limit"]
    fields["state"] = [] if set(query.states or ()) == set(State) else query.states
    fields |= changes
    text = urlencode({name: value for name, value in fields.items() if value is not None}, doseq=True)
    return f"/job-logs{path}?{text}" if text else f"/job-logs{path}"


def exact_name(name: str) -> str:
    """Return the pattern that only this name matches."""
    return _SPECIAL.sub(r"[\g<0>]", name)


_SPECIAL = re.compile(r"[*?[]")

T = TypeVar("T")


def parse_fields(text: str) -> dict[str, list[str]]:
    """Return the fields of a query; empty ones are left out."""
    try:
        return parse_qs(text, errors="replace", max_num_fields=_MAX_FIELDS)  # leaves out empty ones
    except ValueError as error:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, f"There are more than {_MAX_FIELDS} fields.") from error


def convert_fields(fields: dict[str, object], kind: type[T]) -> T:
    """Return fields as a Struct.

    Raises:
        RequestRefused: a value cannot be used; the message names its field.
    """
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise RequestRefused(
            HTTPStatus.BAD_REQUEST, f"This address has a value of {_bad_field(error)!r} that cannot be used."
        ) from error


def _bad_field(error: msgspec.ValidationError) -> str:
    """Return the field that an error names at its end: "... - at `$.limit`"."""
    return str(error).rpartition("$.")[2].rstrip("`").partition("[")[0]
