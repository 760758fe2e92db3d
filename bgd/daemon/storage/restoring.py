"""What the Scheduler and the supervisor read back of the store: jobs to decide about, and what was set."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from sys import intern
from typing import Any

from bgd.core.job import FINAL, Job, JobId, State, Terms
from bgd.daemon.storage.database import transaction
from bgd.daemon.storage.packing import unpack_policy, unpack_waits
from bgd.daemon.storage.records import Controls, QueueSetting, Restored

_PAGE = 5_000  # jobs: what is read of a million at a time must not make the process grow
_AT_ONCE = 500  # ids in one query: SQLite takes 999 values in its oldest form
_MOST_TERMS = 1024  # most jobs have the usual ones, and many of the rest those of their neighbours

_STATES = {state.value: state for state in State}


def unfinished(db: sqlite3.Connection, state: State, after: int) -> list[Restored]:
    """Return the first jobs in this state with ids above `after`, the smallest first; [] at the end."""
    cursor = db.cursor()
    cursor.row_factory = None  # plain tuples: a start may read a million, and has no use for names
    return list(map(_restored, cursor.execute(_UNFINISHED, (state.value, after, _PAGE))))


def last_id(db: sqlite3.Connection) -> int:
    """Return the highest id ever given out."""
    (number,) = db.execute("SELECT last_id FROM meta").fetchone()
    return int(number)


def controls(db: sqlite3.Connection) -> Controls:
    with transaction(db, "DEFERRED"):
        slots, paused = db.execute("SELECT slots, paused FROM meta").fetchone()
        queues = {
            name: QueueSetting(has_slots=bool(has_slots), slots=of_queue, paused=bool(is_paused))
            for name, has_slots, of_queue, is_paused in db.execute(_QUEUES)
        }
    return Controls(slots=slots, paused=bool(paused), queues=queues)


def finished(db: sqlite3.Connection, job_id: JobId) -> Job | None:
    """Return a finished job as it is revived: whatever it waited for lies behind it."""
    row = db.execute(_FINISHED, (job_id,)).fetchone()
    return _job(row) if row is not None and _known_state(job_id, row["state"]) in FINAL else None


def states(db: sqlite3.Connection, job_ids: list[JobId]) -> dict[JobId, State]:
    """Return the states of those jobs that exist."""
    found: dict[JobId, State] = {}
    with transaction(db, "DEFERRED"):
        for start in range(0, len(job_ids), _AT_ONCE):
            asked = job_ids[start : start + _AT_ONCE]
            marks = ", ".join("?" * len(asked))
            rows = db.execute(f"SELECT id, state FROM jobs WHERE id IN ({marks})", asked)  # noqa: S608 (only marks)
            found.update((JobId(number), _known_state(number, state)) for number, state in rows)
    return found


def _restored(row: Sequence[Any]) -> Restored:
    return Restored(_job(row), row[-2], row[-1])


def _job(row: Sequence[Any]) -> Job:
    # all in their order: looking up names takes a third longer, and a start may read a million
    (
        number,
        state,
        queue,
        priority,
        policy,
        attempt,
        failures,
        unseen,
        due,
        making_way,
        suspended,
        slots,
        key,
        at,
        expires,
        waits,
        _slot,
        _launcher,
    ) = row
    return Job(
        id=JobId(number),
        state=_known_state(number, state),
        queue=intern(queue),  # a million jobs, a handful of queues
        priority=priority,
        policy=unpack_policy(policy),
        attempt=attempt,
        failures=failures,
        unseen=unseen,
        due=due,
        making_way=bool(making_way),
        terms=_terms(slots, key, at, expires, waits),
        suspended=bool(suspended),
    )


def _known_state(number: int, state: str) -> State:
    try:
        return _STATES[state]
    except KeyError:
        raise ValueError(f"job {number} is {state!a}") from None


@lru_cache(_MOST_TERMS)
def _terms(
    slots: int, key: str | None, at: float | None, expires: float | None, waits: bytes | None
) -> Terms:
    after, after_any = unpack_waits(waits)
    return Terms(at=at, expires=expires, after=after, after_any=after_any, key=key, slots=slots)


_COLUMNS = """
    id, state, queue, priority, policy, jobs.attempt, failures, unseen, due_elapsed, making_way, suspended,
    slots, key
"""

_FINISHED = f"SELECT {_COLUMNS}, NULL, NULL, NULL, NULL, NULL FROM jobs WHERE id = ?"  # noqa: S608 (constants)

# the attempt is of interest only while it runs
_UNFINISHED = f"""
    SELECT {_COLUMNS}, wall_due, expires_elapsed, waits, slot, launcher
    FROM jobs LEFT JOIN attempts ON jobs.state IN ('running', 'stopping')
                                AND attempts.job = jobs.id AND attempts.attempt = jobs.attempt
    WHERE jobs.state = ? AND jobs.id > ? ORDER BY jobs.id LIMIT ?
"""  # noqa: S608 (constants)

_QUEUES = "SELECT name, has_slots, slots, paused FROM queues"
