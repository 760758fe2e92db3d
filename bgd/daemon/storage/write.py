"""Write to the database: job and attempt rows, specs, and the requests that made jobs."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from operator import attrgetter, itemgetter

import msgspec

from bgd.core.conditions import key_kept_until
from bgd.core.job import FINAL, NO_CONDITIONS, Job, JobId, Now, Outcome, State
from bgd.core.scheduler import SaveJob
from bgd.core.spec import JobSpec
from bgd.daemon.storage import (
    activity,
    batches,
    change_stream,
    inbox,
    notifications,
    read,
    schedules,
    steps,
    submissions,
)
from bgd.daemon.storage.database import insert_rows, runs_of, update_rows
from bgd.daemon.storage.records import (
    AttemptEnd,
    JobEvent,
    QueueControls,
    StoredSpec,
    Submission,
    Transaction,
    pack_policy,
    pack_tokens,
    pack_waits,
    unpack_spec,
)
from bgd.wire.launching import Place
from bgd.wire.views import JobProgress

_MAX_KNOWN = 4096  # environments whose hash is remembered, some 100 bytes each

_encode = msgspec.msgpack.Encoder().encode
_encode_sorted = msgspec.msgpack.Encoder(order="sorted").encode
_encode_json = msgspec.json.Encoder().encode

Counted = State | int | None
"""What jobs are counted by: their state, or the id of their environment; None: they have no environment."""


class TransactionWriter:
    """Writes what a Transaction holds between BEGIN and COMMIT; call `forget` after a rollback."""

    def __init__(self) -> None:
        self._specs = SpecWriter()
        self._activity = activity.ActivityWriter()
        self._inbox = inbox.InboxWriter()
        self.newest_event: int | None = None  # None: to be looked up

    def save(  # noqa: C901, PLR0912 - a branch for each kind of fact
        self, db: sqlite3.Connection, transaction: Transaction
    ) -> dict[JobId, StoredSpec]:
        """Write all of it, and return the specs of `transaction.wanted`, as far as those jobs exist."""
        jobs = self._insert(db, transaction) if transaction.new else Counter[Counted]()
        if transaction.batches:
            submissions.save_lines(db, transaction.batches, transaction.now.elapsed)
        if transaction.saves or transaction.ends:
            _save_jobs(db, transaction)
            _count_moves(jobs, transaction.saves.values())
        _count(db, jobs)
        if transaction.counted:
            batches.save(db, transaction)
        if transaction.edited:  # by a later submit, which may be of a session
            self._specs.edit(db, transaction.edited)
            self._inbox.forget()
        if transaction.attempts or transaction.relaunched or transaction.pids or transaction.ends:
            _save_attempts(db, transaction)
        if transaction.saves and self._inbox.has_sessions is not False:
            self._inbox.save(db, transaction)
        if transaction.progress:
            _save_progress(db, transaction.progress.values())
        if transaction.steps:
            steps.save(db, transaction.steps, transaction.now.wall)
        events: list[JobEvent | dict[str, object]] = [*transaction.events, *schedules.save(db, transaction)]
        if events:
            self.newest_event = change_stream.append_events(db, events, self.newest_event)
        if transaction.settled or transaction.rules:
            notifications.save(db, transaction)
        if transaction.permits is not None:
            db.execute("INSERT OR REPLACE INTO permits (rowid, value) VALUES (1, ?)", (transaction.permits,))
        if transaction.wall_ahead is not None or transaction.controls is not None or transaction.breakers:
            _save_daemon(db, transaction)
        wanted: dict[JobId, StoredSpec] = {}
        if transaction.wanted:
            wanted = read.read_specs(db, transaction.wanted)
            transaction.results = read.results_for(db, wanted.values())
        if transaction.attempts or transaction.ends:
            self._activity.save(db, transaction, transaction.permitted | wanted)
        if transaction.removed or transaction.cleared:
            self._remove(db, transaction)
        return wanted

    def forget(self) -> None:
        """Forget what is stored."""
        self._specs.forget()
        self._activity.forget()
        self._inbox.forget()
        self.newest_event = None

    def _insert(self, db: sqlite3.Connection, transaction: Transaction) -> Counter[Counted]:
        """Write new jobs; return how many there are of each kind that is counted."""
        if _insert_jobs(db, transaction):
            self._inbox.has_sessions = True
        environments = self._specs.insert(db, transaction.specs, transaction.submissions)
        if transaction.follow_ups:
            db.executemany("INSERT INTO follow_ups VALUES (?, ?)", transaction.follow_ups)
        return Counter(chain(environments, map(attrgetter("state"), transaction.new)))

    def _remove(self, db: sqlite3.Connection, transaction: Transaction) -> None:
        removed = [job.id for job in transaction.removed]
        submissions.keep_submissions(db, removed, transaction.now.elapsed)
        self._specs.remove(db, removed)
        _remove_jobs(db, removed)
        db.executemany("DELETE FROM leftovers WHERE job BETWEEN ? AND ?", runs_of(transaction.cleared))


def _count(db: sqlite3.Connection, jobs: Counter[Counted]) -> None:
    """Add to the number of jobs that have these states and environments; a trigger counts removed ones."""
    if jobs:
        rows = [(str(key), number) for key, number in jobs.items() if number and key is not None]
        db.executemany(_COUNT, rows)


def _count_moves(jobs: Counter[Counted], saves: Iterable[SaveJob]) -> None:
    """Count how many more jobs are in each state than before."""
    for save in saves:
        jobs[save.before] -= 1
        jobs[save.job.state] += 1


def _insert_jobs(db: sqlite3.Connection, transaction: Transaction) -> bool:
    """Write new jobs, with few rows in memory at a time; return whether any has a session.

    SQLite takes a lock for each value, so jobs without conditions, which most are, pass only what differs.
    A job that starts at once is written as it runs.
    """
    specs, elapsed = transaction.specs, transaction.now.elapsed
    starts = {item.job: item.at for item in transaction.attempts}
    plain, others = list[Job](), list[Job]()
    for job in transaction.new:
        spec, is_plain = specs[job.id].spec, job.due is None and job.conditions is NO_CONDITIONS
        if job.id in starts:
            others.append(transaction.saves[job.id].job)
        elif is_plain and spec.notify is None and spec.session is None:
            plain.append(job)
        else:
            others.append(job)
    if plain:
        rows = (_plain_row(job, specs[job.id], elapsed) for job in plain)
        insert_rows(db, _INSERT_PLAIN_JOB, _PLAIN_JOB, rows)
    if others:
        more = (_new_row(job, specs[job.id], elapsed, starts.get(job.id)) for job in others)
        insert_rows(db, _INSERT_JOB, _JOB, more)
    return any(specs[job.id].spec.session for job in others)


def _plain_row(job: Job, stored: StoredSpec, elapsed: float) -> tuple[object, ...]:
    submitted = stored.uid, stored.spec.name, stored.created_at, elapsed, job.id
    return (str(job.state), job.queue, job.priority, pack_policy(job.policy), *submitted)


def _new_row(job: Job, stored: StoredSpec, elapsed: float, started_at: float | None) -> list[object]:
    # a list, because Python 3.11 keeps thousands of freed tuples of just this length
    spec = stored.spec
    named = spec.name, spec.notify, spec.session
    return [*_columns(job), started_at, stored.uid, *named, stored.created_at, elapsed, job.id]


def _save_jobs(db: sqlite3.Connection, transaction: Transaction) -> None:
    """Write jobs as they are now, each together with the start or end of its attempt, in one UPDATE.

    Every statement costs a switch between this thread and the loop's, so statements without rows are skipped,
    and jobs that differ only by consecutive ids share one: someone may cancel a million.
    If an attempt starts and ends in one transaction, the end is written last; if another one starts then,
    that is.
    """
    ends = {end.job: end for end in transaction.ends}
    if not ends.keys() <= transaction.saves.keys():
        raise LookupError("an attempt ended, and its job was not moved")
    starts = {item.job: item for item in transaction.attempts}
    inserted = {job.id for job in transaction.new if job.id in starts}
    ended = []
    started: list[tuple[object, ...]] = []
    begun: list[tuple[object, ...]] = []
    plain: list[tuple[object, ...]] = []  # each for a run of jobs with the same columns
    count, same, last = 0, None, 0
    rare: list[SaveJob] = []
    for save in transaction.saves.values():
        if save.job.id in inserted:
            continue
        job, columns = save.job, _columns(save.job)
        if save.before is State.SUCCEEDED or job.conditions.key_for is not None:
            rare.append(save)
        end, start = ends.get(job.id), starts.get(job.id)
        if end is not None:
            # the job finished when its attempt did, perhaps long before a daemon could save that
            finish = (end.finished_at, transaction.now.elapsed) if job.state in FINAL else (None, None)
            outcome = end.outcome.value, end.exit_code, end.signal, end.outcome is Outcome.SNOOZED
            ended.append((*columns, *finish, save.reason, *outcome, end.log_kept, end.started_at, job.id))
        if start is not None:
            rows = started if end is None or end.attempt != start.attempt else begun
            rows.append((*columns, None, None, save.reason, start.at, job.id))
        elif end is None:
            finish = (save.at, transaction.now.elapsed) if job.state in FINAL else (None, None)
            values = (*columns, *finish, save.reason)
            first = plain.pop()[-2] if values == same and job.id == last + 1 else job.id
            plain.append((*values, first, job.id))
            count, same, last = count + 1, values, job.id
    update_rows(db, _SAVE_JOBS, plain, count)
    update_rows(db, _START_JOB, begun)
    update_rows(db, _END_JOB, ended)
    update_rows(db, _START_JOB, started)
    if rare:
        _save_rare(db, rare, transaction.now)


def _save_rare(db: sqlite3.Connection, saves: list[SaveJob], now: Now) -> None:
    """Delete the steps of succeeded jobs that run again, and write how long finished jobs keep their keys.

    A job that has run again may already have a row for its key.
    """
    steps.forget(db, [save.job.id for save in saves if save.before is State.SUCCEEDED])
    jobs = [save.job for save in saves if save.job.conditions.key_for is not None]
    finished = [job for job in jobs if job.state in FINAL]
    if finished:
        db.executemany("DELETE FROM kept_keys WHERE job = ?", [(job.id,) for job in finished])
        kept = [(job.id, job.conditions.key, key_kept_until(job, now)) for job in finished]
        db.executemany(_KEEP_KEY, [row for row in kept if row[2] is not None])


def _columns(job: Job) -> tuple[object, ...]:
    conditions = job.conditions
    return (
        str(job.state),  # of Python 3.11, `value` calls two functions
        job.queue,
        job.priority,
        pack_policy(job.policy),
        job.attempt,
        job.failures,
        job.unseen,
        job.due,
        job.making_way,
        conditions.at,
        conditions.expires,
        pack_waits(conditions),
        conditions.key,
        conditions.slots,
        pack_tokens(conditions.resources),
        job.suspended,
    )


def _save_attempts(db: sqlite3.Connection, transaction: Transaction) -> None:
    """Write starts and ends of attempts; what these mean for the jobs is written with the jobs."""
    for attempts, since in ((transaction.attempts, transaction.now.elapsed), (transaction.lost, None)):
        if attempts:
            rows = [
                (item.job, item.attempt, item.slot, pack_tokens(item.tokens), item.launcher, item.at, since)
                for item in attempts
            ]
            db.executemany(_INSERT_ATTEMPT, rows)
    for item in transaction.relaunched:
        update_rows(db, _RELAUNCH, [(item.launcher, item.job, item.attempt)])
    if transaction.pids:
        pids = [(each, each.key.job, each.key.attempt) for each in transaction.pids.values()]
        update_rows(db, _SAVE_PID, [(each.pid, each.started_at, each.since, *key) for each, *key in pids])
        _save_places(db, [(each.place, job, attempt) for each, job, attempt in pids])
    if transaction.ends:
        _save_ends(db, transaction.ends)


def _save_ends(db: sqlite3.Connection, ends: list[AttemptEnd]) -> None:
    update_rows(db, _END_ATTEMPT, [(end.outcome.value, *_of_end(end)) for end in ends])
    _save_places(db, [(end.place, end.job, end.attempt) for end in ends])
    left = [(end.leftovers, end.job, end.attempt) for end in ends if end.leftovers is not None]
    update_rows(db, _SAVE_LEFTOVERS, left)
    kept = sum(end.log_kept for end in ends)
    if kept:
        db.execute("UPDATE meta SET logged = logged + ?", (kept,))
    for end in ends:
        if end.result is not None or end.error is not None:
            error = None if end.error is None else _encode_json(end.error).decode()
            db.execute("INSERT INTO results VALUES (?, ?, ?, ?)", (end.job, end.attempt, end.result, error))


def _save_places(db: sqlite3.Connection, places: Iterable[tuple[Place | None, int, int]]) -> None:
    """Write where attempts run or ran; those of this machine have no place."""
    rows = [(place.executor, place.kind, place.node, *key) for place, *key in places if place is not None]
    update_rows(db, _SAVE_PLACE, rows)


_of_end = attrgetter(
    *("exit_code", "signal", "started_at", "since", "pid", "finished_at", "user_seconds", "system_seconds"),
    *("max_rss_bytes", "log_bytes", "whole_tree", "memory_peak_bytes", "run_seconds", "job", "attempt"),
)


def _save_progress(db: sqlite3.Connection, reports: Iterable[JobProgress]) -> None:
    """Write what attempts have reported, unless another attempt has followed."""
    rows = [(each.progress.fraction, each.progress.message, each.job, each.attempt) for each in reports]
    db.executemany(_SAVE_PROGRESS, rows)


def _save_daemon(db: sqlite3.Connection, transaction: Transaction) -> None:
    """Write what is about no single job: the clock, what users have set, and breakers."""
    if transaction.wall_ahead is not None:
        db.execute("UPDATE meta SET wall_ahead = ?", (transaction.wall_ahead,))
    if transaction.controls is not None:
        _save_controls(db, transaction.controls)
    if transaction.breakers:
        rows = [(pattern, _encode(state)) for pattern, state in transaction.breakers.items()]
        db.executemany("INSERT OR REPLACE INTO breakers VALUES (?, ?)", rows)


def _save_controls(db: sqlite3.Connection, controls: QueueControls) -> None:
    db.execute("UPDATE meta SET slots = ?, paused = ?", (controls.slots, controls.paused))
    db.execute("DELETE FROM queues")
    rows = [(name, of.has_slots, of.slots, of.paused) for name, of in controls.queues.items()]
    db.executemany("INSERT INTO queues (name, has_slots, slots, paused) VALUES (?, ?, ?, ?)", rows)


def _remove_jobs(db: sqlite3.Connection, job_ids: list[JobId]) -> None:
    """Delete all rows of the jobs; a job may be gone already, because two clients have removed it.

    Their logs are deleted once this is on disk; a start deletes what was left of them.
    """
    runs = runs_of(job_ids)
    db.executemany("INSERT OR IGNORE INTO leftovers SELECT id FROM jobs WHERE id BETWEEN ? AND ?", runs)
    for table in ("attempts", "results", "streaks", "dependents", "steps", "kept_keys", "inbox"):
        db.executemany(f"DELETE FROM {table} WHERE job BETWEEN ? AND ?", runs)  # noqa: S608 (constants)
    db.executemany("DELETE FROM follow_ups WHERE cause BETWEEN ? AND ?", runs)
    db.executemany("DELETE FROM jobs WHERE id BETWEEN ? AND ?", runs)


_KEEP_KEY = "INSERT INTO kept_keys VALUES (?, ?, ? + (SELECT age_ahead FROM meta))"

_INSERT_PLAIN_JOB = """
    INSERT INTO jobs (state, queue, priority, policy, uid, name, created_at, created_aged, id,
                      attempt, failures, unseen, making_way)
    VALUES
