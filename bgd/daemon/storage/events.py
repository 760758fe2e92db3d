"""The change stream on disk: what happened to jobs, the newest part of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import msgspec

from bgd.daemon.storage.records import Event
from bgd.wire.views import EventView

EVENTS_KEPT = 100_000  # some 5 MB, and the last twenty seconds of the busiest daemon
_BLOCK = 1_000  # events in a row at most; and the oldest are deleted each time so many have been added

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Event]).decode

NO_EVENTS = _encode([])  # packed: a row of it only says which id was the last


def append(db: sqlite3.Connection, events: list[Event], last: int | None) -> int:
    """Write events inside the caller's transaction, and delete those that are too old by then.

    `last`: the newest id before, as this returns it; None: to be looked up.
    """
    last = newest(db) if last is None else last
    for start in range(0, len(events), _BLOCK):
        packed = events[start : start + _BLOCK]
        db.execute("INSERT INTO events VALUES (?, ?)", (last + start + len(packed), _encode(packed)))
    if (last + len(events)) // _BLOCK > last // _BLOCK:
        # never all of them: the newest row tells which id is the next
        db.execute("DELETE FROM events WHERE last <= ?", (last + len(events) - EVENTS_KEPT,))
    return last + len(events)


def read(db: sqlite3.Connection, after: int, limit: int) -> list[EventView]:
    views: list[EventView] = []
    for last, packed in db.execute("SELECT last, packed FROM events WHERE last > ? ORDER BY last", (after,)):
        events = _decode(packed)
        first = last - len(events) + 1
        views += [_view(first + index, event) for index, event in enumerate(events) if first + index > after]
        if len(views) >= limit:
            break
    return views[:limit]


def latest(db: sqlite3.Connection) -> Iterator[Event]:
    """Yield all that are kept, the newest first."""
    for (packed,) in db.execute("SELECT packed FROM events ORDER BY last DESC"):
        yield from reversed(_decode(packed))


def bounds(db: sqlite3.Connection) -> tuple[int, int]:
    """Return the oldest id that is kept, and the newest ever given out: before there is any, 1 and 0."""
    row = db.execute("SELECT last, packed FROM events ORDER BY last LIMIT 1").fetchone()
    if row is None:
        return 1, 0
    return row["last"] - len(_decode(row["packed"])) + 1, newest(db)


def newest(db: sqlite3.Connection) -> int:
    """Return the newest id ever given out; 0 before there is any."""
    (last,) = db.execute("SELECT max(last) FROM events").fetchone()
    return last or 0


def _view(number: int, event: Event) -> EventView:
    return EventView(
        id=number,
        at=event.at,
        job=event.job,
        what=event.what,
        state=event.state,
        attempt=event.attempt,
        outcome=event.outcome,
        reason=event.reason,
    )
