"""Sum up many jobs, each time with a bounded number of reads: all of them, by name and by queue."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import islice, takewhile
from math import ceil, inf

from msgspec import Struct, convert
from msgspec.structs import replace

from bgd.core.job import ACTIVE, WAITING, Outcome, State
from bgd.core.spec import DEFAULT_QUEUE, NOTIFICATION_QUEUE
from bgd.daemon.storage import change_stream, lists
from bgd.daemon.storage.database import plain_cursor, transaction
from bgd.daemon.storage.records import unpack_spec
from bgd.system import clock
from bgd.wire.replies import Stats
from bgd.wire.requests import GetStats
from bgd.wire.views import GroupStats, JobView

MAX_NAMES = 200  # summed up; those that were submitted last
RUNS = 50  # of a name, the latest that have finished
RECENT = 30  # of these runs, which are shown one by one
MAX_WAITING = 450  # jobs of a name that wait before its latest run
MAX_DISTINCT = 2_000  # names that are looked at to find these
NEWEST_JOBS = 2_000  # jobs whose names, or targets if they have none, are looked at besides
MAX_RUNNING = 100  # jobs whose ends are estimated
MAX_UNFINISHED = 10_000  # jobs of a state that are counted by name
MAX_FAILED = 1_000  # jobs that are grouped by what went wrong, those that failed last
MAX_FAILURES = 20  # groups
MAX_ENDS = 10_000  # jobs that succeeded, and that failed, which are counted by queue
MAX_RUNS = 500  # of an hour, the latest to end
_HOUR, _DAY = 3_600.0, 86_400.0
_MAX_TIMED = 10_000  # the newest attempts, for statistics; reading these takes 20 ms


# --- by name ------------------------------------------------------------------------------------------------


class Run(Struct, frozen=True, array_like=True):
    """How a job ended, at the epoch time `at`; `seconds` are those of its latest attempt.

    Of a job that has not finished, `at` is when its latest attempt began, or when it was submitted.
    """

    job: int
    state: State
    at: float
    seconds: float | None
    outcome: Outcome | None = None
    exit_code: int | None = None
    signal: int | None = None


class NameSummary(Struct, frozen=True, kw_only=True):
    """Jobs of one name, or class jobs of one target that have no name.

    `succeeded`, `failed`: the latest of each kind among the latest RUNS. `streak`: failures since the last
    success, or more if it `may_be_longer`; `streak_from` is the first of them. `median`: of the seconds of
    these runs. `recent`: the newest of them, newest first.
    """

    name: str
    is_target: bool
    latest: int
    succeeded: Run | None
    failed: Run | None
    streak: int
    streak_from: int | None
    may_be_longer: bool
    runs: int
    median: float | None
    last_seconds: float | None
    running: int
    waiting: int
    recent: list[Run]


class Board(Struct, frozen=True):
    """The names whose jobs were submitted last; bgd's own jobs are left out, as in lists.

    `left_out`: how many more names there are, or at least how many if `has_more`. `is_cut`: there were too
    many unfinished jobs to count all those of each name; `targets_are_cut`: those of each target.
    """

    names: list[NameSummary]
    left_out: int
    has_more: bool
    is_cut: bool
    targets_are_cut: bool


def board(db: sqlite3.Connection) -> Board:
    """Return what is known of the names in use."""
    cursor = plain_cursor(db)
    with transaction(db, "DEFERRED"):
        newest = cursor.execute(_NEWEST, (NEWEST_JOBS + 1,)).fetchall()
        latest, targets = _newest_names(cursor, newest[:NEWEST_JOBS])
        named: dict[str, int] = dict(cursor.execute(_NAMES, (MAX_DISTINCT + 1,)))
        has_more = len(named) > MAX_DISTINCT
        subjects: list[tuple[int, str, list[tuple[int, State]] | None]] = [
            (job, name, None) for name, job in (named | latest).items() if job is not None
        ]
        subjects += [(jobs[0][0], target, jobs) for target, jobs in targets.items()]
        subjects.sort(key=lambda subject: -subject[0])
        unfinished, is_cut = _unfinished(cursor)
        names = [_summary(cursor, *subject, unfinished) for subject in subjects[:MAX_NAMES]]
    names.sort(key=lambda summary: (summary.streak == 0, summary.name, summary.is_target))
    left_out, targets_are_cut = max(len(subjects) - MAX_NAMES, 0), len(newest) > NEWEST_JOBS
    return Board(names, left_out, has_more, is_cut, targets_are_cut)


def _newest_names(
    cursor: sqlite3.Cursor, newest: list[tuple[int, str | None, str]]
) -> tuple[dict[str, int], dict[str, list[tuple[int, State]]]]:
    """Return the newest job of each name, and the jobs of unnamed targets with their states."""
    names: dict[str, int] = {}
    targets: defaultdict[str, list[tuple[int, State]]] = defaultdict(list)
    for job, name, state in newest:
        if name is not None:
            names.setdefault(name, job)
            continue
        (spec,) = cursor.execute("SELECT spec FROM specs WHERE job = ?", (job,)).fetchone()
        if (target := unpack_spec(spec).target) is not None:
            targets[target].append((job, State(state)))
    return names, targets


def _unfinished(cursor: sqlite3.Cursor) -> tuple[dict[str, Counter[str]], bool]:
    """Return how many jobs of each name are in which unfinished state, and whether some were not counted."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    is_cut = False
    for state in ACTIVE | WAITING:
        looked_at = 0
        for name, jobs in cursor.execute(_COUNT_NAMES, (state.value, MAX_UNFINISHED)):
            looked_at += jobs
            if name is not None:
                counts[name][state] += jobs
        is_cut |= looked_at == MAX_UNFINISHED
    return counts, is_cut


