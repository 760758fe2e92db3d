"""The change stream in the database: what happened to jobs and schedules, the newest events."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import asdict

from bgd.core.job import JobId
from bgd.daemon.storage.records import JobEvent
from bgd.wire.views import EventView, ScheduleEvent

EVENTS_KEPT = 100_000  # some 5 MB, and the last twenty seconds of the busiest daemon
_EVENTS_PER_ROW = 1_000  # at most; and the oldest events are deleted whenever this many have been added

_encode = msgspec.msgpack.Encoder().encode
_decode_events = msgspec.msgpack.Decoder(list[JobEvent | dict[str, Any]]).decode  # see append_events

NO_EVENTS = _encode([])  # packed: such a row only says which id was the last


def append_events(
    db: sqlite3.Connection, events: Sequence[JobEvent | dict[str, object]], last: int | None
) -> int:
    """Write events inside the caller's transaction, and delete those that are too old.

    An event of a job is an array, one of a schedule a map: the fields of a ScheduleEvent except its id.
    `last` is the newest id so far, as this returned it before; None looks it up. Return the new one.
    """
    last = newest_event(db) if last is None else last
    for start in range(0, len(events), _EVENTS_PER_ROW):
        packed = events[start : start + _EVENTS_PER_ROW]
        db.execute("INSERT INTO events VALUES (?, ?)", (last + start + len(packed), _encode(packed)))
    if (last + len(events)) // _EVENTS_PER_ROW > last // _EVENTS_PER_ROW:
        # never all rows: the newest one says which id is the next
        db.execute("DELETE FROM events WHERE last <= ?", (last + len(events) - EVENTS_KEPT,))
    return last + len(events)


def read_events(db: sqlite3.Connection, after: int, limit: int) -> list[EventView | ScheduleEvent]:
    """Return at most `limit` events after the one with the id `after`, oldest first."""
    views: list[EventView | ScheduleEvent] = []
    for last, packed in db.execute("SELECT last, packed FROM events WHERE last > ? ORDER BY last", (after,)):
        events = _decode_events(packed)
        first = last - len(events) + 1
        views += [_view(first + index, event) for index, event in enumerate(events) if first + index > after]
        if len(views) >= limit:
            break
    return views[:limit]


def events_of(db: sqlite3.Connection, job_id: JobId, after: int) -> list[EventView]:
    """Return the events of a job after the one with the id `after`, oldest first.

    An index of jobs would cost every submit. Instead this searches the packed rows for the bytes of the id,
    some 5 ms for all that are kept, and unpacks only those that have them.
    """
    packed_id = _encode(job_id)
    views: list[EventView] = []
    for last, packed in db.execute(_EVENTS_WITH, (after, packed_id)):
        events = _decode_events(packed)
        first = last - len(events) + 1
        views += [
            _job_view(first + place, event)
            for place, event in enumerate(events)
            if isinstance(event, JobEvent) and event.job == job_id
        ]
    return [view for view in views if view.id > after]


_EVENTS_WITH = "SELECT last, packed FROM events WHERE last > ? AND instr(packed, ?) ORDER BY last"


def latest_events(db: sqlite3.Connection) -> Iterator[JobEvent]:
    """Yield all events of jobs on disk, newest first."""
    for (packed,) in db.execute("SELECT packed FROM events ORDER BY last DESC"):
        for event in reversed(_decode_events(packed)):
            if isinstance(event, JobEvent):
                yield event


def event_bounds(db: sqlite3.Connection) -> tuple[int, int]:
    """Return the oldest event id on disk, and the newest ever given out: 1 and 0 before the first event."""
    row = db.execute("SELECT last, packed FROM events ORDER BY last LIMIT 1").fetchone()
    if row is None:
        return 1, 0
    return row["last"] - len(_decode_events(row["packed"])) + 1, newest_event(db)


def newest_event(db: sqlite3.Connection) -> int:
    """Return the newest event id ever given out; 0 before the first event."""
    (last,) = db.execute("SELECT max(last) FROM events").fetchone()
    return last or 0


def _view(number: int, event: JobEvent | dict[str, Any]) -> EventView | ScheduleEvent:
    if isinstance(event, JobEvent):
        return _job_view(number, event)
    return msgspec.convert({**event, "id": number}, ScheduleEvent)


def _job_view(number: int, event: JobEvent) -> EventView:
    return EventView(id=number, **asdict(event))
