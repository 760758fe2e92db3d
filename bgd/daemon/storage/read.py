"""What is read of the database: views for people, figures, jobs to restore, and jobs to delete."""

from __future__ import annotations

import pwd
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from heapq import merge
from itertools import chain, islice
from math import ceil
from operator import attrgetter
from sys import intern
from typing import Any

import msgspec
from msgspec import Struct

from bgd import clock
from bgd.config import rule_text
from bgd.core.job import FINAL, WAITING, Conditions, Job, JobId, Outcome, State
from bgd.core.spec import DEFAULT_QUEUE, OPTIONS
from bgd.daemon.storage import write
from bgd.daemon.storage.database import transaction
from bgd.daemon.storage.records import (
    QueueControls,
    QueueSetting,
    RecentStats,
    UnfinishedJob,
    unpack_policy,
    unpack_waits,
)
from bgd.daemon.storage.write import unpack_spec
from bgd.wire.launching import log_name
from bgd.wire.requests import List
from bgd.wire.views import AttemptView, JobError, JobProgress, JobView, Progress

# --- RecentStats of all jobs together: how many there are, how attempts ended of late, and what they took.


_MOST_TIMED = 10_000  # attempts, the newest; 20 ms of reading


def counts(db: sqlite3.Connection) -> dict[str, int]:
    return {row["state"]: row["jobs"] for row in db.execute("SELECT state, jobs FROM counts")}


def queue_counts(db: sqlite3.Connection) -> dict[str, dict[str, int]]:
    """Return unfinished jobs by queue and state."""
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for queue, state, jobs in db.execute(_QUEUE_COUNTS):
        if jobs:
            found[queue][state] = jobs
    return dict(found)


def has_jobs_in(db: sqlite3.Connection, queue: str) -> bool:
    """Tell whether any job, finished ones too, is in this queue, which is not the default one."""
    sql = (
        f"SELECT 1 FROM jobs INDEXED BY jobs_by_queue WHERE queue = ? AND queue <> '{DEFAULT_QUEUE}' LIMIT 1"  # noqa: S608 (a constant)
    )
    return db.execute(sql, (queue,)).fetchone() is not None


def recent_stats(db: sqlite3.Connection, since: float) -> RecentStats:
    """Return what the events that are kept tell of the attempts that ended at or after this epoch time."""
    with transaction(db, "DEFERRED"):
        ended = [
            event for event in write.latest_events(db) if event.outcome is not None and event.at >= since
        ]
        times = [
            row
            for event in ended[:_MOST_TIMED]
            for row in db.execute(_WAITS_AND_RUNS, (event.job, event.attempt))  # none if the job was removed
        ]
        oldest = db.execute(_OLDEST_QUEUED, (State.QUEUED.value,)).fetchone()
    waits = sorted(wait for wait, _ in times if wait is not None)
    runs = sorted(run for _, run in times if run is not None)
    return RecentStats(
        outcomes=Counter(event.outcome.value for event in ended if event.outcome is not None),
        wait_median=_at_most(waits, 0.5),
        wait_p95=_at_most(waits, 0.95),
        run_median=_at_most(runs, 0.5),
        run_p95=_at_most(runs, 0.95),
        oldest_queued_at=None if oldest is None else oldest["created_at"],
    )


def _at_most(sorted_values: list[float], share: float) -> float | None:
    """Return the least value that so great a share of all is not above."""
    return sorted_values[ceil(share * len(sorted_values)) - 1] if sorted_values else None


_COUNT_UNFINISHED = ", ".join(f"'{state.value}'" for state in State if state not in FINAL)

# the default queue has all jobs of a state but those elsewhere
_QUEUE_COUNTS = f"""
    WITH elsewhere AS (
        SELECT queue, state, count(*) AS jobs FROM jobs INDEXED BY jobs_by_queue
        WHERE queue <> '{DEFAULT_QUEUE}' AND state IN ({_COUNT_UNFINISHED}) GROUP BY queue, state
    )
    SELECT queue, state, jobs FROM elsewhere
    UNION ALL
    SELECT '{DEFAULT_QUEUE}', state,
           jobs - (SELECT coalesce(sum(jobs), 0) FROM elsewhere WHERE elsewhere.state = counts.state)
    FROM counts WHERE state IN ({_COUNT_UNFINISHED})
"""  # noqa: S608 (constants)