def _summary(
    cursor: sqlite3.Cursor,
    latest: int,
    name: str,
    jobs: list[tuple[int, State]] | None,
    unfinished: dict[str, Counter[str]],
) -> NameSummary:
    if jobs is None:
        states = unfinished.get(name, Counter())
        most = RUNS + min(states.total(), MAX_WAITING)
        rows = cursor.execute(_RUNS_OF_NAME, (name, most)).fetchall()
    else:
        states, most = Counter(state for _, state in jobs), RUNS
        ended = [job for job, state in jobs if state in _ENDS]
        rows = [row for job in ended[:RUNS] for row in cursor.execute(_RUN, (job,))]
    runs = [run for run in convert(rows, list[Run]) if run.state in _ENDS][:RUNS]
    times = sorted(run.seconds for run in runs if run.seconds is not None)
    streak = list(takewhile(lambda run: run.state is not State.SUCCEEDED, runs))
    return NameSummary(
        name=name,
        is_target=jobs is not None,
        latest=latest,
        succeeded=_first(runs, State.SUCCEEDED),
        failed=_first(runs, State.FAILED),
        streak=len(streak),
        streak_from=streak[-1].job if streak else None,
        may_be_longer=len(streak) == len(runs) and len(rows) == most,
        runs=len(runs),
        median=_percentile(times, 0.5),
        last_seconds=runs[0].seconds if runs else None,
        running=sum(states[state] for state in ACTIVE),
        waiting=sum(states[state] for state in WAITING),
        recent=runs[:RECENT],
    )


def runs_of_schedules(db: sqlite3.Connection, names: Iterable[str], most: int) -> dict[str, list[Run]]:
    """Return the latest jobs of schedules that are still there, newest first, whether they run or not."""
    cursor = plain_cursor(db)
    return {name: convert(list(cursor.execute(_RUNS_OF_SCHEDULE, (name, most))), list[Run]) for name in names}


def _first(runs: Iterable[Run], state: State) -> Run | None:
    return next((run for run in runs if run.state is state), None)


_ENDS = {State.SUCCEEDED, State.FAILED}  # of runs; a cancel says nothing about the run

_NOT_OWN = f"queue <> '{NOTIFICATION_QUEUE}'"  # not bgd's own jobs

# From one name to the next without reading the jobs in between
_NAMES = f"""
    WITH RECURSIVE names(name) AS (
        SELECT min(name) FROM jobs INDEXED BY jobs_by_name WHERE name IS NOT NULL
        UNION ALL
        SELECT (SELECT min(name) FROM jobs INDEXED BY jobs_by_name WHERE name > names.name)
        FROM names WHERE names.name IS NOT NULL
    )
    SELECT name, (
        SELECT iif({_NOT_OWN}, id, NULL) FROM jobs INDEXED BY jobs_by_name
        WHERE jobs.name = names.name ORDER BY id DESC LIMIT 1
    )
    FROM names WHERE name IS NOT NULL LIMIT ?
"""  # noqa: S608 (constants)

