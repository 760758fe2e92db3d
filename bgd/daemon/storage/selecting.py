"""Which jobs a list shows: the newest that its filters leave, by way of the index that leaves the fewest."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from bgd.core.job import JobId, State
from bgd.core.spec import DEFAULT_QUEUE
from bgd.wire.requests import List

# What a list without states shows, as far as its limit goes: what runs before what waits before the rest.
_BY_INTEREST: tuple[tuple[State, ...], ...] = (
    (State.RUNNING, State.STOPPING),
    (State.QUEUED, State.SCHEDULED, State.BLOCKED, State.HELD),
    (State.SUCCEEDED, State.FAILED, State.CANCELLED),
)

_FEW = 10_000  # jobs that are read one by one; 10 ms


def select(db: sqlite3.Connection, query: List, uid: int | None) -> list[JobId]:
    """Return the newest jobs that the query selects, newest first; `uid` None: of any user.

    Costs at most some 0.1 s for each million jobs in these states, 0.2 s where very many have the tag.
    """
    groups = _BY_INTEREST if query.states is None else (tuple(dict.fromkeys(query.states)),)
    ids: list[JobId] = []
    for states in groups:
        left = query.limit - len(ids)
        ids += sorted(_newest(db, query, uid, states, left), reverse=True)[:left]
    return sorted(ids, reverse=True)


def _newest(
    db: sqlite3.Connection, query: List, uid: int | None, states: tuple[State, ...], limit: int
) -> Iterator[JobId]:
    """Yield the newest ids of each state: so many that the newest of all of them are among these."""
    if not limit:
        return
    given: dict[str, object] = {
        "queue": query.queue,
        "uid": uid,
        "name": None if query.name is None else _glob(query.name),
        "tag": query.tag,
        "before": query.before,
        "since": query.since,
        "limit": limit,
    }
    conditions = _conditions(query, uid)
    for state in states:
        values = given | {"state": state.value}
        sql = f"SELECT id FROM {_way(db, values)} AND {conditions} ORDER BY id DESC LIMIT :limit"  # noqa: S608 (constants)
        for (job_id,) in db.execute(sql, values):
            yield job_id


def _conditions(query: List, uid: int | None) -> str:
    conditions = ["state = :state"]
    if query.queue is not None:
        conditions.append("queue = :queue")
    if uid is not None:
        conditions.append("uid = :uid")
    if query.name is not None:
        conditions.append("name GLOB :name")
    if query.tag is not None:
        conditions.append("EXISTS (SELECT 1 FROM tags WHERE tag = :tag AND job = jobs.id)")
    if query.before is not None:
        conditions.append("id < :before")
    if query.since is not None:
        conditions.append("created_at >= :since")
    return " AND ".join(conditions)


def _way(db: sqlite3.Connection, values: dict[str, object]) -> str:
    """Return where to look: by tag or by queue if that leaves few jobs, else through all of the state.

    Many jobs of a queue are found sooner among all of their state, as long as that takes one index alone.
    """
    if values["tag"] is not None and _are_few(db, _TAGGED, values):
        return _BY_TAG
    if values["queue"] not in {None, DEFAULT_QUEUE} and _are_few(db, _BY_QUEUE, values):
        return _BY_QUEUE
    return _BY_STATE


def _are_few(db: sqlite3.Connection, rows: str, values: dict[str, object]) -> bool:
    counted = f"SELECT count(*) FROM (SELECT 1 FROM {rows} LIMIT {_FEW + 1})"  # noqa: S608 (constants)
    (found,) = db.execute(counted, values).fetchone()
    return bool(found <= _FEW)


def _glob(pattern: str) -> str:
    """Return a shell's pattern as SQLite reads it: with [^...] for [!...], and no open bracket."""
    pieces: list[str] = []
    at = 0
    while at < len(pattern):
        end = -1
        if pattern[at] == "[":
            is_negated = pattern.startswith(("!", "^"), at + 1)
            first = at + 1 + is_negated
            end = pattern.find("]", first + 1)  # one that comes first is of what it encloses
            pieces.append("[[]" if end < 0 else f"[{'^' * is_negated}{pattern[first:end]}]")
        else:
            pieces.append(pattern[at])
        at = max(at, end) + 1
    return "".join(pieces)


_TAGGED = "tags WHERE tags.tag = :tag"
_BY_TAG = "tags CROSS JOIN jobs ON jobs.id = tags.job WHERE tags.tag = :tag"  # CROSS: in this order
_BY_QUEUE = f"""
    jobs INDEXED BY jobs_by_queue WHERE queue <> '{DEFAULT_QUEUE}' AND queue = :queue AND state = :state
"""
_BY_STATE = "jobs INDEXED BY jobs_by_state WHERE state = :state"
