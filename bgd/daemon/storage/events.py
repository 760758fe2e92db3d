"""The change stream on disk: what happened to jobs, the newest part of it."""

from __future__ import annotations

import sqlite3

from bgd.core.job import Outcome, State
from bgd.daemon.storage.records import Event
from bgd.wire.views import EventView

EVENTS_KEPT = 100_000  # some 5 MB, and the last twenty seconds of the busiest daemon
_BLOCK = 1_000  # events; the oldest are deleted each time so many more have been given an id


def append(db: sqlite3.Connection, events: list[Event]) -> None:
    """Write events inside the caller's transaction, and delete those that are too old by then."""
    (last,) = db.execute("SELECT last_event FROM meta").fetchone()
    newest = last + len(events)
    db.executemany(_INSERT, [_row(number, event) for number, event in enumerate(events, start=last + 1)])
    db.execute("UPDATE meta SET last_event = ?", (newest,))
    if newest // _BLOCK > last // _BLOCK:
        db.execute("DELETE FROM events WHERE id <= ?", (newest - EVENTS_KEPT,))


def read(db: sqlite3.Connection, after: int, limit: int) -> list[EventView]:
    return [_view(row) for row in db.execute(_READ, (after, limit))]


def bounds(db: sqlite3.Connection) -> tuple[int, int]:
    """Return the oldest id that is kept, and the newest ever given out; the newest + 1 if none is kept."""
    oldest, newest = db.execute("SELECT (SELECT min(id) FROM events), last_event FROM meta").fetchone()
    return newest + 1 if oldest is None else oldest, newest


def _row(number: int, event: Event) -> tuple[object, ...]:
    outcome = None if event.outcome is None else event.outcome.value
    return number, event.at, event.job, event.what, event.state.value, event.attempt, outcome, event.reason


def _view(row: sqlite3.Row) -> EventView:
    number, at, job, what, state, attempt, outcome, reason = row
    return EventView(
        id=number,
        at=at,
        job=job,
        what=what,
        state=State(state),
        attempt=attempt,
        outcome=None if outcome is None else Outcome(outcome),
        reason=reason,
    )


_INSERT = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)"

_READ = "SELECT * FROM events WHERE id > ? ORDER BY id LIMIT ?"