_NEWEST = f"SELECT id, name, state FROM jobs WHERE {_NOT_OWN} ORDER BY id DESC LIMIT ?"  # noqa: S608 (constants)

_COUNT_NAMES = f"""
    SELECT name, count(*) FROM (
        SELECT name FROM jobs INDEXED BY jobs_by_state WHERE state = ? AND {_NOT_OWN} LIMIT ?
    ) GROUP BY name
"""  # noqa: S608 (constants)

_RUN_COLUMNS = """
    jobs.id, state, coalesce(jobs.finished_at, jobs.started_at, created_at), run_seconds, jobs.outcome,
    jobs.exit_code, jobs.signal
"""
_LATEST_ATTEMPT = "LEFT JOIN attempts ON attempts.job = jobs.id AND attempts.attempt = jobs.attempt"

_RUNS_OF_NAME = f"""
    SELECT {_RUN_COLUMNS} FROM jobs INDEXED BY jobs_by_name {_LATEST_ATTEMPT}
    WHERE name = ? AND {_NOT_OWN} ORDER BY id DESC LIMIT ?
"""  # noqa: S608 (constants)

_RUNS_OF_SCHEDULE = f"""
    SELECT {_RUN_COLUMNS} FROM occurrences INDEXED BY occurrences_by_job
    JOIN jobs ON jobs.id = occurrences.job {_LATEST_ATTEMPT}
    WHERE occurrences.schedule = ? AND occurrences.job IS NOT NULL ORDER BY occurrences.job DESC LIMIT ?
"""  # noqa: S608 (constants)

_RUN = f"SELECT {_RUN_COLUMNS} FROM jobs {_LATEST_ATTEMPT} WHERE id = ?"  # noqa: S608 (constants)


# --- how long they will likely take -------------------------------------------------------------------------


def likely_ends(
    db: sqlite3.Connection, name: str | None, queue: str | None
) -> tuple[float | None, list[tuple[int, float | None]]]:
    """Return how long a job of this name takes, and when the jobs that run in a queue will likely end.

    `queue` None: those in all queues that take slots of the daemon. The end of a running job without a name,
    or of a new name, is unknown; a suspended one takes forever. With more than MAX_RUNNING jobs all is.
    """
    cursor = plain_cursor(db)
    with transaction(db, "DEFERRED"):
        running = [
            row
            for state in ACTIVE
            for row in cursor.execute(_RUNNING, (state.value, queue, queue, MAX_RUNNING))
        ]
        if len(running) >= MAX_RUNNING:
            return None, [(1, None)]
        names = {name, *(name for name, *_ in running)} - {None}
        seconds = {each: _median_of(cursor, each) for each in names}
    ends = (
        (slots, inf if suspended else seconds.get(each), started_at)
        for each, started_at, slots, suspended in running
    )
    return seconds.get(name), [
        (slots, None if took is None else started_at + took) for slots, took, started_at in ends
    ]


def _median_of(cursor: sqlite3.Cursor, name: str) -> float | None:
    """Return how long jobs of a name ran; None: none that succeeded is among the latest."""
    times = _times(cursor, _SECONDS_OF_NAME, name) or _times(cursor, _SECONDS_OF_LATEST, name)
    return _percentile(times, 0.5)


def _times(cursor: sqlite3.Cursor, sql: str, name: str) -> list[float]:
    rows = cursor.execute(sql, (name, MAX_WAITING)).fetchall()
    return sorted(seconds for (seconds,) in rows[:RUNS])


_RUNNING = f"""
    SELECT name, coalesce(attempts.started_at, launched_at), slots, suspended
    FROM jobs INDEXED BY jobs_by_state {_LATEST_ATTEMPT}
    WHERE state = ? AND iif(? IS NULL, ifnull(slot, 1) > 0, queue = ?) LIMIT ?
"""  # noqa: S608 (constants)

