"""Queries: what follows the question mark of an address, and how to write it."""

from __future__ import annotations

import time
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qs, urlencode

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from bgd.core.filters import (
    FILTERS,
    Filter,
    Word,
    but_notifications,
    exact_name,
    filter_of,
    parse_words,
    words_for,
)
from bgd.core.job import ACTIVE, FINAL, WAITING, State
from bgd.core.spec import JobNumber
from bgd.errors import nearest
from bgd.text.units import problem_with_field, read
from bgd.wire.http import bad_request
from bgd.wire.requests import DEFAULT_LIST, MAX_LIST

MAX_ROWS = 200  # jobs on a page
MAX_SORTED = 10_000  # jobs that are put into another order than that of their ids
MAX_TEXT = 200  # characters to search for
_LINE = f"text of at most {MAX_TEXT} characters on one line"
MAX_HITS = 1000  # offsets that one search of a log returns; the others are counted
_MAX_FIELDS = 20
_WORD_FIELDS = ("state", "queue", "name", "tag")  # words of the filter that may also be fields
_PAGE_FIELDS = ("sort", "limit", "before", "after", "from")


AttemptNumber = Annotated[int, Meta(ge=1, le=2**31)]

# What each order of a list puts first, and the column by which that is sorted; None: the newest first
ORDERS: dict[str, tuple[frozenset[State], str | None]] = {
    "running": (ACTIVE, None),
    "priority": (WAITING, "priority"),
    "finished": (FINAL, "finished_at"),
}


class ListQuery(Struct, frozen=True, kw_only=True):
    """Which jobs a list shows, and which part of it.

    In order of the ids, `before` and `after` are ids that the part lies below or above. In another order
    (`sort`, one of ORDERS) `skip` is how many jobs stand before it.
    """

    words: tuple[Word, ...] = ()
    sort: str | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_LIST)] = DEFAULT_LIST
    before: JobNumber | None = None
    after: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    skip: Annotated[int, Meta(ge=0, le=MAX_SORTED)] = msgspec.field(default=0, name="from")

    def wanted(self, now: float) -> Filter:
        """Return the filter of the words; notifications are not wanted unless their queue is named."""
        return but_notifications(filter_of(self.words, now))

    @property
    def text(self) -> str:
        """The words as they stand in the filter box."""
        return " ".join(word.text for word in self.words)


class LogQuery(Struct, frozen=True):
    """What to show of a log; `tail` is a number of bytes at its end."""

    tail: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    download: bool = False


class LogPartQuery(Struct, frozen=True):
    """Which part of a log to show; none of these: its end.

    `at` is a place in a line, which is shown first and marked; `after` and `before` are the end of the part
    before and the beginning of the part behind, where the line has the number `line`, if that is known.
    `text` is marked wherever it occurs.
    """

    at: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    after: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    before: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    line: Annotated[int, Meta(ge=1, le=2**62)] | None = None
    text: Annotated[str, Meta(max_length=MAX_TEXT)] = ""


class SearchQuery(Struct, frozen=True):
    """What to search for in a log, and how many places to return."""

    text: Annotated[str, Meta(max_length=MAX_TEXT)] = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_HITS)] = MAX_HITS


class LogsQuery(Struct, frozen=True):
    """What to search for in all logs, or in those before an attempt, "JOB.ATTEMPT"."""

    text: Annotated[str, Meta(max_length=MAX_TEXT, pattern=r"^[^\r\n]*$", description=_LINE)] = ""
    before: (
        Annotated[str, Meta(pattern="^[1-9][0-9]{0,17}[.][1-9][0-9]{0,8}$", description="JOB.ATTEMPT")] | None
    ) = None

    @property
    def position(self) -> tuple[int, int]:
        """The job and the attempt before which to search."""
        job, _, attempt = (self.before or f"{2**62}.1").partition(".")
        return int(job), int(attempt)


class LiveQuery(Struct, frozen=True):
    """What an open page has: its version, and of a log where its open line begins and in which style.

    `linked`: each line is a link to its place; `line` is the number of the open one, if it is known.
    """

    since: Annotated[int, Meta(ge=0, le=2**62)] = 0
    at: Annotated[int, Meta(ge=0, le=2**62)] = 0
    style: Annotated[str, Meta(max_length=100, pattern=r"^[0-9;]*\Z")] = ""
    linked: bool = False
    line: Annotated[int, Meta(ge=1, le=2**62)] | None = None