"""
_PLAIN_JOB = "(?, ?, ?, ?, ?, ?, ?, ? + (SELECT age_ahead FROM meta), ?, 0, 0, 0, 0)"

_INSERT_JOB = """
    INSERT INTO jobs (state, queue, priority, policy, attempt, failures, unseen, due_elapsed,
                      making_way, wall_due, expires_elapsed, waits, key, slots, resources, suspended,
                      started_at, uid, name, notify, session, created_at, created_aged, id)
    VALUES
"""
_JOB = (
    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? + (SELECT age_ahead FROM meta), ?)"
)

_COUNT = "INSERT INTO counts VALUES (?, ?) ON CONFLICT DO UPDATE SET jobs = jobs + excluded.jobs"

_UPDATE_JOB = """
    UPDATE jobs SET state = ?, queue = ?, priority = ?, policy = ?, attempt = ?, failures = ?, unseen = ?,
                    due_elapsed = ?, making_way = ?, wall_due = ?, expires_elapsed = ?, waits = ?, key = ?,
                    slots = ?, resources = ?, suspended = ?, finished_at = ?,
                    aged_from = ? + (SELECT age_ahead FROM meta), reason = ?
"""
_SAVE_JOBS = f"{_UPDATE_JOB} WHERE id BETWEEN ? AND ?"
_END_JOB = f"""
    {_UPDATE_JOB}, outcome = ?, exit_code = ?, signal = ?, snoozes = snoozes + ?, logged = logged + ?,
                   started_at = coalesce(?, started_at)
    WHERE id = ?