# The newest jobs of a large batch all wait: then those that ended last may have its name
_SECONDS_OF_NAME = """
    SELECT run_seconds FROM (
        SELECT id, attempt, state FROM jobs INDEXED BY jobs_by_name WHERE name = ? ORDER BY id DESC LIMIT ?
    ) AS latest JOIN attempts ON attempts.job = latest.id AND attempts.attempt = latest.attempt
    WHERE latest.state = 'succeeded' AND run_seconds IS NOT NULL
"""
_SECONDS_OF_LATEST = """
    SELECT run_seconds FROM (
        SELECT id, attempt, name FROM jobs INDEXED BY jobs_by_end
        WHERE state = 'succeeded' AND aged_from IS NOT NULL ORDER BY aged_from DESC LIMIT ?2
    ) AS latest JOIN attempts ON attempts.job = latest.id AND attempts.attempt = latest.attempt
    WHERE latest.name = ?1 AND run_seconds IS NOT NULL
"""


# --- what is slower than usual ------------------------------------------------------------------------------

LEAST_RUNS = 10  # of a name, below which nothing is usual
USUAL_SHARE = 0.95
USUAL_SECONDS = 10.0  # for which a figure stays as it was computed
MAX_USUAL = 4096  # names whose figures are kept
MAX_COMPUTED = 100  # figures that one list computes, a millisecond each at most


class UsualTimes:
    """How long jobs of each name usually take at most. It belongs to one connection."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, list[float]]] = {}  # until when, and the times in order

    def add_to(self, db: sqlite3.Connection, views: list[JobView]) -> list[JobView]:
        """Return the views, with `usual_seconds` for those that run or ran and have a name."""
        cursor, now = plain_cursor(db), clock.elapsed()
        left = MAX_COMPUTED
        found: list[JobView] = []
        for view in views:
            usual = None
            if view.name is not None and view.run_seconds is not None and view.state not in WAITING:
                until, times = self._known.get(view.name, (0.0, []))
                if until < now and left:
                    left -= 1
                    times = _times(cursor, _SECONDS_OF_NAME, view.name)
                    if len(self._known) >= MAX_USUAL:
                        self._known.clear()
                    self._known[view.name] = now + USUAL_SECONDS, times
                usual = _usual_beside(times, view)
            found.append(view if usual is None else replace(view, usual_seconds=usual))
        return found


def _usual_beside(times: list[float], view: JobView) -> float | None:
    """Return how long the others took at most, but for one in twenty; None if they are few."""
    others = list(times)
    if view.state is State.SUCCEEDED and view.run_seconds in others:
        others.remove(view.run_seconds)
    return _percentile(others, USUAL_SHARE) if len(others) >= LEAST_RUNS else None


# --- what ran when ------------------------------------------------------------------------------------------


class SlotRun(Struct, frozen=True, array_like=True):
    """An attempt that took a slot; times are epoch times, and without an end it goes on."""

    job: int
    name: str | None
    slot: int
    began_at: float
    ended_at: float | None
    outcome: Outcome | None


def runs_since(db: sqlite3.Connection, at: float) -> list[SlotRun]:
    """Return the attempts that run, and the latest ones that have ended since then."""
    cursor = plain_cursor(db)
    with transaction(db, "DEFERRED"):
        events = takewhile(lambda event: event.at >= at, change_stream.latest_events(db))
        ended = ((event.job, event.attempt) for event in events if event.outcome is not None)
        rows = [row for key in islice(ended, MAX_RUNS) for row in cursor.execute(_SLOT_RUN, key)]
        for state in ACTIVE:
            rows += cursor.execute(_SLOT_RUNS_NOW, (state.value, MAX_RUNS))
    return [convert(row, SlotRun) for row in rows]


_SLOT_COLUMNS = (
    "id, name, slot, coalesce(attempts.started_at, launched_at), attempts.finished_at, attempts.outcome"
)
_SLOT_RUN = f"""
    SELECT {_SLOT_COLUMNS} FROM attempts JOIN jobs ON jobs.id = attempts.job
    WHERE attempts.job = ? AND attempts.attempt = ?
"""  # noqa: S608 (constants)
_SLOT_RUNS_NOW = f"""
    SELECT {_SLOT_COLUMNS} FROM jobs INDEXED BY jobs_by_state {_LATEST_ATTEMPT} WHERE state = ? LIMIT ?