_WAITS_AND_RUNS = """
    SELECT CASE attempts.attempt WHEN 1 THEN max(attempts.started_aged - jobs.created_aged, 0) END,
           attempts.run_seconds
    FROM attempts JOIN jobs ON jobs.id = attempts.job
    WHERE attempts.job = ? AND attempts.attempt = ?
"""

_OLDEST_QUEUED = "SELECT created_at FROM jobs WHERE state = ? ORDER BY id LIMIT 1"


# --- What the Scheduler and the supervisor read back of the store: jobs to decide about, and what was set.


_PAGE = 5_000  # jobs: what is read of a million at a time must not make the process grow
_AT_ONCE = 500  # ids in one query: SQLite takes 999 values in its oldest form
_MOST_TERMS = 1024  # most jobs have the usual ones, and many of the rest those of their neighbours

_STATES = {state.value: state for state in State}


def unfinished_jobs(db: sqlite3.Connection, state: State, after: int) -> list[UnfinishedJob]:
    """Return the first jobs in this state with ids above `after`, the smallest first; [] at the end."""
    cursor = db.cursor()
    cursor.row_factory = None  # plain tuples: a start may read a million, and has no use for names
    return list(map(_restored, cursor.execute(_UNFINISHED, (state.value, after, _PAGE))))


def last_id(db: sqlite3.Connection) -> int:
    """Return the highest id ever given out."""
    (number,) = db.execute("SELECT last_id FROM meta").fetchone()
    return int(number)


def controls(db: sqlite3.Connection) -> QueueControls:
    with transaction(db, "DEFERRED"):
        slots, paused = db.execute("SELECT slots, paused FROM meta").fetchone()
        queues = {
            name: QueueSetting(has_slots=bool(has_slots), slots=of_queue, paused=bool(is_paused))
            for name, has_slots, of_queue, is_paused in db.execute(_QUEUES)
        }
    return QueueControls(slots=slots, paused=bool(paused), queues=queues)


def finished_job(db: sqlite3.Connection, job_id: JobId) -> Job | None:
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


def _restored(row: Sequence[Any]) -> UnfinishedJob:
    return UnfinishedJob(_job(row), row[-2], row[-1])


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
        conditions=_job_conditions(slots, key, at, expires, waits),
        suspended=bool(suspended),
    )


def _known_state(number: int, state: str) -> State:
    try:
        return _STATES[state]
    except KeyError:
        raise ValueError(f"job {number} is {state!a}") from None


@lru_cache(_MOST_TERMS)
def _job_conditions(
    slots: int, key: str | None, at: float | None, expires: float | None, waits: bytes | None
) -> Conditions:
    after, after_any = unpack_waits(waits)
    return Conditions(at=at, expires=expires, after=after, after_any=after_any, key=key, slots=slots)


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


# --- Which finished jobs are let go: by age, number and bytes of logs, the longest finished first.


class RetentionLimits(Struct, frozen=True, kw_only=True):
    """What stays of the finished jobs; a job goes as soon as one of these does not let it stay.

    Attributes:
        seconds: since its end, by state; a job in any other state is not touched. None: for ever.
        most: so many of each of these states, the latest. None: all.
        log_bytes: so many bytes of all logs together. None: all.
    """

    seconds: Mapping[State, float | None]
    most: int | None = None
    log_bytes: int | None = None


class PrunableJob(Struct, frozen=True, gc=False):
    """A job that is to go; `logged`: bytes of its logs."""

    aged_from: float  # its end, on retention's clock
    job: JobId
    logged: int


def prunable_jobs(
    db: sqlite3.Connection, keep: RetentionLimits, elapsed: float, limit: int
) -> list[PrunableJob]:
    """Return at most `limit` of the jobs that are to go at this time of this boot's elapsed clock."""
    with transaction(db, "DEFERRED"):
        return list(islice(_due(db, keep, elapsed), limit))