"""
_START_JOB = f"{_UPDATE_JOB}, started_at = ?, progress = NULL, progress_message = NULL WHERE id = ?"

_INSERT_ATTEMPT = """
    INSERT INTO attempts (job, attempt, slot, tokens, launcher, launched_at, started_aged)
    VALUES (?, ?, ?, ?, ?, ?, ? + (SELECT age_ahead FROM meta))
"""

_SAVE_PROGRESS = "UPDATE jobs SET progress = ?, progress_message = ? WHERE id = ? AND attempt = ?"

_RELAUNCH = "UPDATE attempts SET launcher = ? WHERE job = ? AND attempt = ?"

_SAVE_PID = """
    UPDATE attempts SET pid = ?, started_at = ?,
                        started_aged = coalesce(? + (SELECT age_ahead FROM meta), started_aged)
    WHERE job = ? AND attempt = ?
"""

_END_ATTEMPT = """
    UPDATE attempts SET outcome = ?, exit_code = ?, signal = ?, started_at = coalesce(?, started_at),
                        started_aged = coalesce(? + (SELECT age_ahead FROM meta), started_aged),
                        pid = coalesce(?, pid), finished_at = ?, user_seconds = ?, system_seconds = ?,
                        max_rss_bytes = ?, log_bytes = ?, whole_tree = ?, memory_peak_bytes = ?,
                        run_seconds = ?, launcher = NULL
    WHERE job = ? AND attempt = ?