"""  # noqa: S608 (constants)


# --- all of them, and by queue ------------------------------------------------------------------------------

_FIRST_QUEUED = 10_000  # queued jobs among which the oldest one of the default queue is looked for


class Figures(Struct, frozen=True):
    """Jobs by state, when the oldest queued one was submitted, and the bytes of logs and of the database."""

    counts: dict[str, int]
    oldest_queued_at: float | None
    log_bytes: int
    database_bytes: int


def figures(db: sqlite3.Connection) -> Figures:
    """Return figures of all jobs."""
    cursor = plain_cursor(db)
    with transaction(db, "DEFERRED"):
        (logged,) = cursor.execute("SELECT logged FROM meta").fetchone()
        (pages,) = cursor.execute("PRAGMA page_count").fetchone()
        (page_size,) = cursor.execute("PRAGMA page_size").fetchone()
        return Figures(
            counts=counts(db),
            oldest_queued_at=_value(cursor.execute(_OLDEST_QUEUED)),
            log_bytes=logged,
            database_bytes=pages * page_size,
        )


class OldestQueued(Struct, frozen=True, array_like=True):
    """The oldest queued job of a queue, and when it was submitted."""

    job: int
    at: float


def oldest_queued(db: sqlite3.Connection) -> dict[str, OldestQueued]:
    """Return the oldest queued job of each queue that has any."""
    cursor = plain_cursor(db)
    rows = {queue: cursor.execute(_OLDEST_IN, (queue,)).fetchone() for queue in lists.distinct(db, "queue")}
    rows[DEFAULT_QUEUE] = cursor.execute(_OLDEST_OF_DEFAULT).fetchone()
    return {queue: OldestQueued(*row) for queue, row in rows.items() if row is not None}


def _value(cursor: sqlite3.Cursor) -> float | None:
    row = cursor.fetchone()
    return None if row is None else float(row[0])


def counts(db: sqlite3.Connection) -> dict[str, int]:
    """Return the number of jobs in each state."""
    rows = db.execute("SELECT key, jobs FROM counts WHERE key >= 'a'")  # keys of environments are numbers
    return {row["key"]: row["jobs"] for row in rows}


def counts_but_notifications(db: sqlite3.Connection) -> Counter[str]:
    """Return the number of jobs in each state without bgd's own, which take 1 ms for each 30,000."""
    with transaction(db, "DEFERRED"):
        return Counter(counts(db)) - Counter(dict(map(tuple, db.execute(_IN_QUEUE, (NOTIFICATION_QUEUE,)))))


_IN_QUEUE = """
    SELECT state, count(*) FROM jobs INDEXED BY jobs_by_queue WHERE queue <> 'default' AND queue = ?
    GROUP BY state
"""


def has_failed_within(db: sqlite3.Connection, seconds: float) -> bool:
    """Return whether a job failed in the last seconds, on retention's clock, and is still there."""
    return db.execute(_FAILED_SINCE, (clock.elapsed() - seconds,)).fetchone() is not None


class Failures(Struct, frozen=True, array_like=True):
    """Jobs of one name that failed alike, among the latest ones that failed in the last day.

    `error`: what class jobs raised, or why nothing started. `queue`: of bgd's own jobs. `newest` failed last,
    at the epoch time `at`.
    """

    name: str | None
    outcome: Outcome | None
    exit_code: int | None
    signal: int | None
    error: str | None
    queue: str | None
    jobs: int
    newest: int
    at: float


class FailuresOfDay(Struct, frozen=True):
    """What failed in the last day, the most frequent first.

    `left_out`: how many more groups there are. `is_cut`: more jobs failed than were looked at.
    """

    groups: list[Failures]
    left_out: int
    is_cut: bool


def failures(db: sqlite3.Connection) -> FailuresOfDay:
    """Return what failed in the last day."""
    rows = plain_cursor(db).execute(_FAILURES, (clock.elapsed() - _DAY, MAX_FAILED + 1))
    groups = [convert(row[:-1], Failures) for row in rows]
    is_cut = sum(group.jobs for group in groups) > MAX_FAILED
    return FailuresOfDay(groups[:MAX_FAILURES], max(len(groups) - MAX_FAILURES, 0), is_cut)


