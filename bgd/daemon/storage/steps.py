"""Steps that class jobs have recorded, so that the next attempt does not repeat them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from msgspec import UNSET

from bgd.core.job import JobId
from bgd.daemon.storage.database import runs_of
from bgd.wire.requests import SaveStep
from bgd.wire.views import StepState, StepView


def save(db: sqlite3.Connection, steps: Iterable[SaveStep], at: float) -> None:
    """Write steps, the latest last, at an instant of the wall clock."""
    rows = [
        (each.job, each.position, each.name, _state_of(each), each.value, at, each.seconds) for each in steps
    ]
    db.executemany("INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def forget(db: sqlite3.Connection, job_ids: Iterable[JobId]) -> None:
    """Delete the steps of these jobs."""
    db.executemany("DELETE FROM steps WHERE job BETWEEN ? AND ?", runs_of(job_ids))


def steps_of(
    db: sqlite3.Connection, job_id: JobId, after: int, limit: int, *, with_values: bool = False
) -> list[StepView]:
    """Return at most `limit` steps after a position, in their order; fewer if their values are large."""
    found: list[StepView] = []
    size = 0
    for _, position, name, state, value, at, seconds in db.execute(_STEPS, (job_id, after, limit)):
        own = value if with_values else UNSET
        found.append(
            StepView(position=position, name=name, state=StepState(state), at=at, seconds=seconds, value=own)
        )
        size += len(value)
        if with_values and size > _MAX_BYTES:
            break
    return found


def latest_steps(db: sqlite3.Connection, job_id: JobId, limit: int) -> list[StepView]:
    """Return at most `limit` steps with the highest positions, in their order."""
    (newest,) = db.execute("SELECT max(position) FROM steps WHERE job = ?", (job_id,)).fetchone()
    return steps_of(db, job_id, (newest or 0) - limit, limit)


def sizes_of(db: sqlite3.Connection, job_id: JobId) -> tuple[int, dict[int, int]]:
    """Return the bytes of all values of a job, and those of its open steps by position."""
    (size,) = db.execute("SELECT total(length(value)) FROM steps WHERE job = ?", (job_id,)).fetchone()
    return int(size), dict(db.execute(_OPEN, (job_id,)).fetchall())


def _state_of(step: SaveStep) -> str:
    return (StepState.DONE if step.done else StepState.OPEN).value


_MAX_BYTES = 500_000  # of the values of steps that are read at a time
_STEPS = "SELECT * FROM steps WHERE job = ? AND position > ? ORDER BY position LIMIT ?"
_OPEN = f"SELECT position, length(value) FROM steps WHERE job = ? AND state = '{StepState.OPEN}'"  # noqa: S608