def list_query(text: str) -> ListQuery:
    """Return which jobs an address asks for.

    Raises:
        RequestRefused: it cannot be understood; the message says what can be written.
    """
    fields = parse_fields(text)
    singles = {name: values[-1] for name, values in fields.items() if name in _PAGE_FIELDS}
    if (order := singles.get("sort")) is not None and order not in ORDERS:
        raise bad_request(f"There is no order {order!r} ({nearest(order, ORDERS)}).")
    query = convert_fields({"words": (), **singles}, ListQuery)
    words = [word for key in _WORD_FIELDS for word in _words_of_field(key, fields.get(key, []))]
    try:
        words += [word for typed in fields.get("q", []) for word in parse_words(typed)]
        query = replace(query, words=tuple(words), limit=min(query.limit, MAX_ROWS))
        query.wanted(time.time())
    except ValueError as error:
        raise bad_request(str(error)) from error
    return query


def log_part_query(text: str) -> LogPartQuery:
    query = read_query(text, LogPartQuery)
    if [query.at, query.after, query.before].count(None) < 2:  # noqa: PLR2004 - of three
        raise bad_request("An address of a log has only one of at, after and before.")
    return query


def search_query(text: str) -> SearchQuery:
    query = read_query(text, SearchQuery)
    if not query.text or "\n" in query.text:
        raise bad_request("Search for a text in one line: text=WORDS.")
    return query


def list_url(query: ListQuery, path: str = "", /, **changes: object) -> str:
    """Return the address of the list for a query, or of a path below it, with some of its fields changed.

    `state`, `queue`, `name` (a pattern), `error=` and so on replace the words of this filter; None takes them
    away.
    """
    words = [word.text for word in query.words if word.key not in changes]
    for key in [key for key in changes if key.removesuffix("=") in FILTERS]:  # in the order of the arguments
        value = changes.pop(key)
        values = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
        words += [word.text for word in _words_of_field(key, [str(value) for value in values])]
    fields: dict[str, object] = {"q": " ".join(words) or None, **_page_fields(query), **changes}
    text = urlencode({name: value for name, value in fields.items() if value is not None}, safe=":*=,/")
    return f"/job-logs{path}?{text}" if text else f"/job-logs{path}"


def _page_fields(query: ListQuery) -> dict[str, object]:
    """Return the fields beside the filter that are not as usual."""
    usual = ListQuery()
    values = {name: getattr(query, name) for name in ("sort", "limit", "before", "after")}
    return {name: value for name, value in values.items() if value != getattr(usual, name)} | (
        {"from": query.skip} if query.skip else {}
    )


def _words_of_field(key: str, values: list[str]) -> list[Word]:
    """Return the words for the values of a field; a field that holds one value takes the last one."""
    return words_for(key, values if key in _REPEATED else values[-1:])


_REPEATED = {"state", "tag"}  # jobs in any of these states, with all of these tags


def word_for(key: str, value: str) -> str:
    """Return the word of a filter for this value, of a name the whole one."""
    return words_for(key, [exact_name(value) if key == "name" else value])[0].text


# --- fields


S = TypeVar("S", bound=Struct)


def parse_fields(text: str, *, keep_empty: bool = False) -> dict[str, list[str]]:
    """Return the fields of a query; empty ones are left out."""
    try:
        return parse_qs(text, keep_blank_values=keep_empty, errors="replace", max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise bad_request(f"There are more than {_MAX_FIELDS} fields.") from error


def read_query(text: str, kind: type[S]) -> S:
    """Return the fields of a query as a Struct; a field that is given twice has its last value.

    Raises:
        RequestRefused: a value cannot be used; the message names its field.
    """
    return convert_fields({name: values[-1] for name, values in parse_fields(text).items()}, kind)


def read_value(text: str, kind: Any, field: str = "value", shown_as: str = "") -> Any:
    """Return a field of a query as an annotated type; messages name it as `shown_as`, if that is given.

    Raises:
        RequestRefused: it cannot be used.
    """
    return converted(parse_fields(text).get(field, [None])[-1], kind, shown_as or field)


def converted(value: object, kind: Any, field: str) -> Any:
    """Return the value of a field as an annotated type; raise as `read_value`."""
    try:
        return read(value, kind, is_text=True)
    except ValueError as error:
        raise bad_request(
            f"{field}: a value is missing." if value is None else f"{field}: {error}."
        ) from error


def convert_fields(fields: dict[str, object], kind: type[S]) -> S:
    """Return fields as a Struct.

    Raises:
        RequestRefused: a value cannot be used; the message names its field.
    """
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise bad_request(f"{problem_with_field(error, fields, kind)}.") from error