def total_prunable(db: sqlite3.Connection, keep: RetentionLimits, elapsed: float) -> tuple[int, int]:
    """Return how many jobs are to go, and the bytes of their logs. Costs some 2 s for a million."""
    jobs = log_bytes = 0
    with transaction(db, "DEFERRED"):
        for each in _due(db, keep, elapsed):
            jobs += 1
            log_bytes += each.logged
    return jobs, log_bytes


def next_prunable_at(db: sqlite3.Connection, keep: RetentionLimits) -> float | None:
    """Return the elapsed time at which the next job will have been kept long enough, None: none ever will."""
    ahead = _age_ahead(db)
    ends = [
        aged_from + seconds - ahead
        for state, seconds in keep.seconds.items()
        if seconds is not None
        for (aged_from, *_) in db.execute(f"{_OLDEST} LIMIT 1", (state.value,))
    ]
    return min(ends, default=None)


def still_finished(db: sqlite3.Connection, wanted: Iterable[PrunableJob]) -> list[Job]:
    """Return those of these jobs that have not been run again since."""
    jobs: list[Job] = []
    with transaction(db, "DEFERRED"):
        for each in wanted:
            row = db.execute("SELECT aged_from FROM jobs WHERE id = ?", (each.job,)).fetchone()
            job = finished_job(db, each.job)
            if row is not None and job is not None and row[0] == each.aged_from:
                jobs.append(job)
    return jobs


def leftovers(db: sqlite3.Connection) -> list[JobId]:
    """Return jobs that were removed, and whose logs may still be there."""
    return [JobId(job_id) for (job_id,) in db.execute("SELECT job FROM leftovers")]


def _due(db: sqlite3.Connection, keep: RetentionLimits, elapsed: float) -> Iterator[PrunableJob]:
    at = elapsed + _age_ahead(db)
    (logged,) = db.execute("SELECT logged FROM meta").fetchone()
    rests: list[Iterator[PrunableJob]] = []
    for state, seconds in keep.seconds.items():
        finished = (PrunableJob(*row) for row in db.execute(_OLDEST, (state.value,)))
        left = _count(db, state)
        for each in finished:
            is_old = seconds is not None and each.aged_from <= at - seconds
            is_too_many = keep.most is not None and left > keep.most
            if not (is_old or is_too_many):
                rests.append(chain([each], finished))
                break
            yield each
            left -= 1
            logged -= each.logged
    for each in merge(*rests, key=lambda rest: rest.aged_from):
        if keep.log_bytes is None or logged <= keep.log_bytes:
            return
        yield each
        logged -= each.logged


def _age_ahead(db: sqlite3.Connection) -> float:
    (ahead,) = db.execute("SELECT age_ahead FROM meta").fetchone()
    return float(ahead)


def _count(db: sqlite3.Connection, state: State) -> int:
    (count,) = db.execute("SELECT jobs FROM counts WHERE state = ?", (state.value,)).fetchone()
    return int(count)


_OLDEST = """
    SELECT aged_from, id, logged FROM jobs INDEXED BY jobs_by_end
    WHERE state = ? AND aged_from IS NOT NULL ORDER BY aged_from, id
"""


# --- Which jobs a list shows: the newest that its filters leave, by way of the index that leaves the fewest.


# What a list without states shows, as far as its limit goes: what runs before what waits before the rest.
_BY_INTEREST: tuple[tuple[State, ...], ...] = (
    (State.RUNNING, State.STOPPING),
    (State.QUEUED, State.SCHEDULED, State.BLOCKED, State.HELD),
    (State.SUCCEEDED, State.FAILED, State.CANCELLED),
)

_FEW = 10_000  # jobs that are read one by one; 10 ms


def select_ids(db: sqlite3.Connection, query: List, uid: int | None) -> list[JobId]:
    """Return the newest jobs that the query selects, newest first; `uid` None: of any user.

    Costs at most some 0.1 s for each million jobs in these states, 0.2 s where very many have the tag.
    """
    groups: tuple[tuple[State, ...], ...] = _BY_INTEREST
    if query.states is not None:
        groups = (tuple(dict.fromkeys(query.states)),)
    elif query.before is not None:  # by ids alone, so that pages leave nothing out
        groups = (tuple(State),)
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


# --- What people see of the store: rows become views of jobs and attempts.