class Count(Struct, frozen=True):
    """How many jobs there are; `is_least`: or more, because not all were looked at."""

    jobs: int = 0
    is_least: bool = False

    def __str__(self) -> str:
        return f"{self.jobs:,}{'+' if self.is_least else ''}"

    def __add__(self, other: Count) -> Count:
        return Count(self.jobs + other.jobs, self.is_least or other.is_least)


class Finished(Struct, frozen=True):
    """How many jobs succeeded or failed in the last hour and day, and how many of these failed."""

    hour: Count
    hour_failed: Count
    day: Count
    day_failed: Count

    def __add__(self, other: Finished) -> Finished:
        return Finished(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))


class FinishedByQueue(Struct, frozen=True):
    """What ended in the queues in which anything did; `none`: in any other queue."""

    queues: dict[str, Finished]
    none: Finished

    def of(self, queue: str) -> Finished:
        """Return what ended in a queue."""
        return self.queues.get(queue, self.none)

    def in_all(self) -> Finished:
        """Return what ended in all queues, without bgd's own jobs."""
        return sum((self.of(queue) for queue in self.queues if queue != NOTIFICATION_QUEUE), self.none)


def finished(db: sqlite3.Connection) -> FinishedByQueue:
    """Return how many of the jobs that are still there ended in the last hour and day.

    It looks at the MAX_ENDS of each state that ended last, for 10 ms.
    """
    cursor, now = plain_cursor(db), clock.elapsed()
    rows_of_state: dict[State, list[tuple[str, int, int]]] = {
        state: cursor.execute(_ENDS_OF_STATE, (now - _HOUR, state, now - _DAY, MAX_ENDS + 1)).fetchall()
        for state in (State.SUCCEEDED, State.FAILED)
    }
    none = Finished(Count(), Count(), Count(), Count())
    for state, rows in rows_of_state.items():
        if sum(jobs for _, _, jobs in rows) > MAX_ENDS:
            is_hour, failed = all(row[1] for row in rows), state is State.FAILED
            none += Finished(*(Count(0, each) for each in (is_hour, is_hour and failed, True, failed)))
    queues: defaultdict[str, Finished] = defaultdict(lambda: none)
    for state, rows in rows_of_state.items():
        for queue, in_hour, jobs in rows:
            bad = jobs * (state is State.FAILED)
            queues[queue] += Finished(*map(Count, (jobs * in_hour, bad * in_hour, jobs, bad)))
    return FinishedByQueue(dict(queues), none)


def has_jobs_in(db: sqlite3.Connection, queue: str) -> bool:
    """Return whether any job, finished or not, is in this queue, which is not the default one."""
    sql = (
        f"SELECT 1 FROM jobs INDEXED BY jobs_by_queue WHERE queue = ? AND queue <> '{DEFAULT_QUEUE}' LIMIT 1"  # noqa: S608 (a constant)
    )
    return db.execute(sql, (queue,)).fetchone() is not None


def stats(db: sqlite3.Connection, request: GetStats, since: float) -> Stats:
    """Return statistics, of attempts those that ended since this epoch time, from the events on disk."""
    with transaction(db, "DEFERRED"):
        ended = [
            event
            for event in change_stream.latest_events(db)
            if event.outcome is not None and event.at >= since
        ]
        timed = [
            (event.outcome, *row)
            for event in ended[:_MAX_TIMED]
            for row in db.execute(_WAITS_AND_RUNS, (event.job, event.attempt))  # none if the job was removed
        ]
        by_state, oldest = counts(db), _value(db.execute(_OLDEST_QUEUED))
    waits = sorted(wait for _, wait, *_ in timed if wait is not None)
    runs = sorted(run for _, _, run, *_ in timed if run is not None)
    return Stats(
        id=request.id,
        window=request.window,
        counts=by_state,
        outcomes=Counter(event.outcome.value for event in ended if event.outcome is not None),
        wait_median=_percentile(waits, 0.5),
        wait_p95=_percentile(waits, 0.95),
        run_median=_percentile(runs, 0.5),
        run_p95=_percentile(runs, 0.95),
        oldest_queued_at=oldest,
        queues=_group_stats((queue, *times) for *times, queue, _ in timed),
        names=_group_stats((name, *times) for *times, _, name in timed if name is not None),
    )


