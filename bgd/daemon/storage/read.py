"""Read the database: views and lists for clients, jobs for the Scheduler, and specs of jobs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from operator import itemgetter
from sys import intern
from typing import Any

import msgspec
from msgspec import Struct, convert
from msgspec.structs import asdict, replace

from bgd.core.breakers import BreakerState
from bgd.core.conditions import BECAUSE_OF, WHILE_HELD, without_met_conditions
from bgd.core.filters import Filter
from bgd.core.job import ACTIVE, FINAL, NO_CONDITIONS, WAITING, Conditions, Job, JobId, Rate, State
from bgd.core.retry import options_of, with_policy
from bgd.core.spec import MAX_WORK, NOTIFICATION_QUEUE, ExecutorKind, JobSpec, Reference
from bgd.daemon.access import user_name
from bgd.daemon.storage import lists
from bgd.daemon.storage.database import plain_cursor, rows_of, transaction
from bgd.daemon.storage.records import (
    UNREADABLE,
    Permit,
    QueueControls,
    QueueSetting,
    StoredSpec,
    UnfinishedJob,
    unpack_permits,
    unpack_policy,
    unpack_resources,
    unpack_spec,
    unpack_tokens,
    unpack_waits,
)
from bgd.settings.values import rule_text
from bgd.system import clock
from bgd.wire.launching import log_name
from bgd.wire.requests import List
from bgd.wire.views import AttemptView, JobError, JobProgress, JobView, Progress

_PAGE = 5_000  # jobs read at a time: a million read at once would make the process grow
_MAX_VIEWS = 500  # at a time
_MAX_SPEC_BYTES = 256 * 1024  # of the specs of views at a time, unless a single one is larger
_MAX_CACHED = 1024  # most jobs have the usual conditions, and many of the rest those of their neighbours

_STATES = {state.value: state for state in State}
_BEFORE_ITS_TIME = WAITING - {State.QUEUED}

_decode_error = msgspec.json.Decoder(JobError).decode
_decode_breaker = msgspec.msgpack.Decoder(BreakerState).decode
_decode_variables = msgspec.msgpack.Decoder(dict[str, str]).decode


def prepare(db: sqlite3.Connection) -> str:
    """Set up a connection for the functions of this module; return the store's id."""
    db.row_factory = sqlite3.Row
    (store_id,) = db.execute("SELECT store_id FROM meta").fetchone()
    return str(store_id)


def view(db: sqlite3.Connection, job_id: JobId) -> JobView | None:
    """Return what clients see of a job; None if it does not exist."""
    row = db.execute(_VIEW, (job_id,)).fetchone()
    return None if row is None else _view(row)


def first_views(db: sqlite3.Connection, query: List, wanted: Filter) -> tuple[list[JobView], list[JobId]]:
    """Return the newest jobs that `select_ids` finds, and the ids of the rest: views may be large."""
    with transaction(db, "DEFERRED"):
        return next_views(db, lists.select_ids(db, query, wanted))


def next_views(db: sqlite3.Connection, job_ids: list[JobId]) -> tuple[list[JobView], list[JobId]]:
    """Return the views of the first of these jobs, as far as they exist, and the ids of the rest."""
    found: list[JobView] = []
    size = count = 0
    for job_id in job_ids:
        if count >= _MAX_VIEWS or size >= _MAX_SPEC_BYTES:
            break
        count += 1
        row = db.execute(_VIEW, (job_id,)).fetchone()
        if row is not None:
            size += len(row["spec"])
            found.append(_view(row))
    return found, job_ids[count:]


def progress_of(db: sqlite3.Connection, job_ids: list[JobId]) -> list[JobProgress]:
    """Return the last progress of those of these jobs that run and have reported any."""
    rows = (db.execute(_PROGRESS, (job_id,)).fetchone() for job_id in job_ids)
    reported = ((row, _progress(row)) for row in rows if row is not None)
    return [JobProgress(row["id"], row["attempt"], last) for row, last in reported if last is not None]


def latest(db: sqlite3.Connection, uid: int) -> JobId | None:
    """Return the id of the user's newest job; None if there is none, which takes as long as a list.

    Jobs that tell about others do not count: people mean what they have started.
    """
    row = db.execute(_LATEST, (uid, NOTIFICATION_QUEUE)).fetchone()
    return None if row is None else JobId(row[0])