_BYTES_AT_ONCE = 256 * 1024  # of their specs, or of a single one
_BEFORE_ITS_TIME = frozenset({State.SCHEDULED, State.BLOCKED, State.HELD})

_decode_error = msgspec.json.Decoder(JobError).decode


def prepare(db: sqlite3.Connection) -> str:
    """Make a connection give what the functions below take; return the store's id."""
    db.row_factory = sqlite3.Row
    (store_id,) = db.execute("SELECT store_id FROM meta").fetchone()
    return str(store_id)


def list_jobs(db: sqlite3.Connection, query: List, uid: int | None) -> list[JobView]:
    """Return the newest jobs that the query selects; `uid` None: of any user."""
    with transaction(db, "DEFERRED"):
        views = [view(db, job_id) for job_id in select_ids(db, query, uid)]
    return [found for found in views if found is not None]


def view(db: sqlite3.Connection, job_id: JobId) -> JobView | None:
    row = db.execute(_VIEW, (job_id,)).fetchone()
    return None if row is None else _view(row)


def first_views(db: sqlite3.Connection, query: List, uid: int | None) -> tuple[list[JobView], list[JobId]]:
    """Return the first of what `list_jobs` would, and the ids of the rest, which may be large."""
    with transaction(db, "DEFERRED"):
        return next_views(db, select_ids(db, query, uid))


def next_views(db: sqlite3.Connection, job_ids: list[JobId]) -> tuple[list[JobView], list[JobId]]:
    """Return those of the first of these jobs that exist, and the ids of the rest."""
    found: list[JobView] = []
    size = count = 0
    for job_id in job_ids:
        if count >= _AT_ONCE or size >= _BYTES_AT_ONCE:
            break
        count += 1
        row = db.execute(_VIEW, (job_id,)).fetchone()
        if row is not None:
            size += len(row["spec"])
            found.append(_view(row))
    return found, job_ids[count:]


def progress_of(db: sqlite3.Connection, job_ids: list[JobId]) -> list[JobProgress]:
    """Return what those of these jobs last said that run, and have said anything."""
    rows = (db.execute(_PROGRESS, (job_id,)).fetchone() for job_id in job_ids)
    told = ((row, _progress(row)) for row in rows if row is not None)
    return [JobProgress(row["id"], row["attempt"], said) for row, said in told if said is not None]


def latest(db: sqlite3.Connection, uid: int) -> JobId | None:
    (job_id,) = db.execute(_LATEST, (uid,)).fetchone()
    return None if job_id is None else JobId(job_id)


def attempts_of(db: sqlite3.Connection, job_id: JobId, after: int, limit: int) -> list[AttemptView]:
    return [_attempt(job_id, row) for row in db.execute(_ATTEMPTS, (job_id, after, limit))]


def result_of(db: sqlite3.Connection, job_id: JobId) -> tuple[str | None, JobError | None]:
    row = db.execute(_RESULT, (job_id,)).fetchone()
    return (None, None) if row is None else (row["result"], _error(row["error"]))


def _view(row: sqlite3.Row) -> JobView:
    spec = unpack_spec(row["spec"])
    policy = unpack_policy(row["policy"])
    after, after_any = unpack_waits(row["waits"])
    return JobView(
        id=row["id"],
        kind="class" if spec.argv is None else "command",
        argv=None if spec.argv is None else list(spec.argv),
        target=spec.target,
        arguments=spec.arguments,
        user=_user(row["uid"]),
        state=State(row["state"]),
        outcome=_outcome(row["outcome"]),
        exit_code=row["exit_code"],
        signal=row["signal"],
        reason=row["reason"],
        queue=row["queue"],
        priority=row["priority"],
        tags=list(spec.tags),
        retries=policy.retries,
        retry_delay=policy.delay,
        backoff=policy.backoff,
        max_delay=policy.max_delay,
        jitter=policy.jitter,
        rerun=policy.rerun,
        attempt=row["attempt"],
        created_at=row["created_at"],
        due_at=_due_at(row),
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        retry_on=None if policy.retry_on is None else list(policy.retry_on),
        no_retry_on=None if policy.no_retry_on is None else list(policy.no_retry_on),
        expires_at=row["expires_at"] if row["attempt"] == 0 else None,
        after=list(spec.after),
        after_any=list(spec.after_any),
        waits_for=list(dict.fromkeys(after + after_any)),
        key=row["key"],
        slots=row["slots"],
        suspended=bool(row["suspended"]),
        snoozes=row["snoozes"],
        on_exceptions={name: rule_text(decision) for name, decision in policy.on_exceptions},
        progress=_progress(row),
        waited_seconds=_waited_seconds(row),
        run_seconds=_run_seconds(row),
        **dict(zip(_AS_ASKED, _asked(spec), strict=True)),
    )