def _group_stats(timed: Iterable[tuple[str, Outcome, float | None, float | None]]) -> list[GroupStats]:
    """Return figures of each group of attempts: their outcomes, and how long they waited and ran."""
    groups: defaultdict[str, list[tuple[Outcome, float | None, float | None]]] = defaultdict(list)
    for name, outcome, wait, run in timed:
        groups[name].append((outcome, wait, run))
    largest = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))[:_MAX_GROUPS]
    return [_stats_of(name, attempts) for name, attempts in largest]


def _stats_of(name: str, attempts: list[tuple[Outcome, float | None, float | None]]) -> GroupStats:
    runs = sorted(run for _, _, run in attempts if run is not None)
    return GroupStats(
        name=name,
        ended=len(attempts),
        failed=sum(outcome not in _NO_FAILURES for outcome, _, _ in attempts),
        wait_median=_percentile(sorted(wait for _, wait, _ in attempts if wait is not None), 0.5),
        run_median=_percentile(runs, 0.5),
        run_p95=_percentile(runs, 0.95),
    )


def _percentile(sorted_values: list[float], share: float) -> float | None:
    """Return the lowest value that at least this share of all values does not exceed."""
    return sorted_values[ceil(share * len(sorted_values)) - 1] if sorted_values else None


_MAX_GROUPS = 100
_NO_FAILURES = {Outcome.SUCCEEDED, Outcome.CANCELLED, Outcome.SNOOZED}

# of the jobs that ended alike, max() takes the row of the one that ended last
_FAILURES = f"""
    SELECT name, outcome, code, signal, nullif(error, ''), own, count(*), id, finished_at, max(aged_from)
    FROM (
        SELECT id, name, outcome, iif(outcome = 'exit', exit_code, NULL) AS code,
               iif(outcome = 'signal', signal, NULL) AS signal, {lists.ERROR} AS error,
               iif({_NOT_OWN}, NULL, queue) AS own, finished_at, aged_from
        FROM jobs INDEXED BY jobs_by_end
        WHERE state = 'failed' AND aged_from >= ? + (SELECT age_ahead FROM meta)
        ORDER BY aged_from DESC LIMIT ?
    ) GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 7 DESC, 10 DESC
"""  # noqa: S608 (constants)
_ENDS_OF_STATE = """
    SELECT queue, aged_from >= ? + (SELECT age_ahead FROM meta), count(*) FROM (
        SELECT queue, aged_from FROM jobs INDEXED BY jobs_by_end
        WHERE state = ? AND aged_from >= ? + (SELECT age_ahead FROM meta) ORDER BY aged_from DESC LIMIT ?
    ) GROUP BY 1, 2
"""
_FAILED_SINCE = """
    SELECT 1 FROM jobs INDEXED BY jobs_by_end
    WHERE state = 'failed' AND aged_from >= ? + (SELECT age_ahead FROM meta) LIMIT 1
"""

# The default queue is not in the index by queue: it has all jobs of a state except those in other queues
_OLDEST_IN = f"""
    SELECT id, created_at FROM jobs INDEXED BY jobs_by_queue
    WHERE queue <> '{DEFAULT_QUEUE}' AND queue = ? AND state = 'queued' ORDER BY id LIMIT 1
"""  # noqa: S608 (a constant)
_OLDEST_OF_DEFAULT = f"""
    SELECT id, created_at FROM (
        SELECT queue, id, created_at FROM jobs INDEXED BY jobs_by_state WHERE state = 'queued'
        ORDER BY id LIMIT {_FIRST_QUEUED}
    ) WHERE queue = '{DEFAULT_QUEUE}' LIMIT 1
"""  # noqa: S608 (constants)
_OLDEST_QUEUED = "SELECT created_at FROM jobs WHERE state = 'queued' ORDER BY id LIMIT 1"

_WAITS_AND_RUNS = """
    SELECT CASE attempts.attempt WHEN 1 THEN max(attempts.started_aged - jobs.created_aged, 0) END,
           attempts.run_seconds, jobs.queue, jobs.name
    FROM attempts JOIN jobs ON jobs.id = attempts.job
    WHERE attempts.job = ? AND attempts.attempt = ?
"""