_LATEST = "SELECT id FROM jobs WHERE uid = ? AND queue <> ? ORDER BY id DESC LIMIT 1"


def attempts_of(db: sqlite3.Connection, job_id: JobId, after: int, limit: int) -> list[AttemptView]:
    """Return at most `limit` attempts after number `after`; their log paths are below the log folder."""
    return [_attempt(job_id, row) for row in db.execute(_ATTEMPTS, (job_id, after, limit))]


def result_of(db: sqlite3.Connection, job_id: JobId) -> tuple[str | None, JobError | None]:
    """Return what the latest attempt returned, as JSON text, and what it raised; None for nothing."""
    row = db.execute(_RESULT, (job_id,)).fetchone()
    return (None, None) if row is None else (row["result"], _error(row["error"]))


def _view(row: sqlite3.Row) -> JobView:
    spec = unpack_spec(row["spec"])
    policy = unpack_policy(row["policy"])
    waits = unpack_waits(row["waits"])
    known = {
        **asdict(spec),
        **options_of(policy),
        **dict(zip(_COLUMNS_OF_VIEW, _of_row(row), strict=True)),
        "kind": "class" if spec.argv is None else "command",
        "user": user_name(row["uid"]),
        "suspended": row["suspended"] and row["state"] == State.RUNNING,
        "due_at": _due_at(row),
        "retry_on": policy.retry_on,
        "no_retry_on": policy.no_retry_on,
        "expires_at": _on_wall_clock(row["expires_elapsed"], row) if row["attempt"] == 0 else None,
        "waits_for": list(dict.fromkeys(waits.after + waits.after_any)),
        "on_exceptions": {name: rule_text(decision) for name, decision in policy.on_exceptions},
        "progress": _progress(row),
        "waited_seconds": _waited_seconds(row),
        "run_seconds": _run_seconds(row),
        "problem": _problem(row),
        "needs_node": _needs_node(row),
        "follow_ups": list(map(int, row["follow_ups"].split(","))) if row["follow_ups"] else [],
    }
    return convert(known, JobView, strict=False, from_attributes=True)


# What a JobView has from columns, and not from the spec as it was submitted
_COLUMNS_OF_VIEW = (
    *("id", "name", "state", "outcome", "exit_code", "signal", "reason", "queue", "priority", "attempt"),
    *("created_at", "started_at", "finished_at", "slots", "snoozes"),
)
_of_row = itemgetter(*_COLUMNS_OF_VIEW)


def _needs_node(row: sqlite3.Row) -> bool:
    kind = row["executor_kind"]
    has_none_yet = kind is not None and row["node"] is None and row["ended_as"] is None
    return has_none_yet and ExecutorKind(kind).has_nodes


def _progress(row: sqlite3.Row) -> Progress | None:
    if row["progress"] is None and row["progress_message"] is None:
        return None
    return Progress(row["progress"], row["progress_message"])


def _due_at(row: sqlite3.Row) -> float | None:
    """Return when both the job's delay and its date are over; None if it waits for neither."""
    if row["state"] not in _BEFORE_ITS_TIME:
        return None
    times = (_on_wall_clock(row["due_elapsed"], row), row["wall_due"])
    return max((at for at in times if at is not None), default=None)


def _on_wall_clock(elapsed: float | None, row: sqlite3.Row) -> float | None:
    return None if elapsed is None else elapsed + row["wall_ahead"]


def _problem(row: sqlite3.Row) -> str | None:
    """Return what is known of why the latest attempt failed, without a traceback and not at length."""
    error = _error(row["error"])
    return None if error is None else error.in_words(row["outcome"])[:_MAX_PROBLEM]


_MAX_PROBLEM = 300  # characters; `attempts` has all of it


def _attempt(job_id: JobId, row: sqlite3.Row) -> AttemptView:
    known = dict(row) | {
        "error": _error(row["error"]),
        "log_path": log_name(job_id, row["attempt"]),
        "run_seconds": _run_seconds(row),
        "tokens": unpack_tokens(row["tokens"]),
    }
    return convert(known, AttemptView, strict=False, from_attributes=True)


def _waited_seconds(row: sqlite3.Row) -> float | None:
    """Return how long a job waited for its latest start or, if it never started, for its end or until now."""
    began, started = row["created_aged"], row["started_aged"]
    if row["state"] in WAITING or started is None:
        return _seconds_between(began, row["aged_from"] or _age(row))
    return _seconds_between(began, started)