"""

_SAVE_PLACE = "UPDATE attempts SET executor = ?, executor_kind = ?, node = ? WHERE job = ? AND attempt = ?"

_SAVE_LEFTOVERS = "UPDATE attempts SET leftovers = ? WHERE job = ? AND attempt = ?"


# --- specs: each job has its own, and jobs share environments


class SpecWriter:
    """Writes specs inside the caller's transaction: each job's own, and each environment once for all jobs.

    It remembers the environments that it has stored, so that a known one costs no SQL. Call `forget` after a
    rollback, which may have removed some of them.
    """

    def __init__(self) -> None:
        self._environments: dict[bytes, int] = {}  # ids by hash
        self._latest: tuple[dict[str, str] | None, int] = None, 0  # one of them, and its id

    def insert(
        self, db: sqlite3.Connection, specs: dict[JobId, StoredSpec], requests: dict[bytes, Submission]
    ) -> Iterable[Counted]:
        """Write the specs of new jobs and the requests that made them, by their tokens.

        Return the ids of the jobs' environments.
        """
        rows = self._rows(db, specs)
        made = {each.first: (token, submissions.pack_answer(each)) for token, each in requests.items()}
        first = [(*row, *made[row[2]]) for row in rows if row[2] in made] if made else []
        if first:
            insert_rows(db, f"{_INSERT_SPEC}, token, answer) VALUES", "(?, ?, ?, ?, ?)", first)
        if len(first) < len(rows):
            others = [row for row in rows if row[2] not in made]
            insert_rows(db, f"{_INSERT_SPEC}) VALUES", "(?, ?, ?)", others)
        _insert_links(db, specs)
        return map(itemgetter(1), rows)

    def edit(self, db: sqlite3.Connection, specs: dict[JobId, JobSpec]) -> None:
        """Replace the specs of jobs, and the names and tags by which lists select."""
        _remove_tags(db, specs)
        stored = {job: StoredSpec.of(spec, 0, 0.0) for job, spec in specs.items()}
        rows = self._rows(db, stored)
        before = _environments_of(db, specs)
        update_rows(db, "UPDATE specs SET spec = ?, environment = ? WHERE job = ?", rows)
        _count(db, Counter(map(itemgetter(1), rows)))
        self._unshare(db, before)
        names = [(spec.name, spec.notify, spec.session, job) for job, spec in specs.items()]
        update_rows(db, "UPDATE jobs SET name = ?, notify = ?, session = ? WHERE id = ?", names)
        db.executemany("DELETE FROM dependents WHERE job = ?", [(job,) for job in specs])
        _insert_links(db, stored)

    def remove(self, db: sqlite3.Connection, job_ids: list[JobId]) -> None:
        """Delete specs and tags, and the environments that no other job has."""
        batches.remove_jobs(db, _remove_tags(db, job_ids))
        before = _environments_of(db, job_ids)
        db.executemany("DELETE FROM specs WHERE job BETWEEN ? AND ?", runs_of(job_ids))
        self._unshare(db, before)

    def forget(self) -> None:
        """Forget which environments are stored."""
        self._environments.clear()
        self._latest = None, 0

    def _unshare(self, db: sqlite3.Connection, before: Counter[Counted]) -> None:
        """Count the jobs that no longer have each of these environments; delete those that no job has."""
        _count(db, Counter({environment: -jobs for environment, jobs in before.items()}))
        marks = [(str(environment),) for environment in before]
        if db.executemany(_DROP_UNSHARED, marks).rowcount > 0:
            db.executemany("DELETE FROM counts WHERE key = ? AND jobs = 0", marks)
            self.forget()

    def _rows(
        self, db: sqlite3.Connection, specs: dict[JobId, StoredSpec]
    ) -> list[tuple[bytes, int | None, JobId]]:
        known: dict[int, int | None] = {id(None): None}  # jobs of one request share a dict: hash it once
        for stored in specs.values():
            if id(stored.env) not in known and stored.env is not None:
                known[id(stored.env)] = self._environment_id(db, stored.env)
        return [(_encode(stored.spec), known[id(stored.env)], job) for job, stored in specs.items()]

    def _environment_id(self, db: sqlite3.Connection, env: dict[str, str]) -> int:
        latest, known = self._latest
        if env != latest:  # most jobs come from the shell or program that the one before came from
            known = self._stored_environment(db, env)
            self._latest = env, known
        return known

    def _stored_environment(self, db: sqlite3.Connection, env: dict[str, str]) -> int:
        variables = _encode_sorted(env)
        content = hashlib.blake2b(variables, digest_size=32).digest()
        known = self._environments.get(content)
        if known is not None:
            return known
        row = db.execute("SELECT id FROM environments WHERE hash = ?", (content,)).fetchone()
        if row is None:
            db.execute("INSERT INTO environments (hash, variables) VALUES (?, ?)", (content, variables))
            row = db.execute("SELECT last_insert_rowid()").fetchone()
        if len(self._environments) >= _MAX_KNOWN:
            self._environments.clear()
        known = self._environments[content] = int(row[0])
        return known


def _environments_of(db: sqlite3.Connection, job_ids: Iterable[JobId]) -> Counter[Counted]:
    """Return how many of these jobs have each environment."""
    found: Counter[Counted] = Counter()
    for run in runs_of(job_ids):
        found.update(dict(db.execute(_SHARED, run)))
    return found


def _insert_links(db: sqlite3.Connection, specs: dict[JobId, StoredSpec]) -> None:
    """Write the tags of jobs, which jobs have to succeed before them, and whose results they need."""
    tags: list[tuple[str, JobId]] = []
    dependents: list[tuple[int, JobId, bool]] = []
    for job, stored in specs.items():  # most jobs have neither, and each call counts
        spec = stored.spec
        if spec.tags:
            tags += [(tag, job) for tag in {*spec.tags}]
        if spec.after:
            needed = {reference.job for reference in spec.references}
            dependents += [(source, job, source in needed) for source in {*spec.after}]
    if tags:
        insert_rows(db, "INSERT INTO tags VALUES", "(?, ?)", tags)
    if dependents:
        insert_rows(db, "INSERT INTO dependents VALUES", "(?, ?, ?)", dependents)


def _remove_tags(db: sqlite3.Connection, job_ids: Iterable[JobId]) -> Counter[int]:
    """Delete the tags that the stored specs name: the table finds jobs by tag, not tags by job.

    Return how many of these jobs belong to each batch.
    """
    jobs = Counter[int]()
    for run in runs_of(job_ids):
        tags: list[tuple[str, int]] = []
        for job_id, packed in db.execute("SELECT job, spec FROM specs WHERE job BETWEEN ? AND ?", run):
            spec = unpack_spec(packed)
            tags += [(tag, job_id) for tag in spec.tags]
            if spec.batch is not None:
                jobs[spec.batch] += 1
        db.executemany("DELETE FROM tags WHERE tag = ? AND job = ?", tags)
    return jobs


_INSERT_SPEC = "INSERT INTO specs (spec, environment, job"
_SHARED = """
    SELECT environment, count(*) FROM specs
    WHERE job BETWEEN ? AND ? AND environment IS NOT NULL GROUP BY environment
"""
_DROP_UNSHARED = "DELETE FROM environments WHERE id = ?1 AND (SELECT jobs FROM counts WHERE key = ?1) = 0"
