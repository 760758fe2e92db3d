"""Counts of what started, ended and took slots, by queue and by name: written with the jobs, read by charts.

Each commit adds to the rows of the present minute. Rows of minutes become rows of a quarter of an hour, and
these become rows of hours, so a chart reads some hundred rows for each queue or name, however many jobs there
were. Times are on the wall clock, by which people read charts.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from heapq import nlargest
from itertools import pairwise
from math import ceil, log2
from typing import TypeVar

import msgspec
from msgspec import Struct

from bgd.core.job import ACTIVE, FINAL, JobId, Outcome, State
from bgd.daemon.storage.database import plain_cursor, transaction
from bgd.daemon.storage.records import AttemptEnd, NewAttempt, StoredSpec, Transaction

K = TypeVar("K", bound=str | int)

MINUTE, QUARTER, HOUR = 60, 900, 3600
DAY = 24 * HOUR
# The seconds that a row stands for, and after which it becomes part of a row of the next level. Of the last
# level, the newest hours are kept, as many as make that time: a clock that is ahead for a while deletes none.
LEVELS = ((MINUTE, 2 * HOUR), (QUARTER, DAY + HOUR), (HOUR, 8 * DAY))

QUEUE, NAME = "queue", "name"
OTHER = ""  # what has no row of its own, and jobs without a name; no queue or name is empty
MAX_SUBJECTS = 200  # queues, and names, that have rows of their own in one minute
KEPT_NAMES = 50  # the busiest ones, when rows become part of longer ones
HOURS_OF_ENDS = 24
MAX_ACTIVE = 1_000  # running jobs whose slots `columns` counts

_PER_DOUBLING = 4  # bounds of a histogram between a time and its double
ERROR = 2 ** (0.5 / _PER_DOUBLING) - 1  # share by which the result of `percentile` may be wrong: 9 %


class Counts(Struct, array_like=True):
    """What happened to the jobs of a queue or name within some time; the database stores it by position.

    * `outcomes`: of the attempts that ended. `finished`: jobs that succeeded or failed.
    * `waits`: of first attempts, from submission or the end of the job's delay. `runs`: of attempts. Both are
      histograms: how many times are in which bucket (see `bucket_of`).
    """

    started: int = 0
    slot_seconds: float = 0.0
    outcomes: dict[Outcome, int] = {}
    finished: dict[State, int] = {}
    waits: dict[int, int] = {}
    runs: dict[int, int] = {}

    @property
    def activity(self) -> tuple[int, float]:
        """What is larger for a busier queue or name."""
        return self.started + sum(self.outcomes.values()), self.slot_seconds

    def add(self, other: Counts) -> None:
        """Add those of another time, queue or name."""
        self.started += other.started
        self.slot_seconds += other.slot_seconds
        _add_to(self.outcomes, other.outcomes)
        _add_to(self.finished, other.finished)
        _add_to(self.waits, other.waits)
        _add_to(self.runs, other.runs)


def _add_to(numbers: dict[K, int], more: dict[K, int]) -> None:
    for key, number in more.items():
        numbers[key] = numbers.get(key, 0) + number


def bucket_of(seconds: float) -> int:
    """Return the bucket of a time; those below a millisecond share the first one."""
    return ceil(_PER_DOUBLING * log2(max(seconds, 0.001) * 1000))


def percentile(buckets: dict[int, int], share: float) -> float | None:
    """Return the time that this share of the times do not exceed, give or take ERROR; None: no times."""
    left = share * sum(buckets.values())
    for bucket in sorted(buckets):
        left -= buckets[bucket]
        if left <= 0:
            return float(2 ** ((bucket - 0.5) / _PER_DOUBLING) / 1000)
    return None


# --- in the transaction of the jobs -------------------------------------------------------------------------


Row = tuple[int, int, str, str]
"""Seconds that a row stands for, when these begin, QUEUE or NAME, and which queue or name."""


class ActivityWriter:
    """Adds what a transaction holds to the rows; call `forget` after a rollback."""

    def __init__(self) -> None:
        self._minute = -1
        self._rows: dict[Row, Counts] = {}  # those of this minute, as they are on disk
        self._kinds: Counter[str] = Counter()  # how many of these are of each kind
        self._changed: dict[Row, Counts] = {}
        self._running: dict[JobId, tuple[str, int]] = {}  # names and slots of jobs that it saw start

    def save(self, db: sqlite3.Connection, saved: Transaction, wanted: dict[JobId, StoredSpec]) -> None:
        """Count the ends and starts of attempts; `wanted`: specs of those that start and are not new."""
        minute = int(saved.now.wall) // MINUTE * MINUTE
        if minute != self._minute:
            _fold(db, minute)
            self._load(db, minute)
        ended = {(end.job, end.attempt) for end in saved.ends}
        late = []
        for start in saved.attempts:  # first those that have ended already
            if (start.job, start.attempt) in ended:
                self._start(db, saved, start, saved.specs.get(start.job) or wanted.get(start.job))
            else:
                late.append(start)
        for end in saved.ends:
            job = saved.saves[end.job].job
            name, slots = self._running.pop(end.job, None) or db.execute(_RUNNING, (end.job,)).fetchone()
            _add_end(self._places(db, job.queue, name, minute), end, job.state)
            if slots:
                for seconds, at, taken in _periods(end, saved.now.wall):
                    for counts in self._places(db, job.queue, name, at, seconds):
                        counts.slot_seconds += slots * taken
        for start in late:
            self._start(db, saved, start, saved.specs.get(start.job) or wanted.get(start.job))
        db.executemany(_WRITE, [(*row, _encode(counts)) for row, counts in self._changed.items()])
        self._changed.clear()

    def _start(
        self, db: sqlite3.Connection, saved: Transaction, start: NewAttempt, stored: StoredSpec | None
    ) -> None:
        job = saved.saves[start.job].job
        name = (stored is not None and stored.spec.name) or OTHER
        self._running[job.id] = name, job.conditions.slots if start.slot else 0
        _add_start(self._places(db, job.queue, name, self._minute), start, stored)

    def forget(self) -> None:
        """Forget what is on disk."""
        self._minute = -1
        self._changed.clear()
        self._running.clear()

    def _load(self, db: sqlite3.Connection, minute: int) -> None:
        rows = db.execute(_READ_ROWS, (MINUTE, minute, minute))
        self._rows = {(MINUTE, minute, kind, subject): _decode(packed) for kind, subject, packed in rows}
        self._kinds = Counter(kind for _, _, kind, _ in self._rows)
        self._minute = minute

    def _places(
        self, db: sqlite3.Connection, queue: str, name: str, at: int, seconds: int = MINUTE
    ) -> tuple[Counts, Counts]:
        """Return the counts of a queue and of a name in some time, which will be written."""
        of_queue, of_name = (seconds, at, QUEUE, queue), (seconds, at, NAME, name)
        return (
            self._changed.get(of_queue) or self._read(db, of_queue),
            self._changed.get(of_name) or self._read(db, of_name),
        )

    def _read(self, db: sqlite3.Connection, row: Row) -> Counts:
        seconds, at, kind, _ = row
        if (seconds, at) != (MINUTE, self._minute):
            found = db.execute(_READ, row).fetchone()
            self._changed[row] = Counts() if found is None else _decode(found[0])
            return self._changed[row]
        if row not in self._rows and self._kinds[kind] >= MAX_SUBJECTS:
            row = seconds, at, kind, OTHER
        if row not in self._rows:
            self._kinds[kind] += 1
            self._rows[row] = Counts()
        self._changed[row] = self._rows[row]
        return self._rows[row]


def _add_start(places: Iterable[Counts], start: NewAttempt, stored: StoredSpec | None) -> None:
    for counts in places:
        counts.started += 1
    if start.attempt == 1 and stored is not None:
        bucket = bucket_of(start.at - stored.due_at)
        for counts in places:
            counts.waits[bucket] = counts.waits.get(bucket, 0) + 1


def _add_end(places: Iterable[Counts], end: AttemptEnd, state: State) -> None:
    bucket = None if end.run_seconds is None else bucket_of(end.run_seconds)
    for counts in places:
        counts.outcomes[end.outcome] = counts.outcomes.get(end.outcome, 0) + 1
        if state in FINAL and state is not State.CANCELLED:
            counts.finished[state] = counts.finished.get(state, 0) + 1
        if bucket is not None:
            counts.runs[bucket] = counts.runs.get(bucket, 0) + 1


def _periods(end: AttemptEnd, now: float) -> Iterator[tuple[int, int, float]]:
    """Yield the seconds and the begin of each row in whose time an attempt ran, and for how long it did.

    These are some hundred rows for an attempt that ran for days, and none if that time is unknown.
    """
    until = min(end.finished_at, now)  # the wall clock may have been set back
    seconds = end.run_seconds
    if seconds is None:
        seconds = 0.0 if end.started_at is None else until - end.started_at
    at = max(until - seconds, now - LEVELS[-1][1])
    while at < until:
        seconds = next((each for each, kept in LEVELS if at > now - kept), HOUR)
        begin = int(at) // seconds * seconds
        next_at = min(begin + seconds, until)
        yield seconds, begin, next_at - at
        at = next_at


def _fold(db: sqlite3.Connection, now: int) -> None:
    """Replace the oldest rows of each level by longer ones, once they are old enough.

    It is called at most once a minute, and makes one longer row for each queue and name.
    """
    for (seconds, kept), (longer, _) in pairwise(LEVELS):
        (oldest,) = db.execute("SELECT min(at) FROM activity WHERE seconds = ?", (seconds,)).fetchone()
        if oldest is None or (begin := oldest // longer * longer) + longer > now - kept:
            continue
        sums: defaultdict[Row, Counts] = defaultdict(Counts)
        for times in ((seconds, begin, begin + longer - 1), (longer, begin, begin)):
            for kind, subject, packed in db.execute(_READ_ROWS, times):
                sums[longer, begin, kind, subject].add(_decode(packed))
            db.execute("DELETE FROM activity WHERE seconds = ? AND at BETWEEN ? AND ?", times)
        _keep_busiest(sums)
        db.executemany(_WRITE, [(*row, _encode(counts)) for row, counts in sums.items()])
    hours, kept = LEVELS[-1]
    db.execute(_DELETE_OLDEST, (hours, now, kept // hours - 1))


def _keep_busiest(sums: dict[Row, Counts]) -> None:
    names = {row for row in sums if row[2] == NAME and row[3] != OTHER}
    busiest = nlargest(KEPT_NAMES, names, key=lambda row: sums[row].activity)
    for row in names.difference(busiest):
        sums.setdefault((*row[:3], OTHER), Counts()).add(sums.pop(row))


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Counts).decode

_WRITE = "INSERT OR REPLACE INTO activity VALUES (?, ?, ?, ?, ?)"
_READ = "SELECT counts FROM activity WHERE seconds = ? AND at = ? AND kind = ? AND subject = ?"
_READ_ROWS = "SELECT kind, subject, counts FROM activity WHERE seconds = ? AND at BETWEEN ? AND ?"
_DELETE_OLDEST = """
    DELETE FROM activity WHERE seconds = ?1 AND at < (
        SELECT DISTINCT at FROM activity WHERE seconds = ?1 AND at <= ?2 ORDER BY at DESC LIMIT 1 OFFSET ?3
    )