def _run_seconds(row: sqlite3.Row) -> float | None:
    if row["ended_as"] is not None:
        return float(row["run_seconds"]) if row["run_seconds"] is not None else None
    return _seconds_between(row["started_aged"], _age(row))


def _age(row: sqlite3.Row) -> float | None:
    """Return the present on the clock of the columns named `aged`."""
    return None if row["age_ahead"] is None else clock.elapsed() + row["age_ahead"]


def _seconds_between(began: float | None, ended: float | None) -> float | None:
    return None if began is None or ended is None else max(ended - began, 0.0)


def _error(text: str | None) -> JobError | None:
    return None if text is None else _decode_error(text)


_TIMES = "started_aged, run_seconds, attempts.outcome AS ended_as, (SELECT age_ahead FROM meta) AS age_ahead"

_VIEW = f"""
    SELECT jobs.*, spec, {_TIMES}, executor_kind, node, (SELECT wall_ahead FROM meta) AS wall_ahead,
           CASE WHEN jobs.state = 'failed' THEN (
               SELECT error FROM results WHERE job = jobs.id AND attempt = jobs.attempt
           ) END AS error,
           (SELECT group_concat(job) FROM follow_ups JOIN jobs AS next ON next.id = job WHERE cause = jobs.id)
           AS follow_ups
    FROM jobs LEFT JOIN specs ON specs.job = jobs.id
              LEFT JOIN attempts ON attempts.job = jobs.id AND attempts.attempt = jobs.attempt
    WHERE jobs.id = ?
"""  # noqa: S608 (constants)

_PROGRESS = """
    SELECT id, attempt, progress, progress_message FROM jobs WHERE id = ? AND state IN ('running', 'stopping')
"""

_ATTEMPTS = f"""
    SELECT attempts.*, error, {_TIMES}
    FROM attempts LEFT JOIN results ON results.job = attempts.job AND results.attempt = attempts.attempt
    WHERE attempts.job = ? AND attempts.attempt > ? ORDER BY attempts.attempt LIMIT ?
"""  # noqa: S608 (constants)

_RESULT = """
    SELECT result, error
    FROM results JOIN jobs ON jobs.id = results.job AND jobs.attempt = results.attempt
    WHERE jobs.id = ?
"""


# --- jobs for the Scheduler, and what people have set


def unfinished_jobs(db: sqlite3.Connection, state: State, after: int) -> list[UnfinishedJob]:
    """Return a page of jobs in this state with ids above `after`, the lowest first; [] after the last.

    A start may read a million, most of them from batches: those that wait and are alike are returned as one.
    Plain tuples are faster, and SQLite takes a lock for each value that is read.
    """
    rows = plain_cursor(db).execute(_ACTIVE if state in ACTIVE else _WAITING, (state.value, after, _PAGE))
    if state in ACTIVE:
        return [
            UnfinishedJob(_job(state, row), convert(slot, int), convert(launcher, str), unpack_tokens(tokens))
            for slot, launcher, tokens, *row in rows
        ]
    return list(_alike(state, rows))


def check_states(db: sqlite3.Connection) -> None:
    """Check that each job is in a state that is known, by a look-up for each state: others would be missed.

    Raises:
        ValueError: one is not.
    """
    state = ""
    while row := db.execute(_NEXT_STATE, (state,)).fetchone():
        number, state = row
        _known_state(number, state)


def _alike(state: State, rows: Iterable[tuple[Any, ...]]) -> Iterator[UnfinishedJob]:
    """Yield jobs by their ids; one stands for all that follow it and differ only by their ids."""
    first: tuple[Any, ...] = ()
    kind: tuple[Any, ...] | None = None
    count = 0
    for row in rows:
        if row[1:] == kind and row[0] == first[0] + count:
            count += 1
            continue
        if count:
            yield UnfinishedJob(_job(state, first), count=count)
        first, kind, count = row, row[1:], 1
    if count:
        yield UnfinishedJob(_job(state, first), count=count)