# Options that a JobView has as its spec does; the others have columns of their own, or are made into lists
_AS_ASKED = [
    name
    for name in OPTIONS
    if name in JobView.__struct_fields__
    and name not in {"queue", "priority", "tags", "after", "after_any", "key", "slots"}
    and name
    not in {"retries", "retry_delay", "backoff", "max_delay", "jitter", "rerun", "retry_on", "no_retry_on"}
]
_asked = attrgetter(*_AS_ASKED)


def _progress(row: sqlite3.Row) -> Progress | None:
    if row["progress"] is None and row["progress_message"] is None:
        return None
    return Progress(row["progress"], row["progress_message"])


def _due_at(row: sqlite3.Row) -> float | None:
    """Return when the job's delay and its date are both over, None where it waits for neither."""
    if row["state"] not in _BEFORE_ITS_TIME:
        return None
    return max((at for at in (row["due_at"], row["wall_due"]) if at is not None), default=None)


def _attempt(job_id: JobId, row: sqlite3.Row) -> AttemptView:
    return AttemptView(
        attempt=row["attempt"],
        outcome=_outcome(row["outcome"]),
        exit_code=row["exit_code"],
        signal=row["signal"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        user_seconds=row["user_seconds"],
        system_seconds=row["system_seconds"],
        max_rss_bytes=row["max_rss_bytes"],
        error=_error(row["error"]),
        log_bytes=row["log_bytes"],
        log_path=log_name(job_id, row["attempt"]),
        pid=row["pid"],
        whole_tree=bool(row["whole_tree"]),
        memory_peak_bytes=row["memory_peak_bytes"],
        run_seconds=_run_seconds(row),
    )


def _waited_seconds(row: sqlite3.Row) -> float | None:
    """Return how long a job waited for its latest start, or for its end, or has been waiting."""
    began, started = row["created_aged"], row["started_aged"]
    if row["state"] in WAITING or started is None:
        return _seconds_between(began, row["aged_from"] or _age(row))
    return _seconds_between(began, started)


def _run_seconds(row: sqlite3.Row) -> float | None:
    if row["ended_as"] is not None:
        return float(row["run_seconds"]) if row["run_seconds"] is not None else None
    return _seconds_between(row["started_aged"], _age(row))


def _age(row: sqlite3.Row) -> float | None:
    """Return the present on the clock of columns named `aged`."""
    return None if row["age_ahead"] is None else clock.elapsed() + row["age_ahead"]


def _seconds_between(began: float | None, ended: float | None) -> float | None:
    return None if began is None or ended is None else max(ended - began, 0.0)


def _outcome(text: str | None) -> Outcome | None:
    return None if text is None else Outcome(text)


def _error(text: str | None) -> JobError | None:
    return None if text is None else _decode_error(text)


@lru_cache(1024)
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


_TIMES = "started_aged, run_seconds, attempts.outcome AS ended_as, (SELECT age_ahead FROM meta) AS age_ahead"

_VIEW = f"""
    SELECT jobs.*, spec, {_TIMES}
    FROM jobs JOIN specs ON specs.job = jobs.id
              LEFT JOIN attempts ON attempts.job = jobs.id AND attempts.attempt = jobs.attempt
    WHERE jobs.id = ?
"""  # noqa: S608 (constants)

_PROGRESS = """
    SELECT id, attempt, progress, progress_message FROM jobs WHERE id = ? AND state IN ('running', 'stopping')
"""

_LATEST = "SELECT max(id) FROM jobs WHERE uid = ?"

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