"""

# An attempt on a cluster takes slot 0, which is none
_RUNNING = """
    SELECT ifnull(name, ''), iif(slot = 0, 0, slots)
    FROM jobs JOIN attempts ON attempts.job = id AND attempts.attempt = jobs.attempt WHERE id = ?
"""


# --- for pages ----------------------------------------------------------------------------------------------


def columns(
    db: sqlite3.Connection, kind: str, begin: int, step: int, count: int, now: float
) -> dict[str, list[Counts]]:
    """Return the counts of each queue or name in `count` columns of `step` seconds from `begin` on.

    What is running has taken its slots until now.
    """
    found: defaultdict[str, list[Counts]] = defaultdict(lambda: [Counts() for _ in range(count)])
    end = begin + step * count
    cursor = plain_cursor(db)
    with transaction(db, "DEFERRED"):
        for seconds, _ in LEVELS:
            for at, subject, packed in cursor.execute(_READ_KIND, (seconds, begin, end - 1, kind)):
                found[subject][(at - begin) // step].add(_decode(packed))
        active = [row for state in ACTIVE for row in cursor.execute(_ACTIVE, (state.value, MAX_ACTIVE))]
    for queue, name, slots, began_at in active:
        of_subject = found[queue if kind == QUEUE else name or OTHER]
        for place, counts in enumerate(of_subject):
            from_ = begin + place * step
            counts.slot_seconds += slots * max(min(from_ + step, now) - max(from_, began_at), 0.0)
    return dict(found)


_READ_KIND = """
    SELECT at, subject, counts FROM activity WHERE seconds = ? AND at BETWEEN ? AND ? AND kind = ?
"""
_ACTIVE = """
    SELECT queue, name, iif(slot = 0, 0, slots), coalesce(attempts.started_at, launched_at)
    FROM jobs INDEXED BY jobs_by_state
    JOIN attempts ON attempts.job = jobs.id AND attempts.attempt = jobs.attempt WHERE state = ? LIMIT ?
"""


def ends(db: sqlite3.Connection) -> list[tuple[int, int]]:
    """Return how many jobs ended in each hour of the last day, oldest first, and how many of these failed."""
    minute = int(time.time()) // MINUTE * MINUTE + MINUTE
    hours = [(0, 0)] * HOURS_OF_ENDS
    for seconds, _ in LEVELS[:2]:
        for at, _, packed in plain_cursor(db).execute(
            _READ_KIND, (seconds, minute - HOURS_OF_ENDS * HOUR, minute - 1, QUEUE)
        ):
            finished = _decode(packed).finished
            ago = (minute - at - 1) // HOUR
            before, failed_before = hours[-1 - ago]
            hours[-1 - ago] = before + sum(finished.values()), failed_before + finished.get(State.FAILED, 0)
    return hours