def recent_starts(
    db: sqlite3.Connection, rates: Mapping[str, Rate], unfinished: list[JobId], elapsed: float
) -> list[tuple[str, float]]:
    """Return the starts that count for the rates of queues, on the elapsed clock, the earliest first.

    `unfinished`: the jobs of these queues that are not finished and have run. Those that have finished are
    found by when they ended, which was after they started.
    """
    starts: list[tuple[str, float]] = []
    with transaction(db, "DEFERRED"):
        (ahead,) = db.execute("SELECT age_ahead FROM meta").fetchone()
        for queue, rate in rates.items():
            since = elapsed - rate.seconds + ahead
            for state in FINAL:
                rows = db.execute(_STARTS_OF_FINISHED, (state.value, since, queue, since))
                starts += ((queue, at - ahead) for (at,) in rows)
        for job_id in unfinished:
            for queue, at in db.execute(_STARTS_OF, (job_id,)):
                starts.append((queue, at - ahead))
    return sorted(starts, key=lambda start: start[1])


def kept_keys(db: sqlite3.Connection, elapsed: float) -> list[tuple[str, JobId, float]]:
    """Return the keys that finished jobs still have, and until when on the elapsed clock."""
    with transaction(db, "DEFERRED"):
        (ahead,) = db.execute("SELECT age_ahead FROM meta").fetchone()
        rows = db.execute("SELECT key, job, until FROM kept_keys WHERE until > ?", (elapsed + ahead,))
        return [(key, JobId(job), until - ahead) for key, job, until in rows]


def breakers(db: sqlite3.Connection, ahead: float) -> dict[str, BreakerState]:
    """Return the states of the breakers of classes; the elapsed clock is `ahead` of epoch time."""
    rows = db.execute("SELECT pattern, state FROM breakers")
    return {pattern: _decode_breaker(packed).moved(ahead) for pattern, packed in rows}


def last_id(db: sqlite3.Connection) -> int:
    """Return the highest job id ever given out."""
    (number,) = db.execute("SELECT max(last_id, (SELECT ifnull(max(id), 0) FROM jobs)) FROM meta").fetchone()
    return int(number)


def controls(db: sqlite3.Connection) -> QueueControls:
    """Return what people have set of slots and queues."""
    with transaction(db, "DEFERRED"):
        slots, paused = db.execute("SELECT slots, paused FROM meta").fetchone()
        queues = {
            name: QueueSetting(has_slots=bool(has_slots), slots=of_queue, paused=bool(is_paused))
            for name, has_slots, of_queue, is_paused in db.execute(_QUEUES)
        }
    return QueueControls(slots=slots, paused=bool(paused), queues=queues)


def permits(db: sqlite3.Connection) -> list[Permit]:
    """Return all permits."""
    row = db.execute("SELECT value FROM permits").fetchone()
    return [] if row is None else unpack_permits(row[0])


def finished_jobs(db: sqlite3.Connection, job_ids: Sequence[int]) -> dict[JobId, Job]:
    """Return those of these jobs that have finished, without what they waited for."""
    rows = rows_of(db, _FINISHED, job_ids)
    jobs = [_job(_known_state(row["id"], row["state"]), tuple(row)[1:]) for row in rows]
    return {job.id: without_met_conditions(job) for job in jobs if job.state in FINAL}


def states(db: sqlite3.Connection, job_ids: list[JobId]) -> dict[JobId, State]:
    """Return the states of those jobs that exist."""
    with transaction(db, "DEFERRED"):
        rows = rows_of(db, "SELECT id, state FROM jobs WHERE id IN", job_ids)
        return {JobId(number): _known_state(number, state) for number, state in rows}


class _JobRow(Struct, frozen=True, array_like=True):
    """The columns of _COLUMNS and _AWAITED, and those that only an active job has.

    A value of another type is found here: later it would confuse the Scheduler.
    """

    id: int
    queue: str
    priority: int
    policy: bytes
    attempt: int
    failures: int
    unseen: int
    due: float | None
    slots: int
    key: str | None
    resources: bytes | None
    target: str | None
    at: float | None
    expires: float | None
    waits: bytes | None
    making_way: int = 0
    suspended: int = 0


def _job(state: State, columns: Sequence[Any]) -> Job:
    row = convert(columns, _JobRow)
    wanted = row.slots, row.key, row.resources, row.target, row.at, row.expires, row.waits
    return Job(
        JobId(row.id),
        state,
        intern(row.queue),  # a million jobs share a handful of queues
        row.priority,
        unpack_policy(row.policy),
        row.attempt,
        row.failures,
        row.unseen,
        row.due,
        bool(row.making_way),
        NO_CONDITIONS if wanted == _NOTHING else _job_conditions(*wanted),
        bool(row.suspended),
    )


_NOTHING = (1, None, None, None, None, None, None)


def _known_state(number: int, state: str) -> State:
    try:
        return _STATES[state]
    except KeyError:
        raise ValueError(f"job {number} is {state!a}") from None


@lru_cache(_MAX_CACHED)
def _job_conditions(  # noqa: PLR0917 (columns, as in `_job`)
    slots: int,
    key: str | None,
    resources: bytes | None,
    target: str | None,
    at: float | None,
    expires: float | None,
    waits: bytes | None,
) -> Conditions:
    return Conditions(
        **asdict(unpack_waits(waits)),
        at=at,
        expires=expires,
        key=key,
        slots=slots,
        resources=unpack_resources(resources),
        target=target,
    )


_NEXT_STATE = "SELECT id, state FROM jobs WHERE state > ? ORDER BY state LIMIT 1"

_COLUMNS = f"""
    id, queue, priority, policy, jobs.attempt, failures, unseen, due_elapsed, slots, key, resources,
    iif(queue = '{NOTIFICATION_QUEUE}', name, NULL)
"""
_AWAITED = "wall_due, expires_elapsed, waits"

_FINISHED = f"SELECT state, {_COLUMNS}, {_AWAITED} FROM jobs WHERE id IN"  # noqa: S608 (constants)

_PAGE_OF = "WHERE jobs.state = ? AND jobs.id > ? ORDER BY jobs.id LIMIT ?"
_WAITING = f"SELECT {_COLUMNS}, {_AWAITED}, making_way, suspended FROM jobs {_PAGE_OF}"  # noqa: S608 (constants)
_ACTIVE = f"""
    SELECT slot, launcher, tokens, {_COLUMNS}, {_AWAITED}, making_way, suspended
    FROM jobs LEFT JOIN attempts ON attempts.job = jobs.id AND attempts.attempt = jobs.attempt {_PAGE_OF}
"""  # noqa: S608 (constants)

_STARTS_OF_FINISHED = """
    SELECT started_aged FROM jobs INDEXED BY jobs_by_end JOIN attempts ON attempts.job = jobs.id
    WHERE jobs.state = ? AND aged_from > ? AND jobs.queue = ? AND started_aged > ?
"""
_STARTS_OF = """
    SELECT queue, started_aged FROM attempts JOIN jobs ON jobs.id = attempts.job
    WHERE attempts.job = ? AND started_aged IS NOT NULL
"""

_QUEUES = "SELECT name, has_slots, slots, paused FROM queues"


# --- specs


def read_spec(db: sqlite3.Connection, job_id: JobId) -> StoredSpec | None:
    """Return a job's spec with its environment; None if the job does not exist."""
    row = db.execute(_READ_SPEC, (job_id,)).fetchone()
    if row is None:
        return None
    packed, has_environment, variables, policy, uid, created_at = row
    spec = with_policy(unpack_spec(packed), unpack_policy(policy))
    if has_environment and variables is None:  # it was set aside
        spec = replace(spec, argv=UNREADABLE.argv, target=None)
    return StoredSpec(spec, uid, created_at, None if variables is None else _decode_variables(variables))


def read_specs(db: sqlite3.Connection, job_ids: Iterable[JobId]) -> dict[JobId, StoredSpec]:
    """Return the specs of those jobs that exist."""
    found = ((job_id, read_spec(db, job_id)) for job_id in job_ids)
    return {job_id: spec for job_id, spec in found if spec is not None}


def results_for(db: sqlite3.Connection, specs: Iterable[StoredSpec]) -> dict[int, str]:
    """Return the results that the arguments of these jobs refer to, as far as they exist."""
    found: dict[int, str] = {}
    for references in [each.spec.references for each in specs if each.spec.references]:
        found |= _results(db, references)
    return found


def _results(db: sqlite3.Connection, references: Iterable[Reference]) -> dict[int, str]:
    """Return the results of these jobs, and no more once they exceed what a job can get."""
    found: dict[int, str] = {}
    for job_id in {each.job for each in references}:
        (result,) = db.execute(_LATEST_RESULT, {"job": job_id}).fetchone()
        if result is not None and sum(map(len, found.values())) <= MAX_WORK:
            found[job_id] = result
    return found


# Of the latest attempt that returned something. A command returns nothing: its result is the exit code of an
# attempt that succeeded
_LATEST_RESULT = """
    SELECT coalesce(
        (SELECT result FROM results WHERE job = :job AND result IS NOT NULL ORDER BY attempt DESC LIMIT 1),
        (SELECT '0' FROM attempts WHERE job = :job AND outcome = 'succeeded' LIMIT 1)
    )
"""


def jobs_that_need(db: sqlite3.Connection, job_ids: Sequence[int]) -> dict[JobId, JobId]:
    """Return those of these jobs whose results unfinished jobs need, each with one of the latter."""
    return {JobId(source): JobId(job) for source, job in rows_of(db, _NEEDED, job_ids)}


NEEDS = """
    SELECT source, job FROM dependents JOIN jobs AS users ON users.id = dependents.job
    WHERE needs_result AND users.state NOT IN ('succeeded', 'failed', 'cancelled')
"""
_NEEDED = f"{NEEDS} AND source IN"

_READ_SPEC = """
    SELECT spec, specs.environment IS NOT NULL, variables, policy, uid, created_at
    FROM jobs LEFT JOIN specs ON specs.job = jobs.id
              LEFT JOIN environments ON environments.id = specs.environment
    WHERE jobs.id = ?
"""


def plain_specs(db: sqlite3.Connection, job_ids: Sequence[int]) -> dict[JobId, JobSpec]:
    """Return the specs of those jobs that exist, without their environments."""
    rows = rows_of(db, "SELECT job, spec FROM specs WHERE job IN", job_ids)
    return {JobId(job_id): unpack_spec(packed) for job_id, packed in rows}


def waits_of(db: sqlite3.Connection, job_ids: Sequence[int]) -> dict[int, list[int]]:
    """Return which jobs each of these was to wait for, if it exists."""
    return {job: [*spec.after, *spec.after_any] for job, spec in plain_specs(db, job_ids).items()}


def dependents_of(db: sqlite3.Connection, job_ids: Sequence[int], limit: int) -> dict[int, list[int]]:
    """Return which jobs wait, or waited, for each of these to succeed, at most `limit` in all."""
    dependents: dict[int, list[int]] = {job: [] for job in job_ids}
    for source, job in islice(
        rows_of(db, "SELECT source, job FROM dependents WHERE source IN", job_ids), limit
    ):
        dependents[source].append(job)
    return dependents


def cancelled_with(
    db: sqlite3.Connection, causes: Sequence[JobId], limit: int
) -> tuple[dict[JobId, JobId], set[JobId]]:
    """Return jobs that were cancelled because others did not succeed, each with one of `causes`.

    It waited for that one, or for another one of the jobs that are returned. At most `limit`. The second
    value: those of them that were held.
    """
    found: dict[JobId, JobId] = {}
    held: set[JobId] = set()
    ahead = {cause: cause for cause in causes}
    while ahead and len(found) < limit:
        rows = [row for row in rows_of(db, _CANCELLED_WITH, list(ahead)) if row[1] not in {*found, *causes}]
        held.update(job for _, job, was_held in rows if was_held)
        ahead = dict(islice(((job, ahead[source]) for source, job, _ in rows), limit - len(found)))
        found |= ahead
    return found, held


_CANCELLED_WITH = f"""
    SELECT source, job, reason GLOB '*{WHILE_HELD}' FROM dependents JOIN jobs ON jobs.id = dependents.job
    WHERE state = 'cancelled' AND reason GLOB '{BECAUSE_OF.format("*", "*")}' AND source IN
"""  # noqa: S608 (constants)


def schedules_of(db: sqlite3.Connection, job_ids: Sequence[int]) -> dict[JobId, str]:
    """Return those of these jobs that are of a schedule, with its name."""
    rows = rows_of(db, "SELECT id, schedule FROM jobs WHERE schedule IS NOT NULL AND id IN", job_ids)
    return {JobId(job_id): name for job_id, name in rows}


def names_and_states(db: sqlite3.Connection, job_ids: Sequence[int]) -> dict[int, tuple[str | None, str]]:
    """Return the name and the state of each of these jobs that exists."""
    rows = rows_of(db, "SELECT id, name, state FROM jobs WHERE id IN", job_ids)
    return {job_id: (name, state) for job_id, name, state in rows}
