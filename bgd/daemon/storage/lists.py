"""Find the jobs that a list shows: at once where an index leaves few, otherwise slice by slice."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from bgd.core.job import FINAL, Job, JobId, Outcome, State, Verb
from bgd.core.retry import SIGNALLED, exit_code_of
from bgd.core.spec import DEFAULT_QUEUE, NOTIFICATION_QUEUE
from bgd.daemon.storage.database import plain_cursor, rows_of, transaction
from bgd.daemon.storage.records import unpack_spec
from bgd.wire.requests import List, Selection

_MAX_ID = 2**63 - 1  # the largest integer of SQLite
_FEW = 10_000  # jobs that are read one by one; 10 ms

ALL_STATES = tuple(State)

# A list without states shows, up to its limit, what runs before what waits before what has finished
_BY_INTEREST: tuple[tuple[State, ...], ...] = (
    (State.RUNNING, State.STOPPING),
    (State.QUEUED, State.SCHEDULED, State.BLOCKED, State.HELD),
    (State.SUCCEEDED, State.FAILED, State.CANCELLED),
)


class Filter(Struct, frozen=True, kw_only=True):
    """Which jobs are wanted: those that have all that is not None or empty.

    * `suspended`: of the running ones, only those that are suspended, or only the others.
    * `but_queue`: only those of other queues.
    * `name`: a shell's pattern for the whole name. `target`: one for the target of a class job, in which `:`
      and `.` are alike; without the method it stands for all of them.
    * `exit_code`: of a finished job, as `exit_code_of` counts.
    * `texts`: each stands in the name, or in the command with its words separated by spaces.
    """

    states: tuple[State, ...] = ALL_STATES
    suspended: bool | None = None
    queue: str | None = None
    but_queue: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    uid: int | None = None
    priority: int | None = None
    exit_code: int | None = None
    target: str | None = None
    texts: tuple[str, ...] = ()

    def has(self, job: Job) -> bool:
        """Tell whether a job that was selected is still in one of the wanted states."""
        is_other = job.state is State.RUNNING and self.suspended not in {None, job.suspended}
        return job.state in self.states and not is_other


def selected_by(where: Selection, verb: Verb) -> Filter:
    """Return the filter for those of the selected jobs that a verb applies to."""
    states = verb.states & set(verb.usual or verb.states if where.states is None else where.states)
    if verb.suspended is not None and where.suspended is not None and verb.suspended != where.suspended:
        states -= {State.RUNNING}
    suspended = where.suspended if verb.suspended is None else verb.suspended
    return but_notifications(replace(_filter_of(where), states=tuple(states), suspended=suspended))


def but_notifications(wanted: Filter) -> Filter:
    """Leave out bgd's own jobs, for actions on all that match, unless the filter names their queue."""
    return replace(wanted, but_queue=NOTIFICATION_QUEUE if wanted.queue is None else None)


def _filter_of(where: Selection | List) -> Filter:
    tags = () if where.tag is None else (where.tag,)
    return Filter(queue=where.queue, name=where.name, tags=tags, since=where.since, until=where.until)


def select_ids(db: sqlite3.Connection, query: List, uid: int | None) -> list[JobId]:
    """Return the newest jobs that the query selects, newest first.

    `uid` is that of the user who asks, for queries of only their own jobs. If the query names no states,
    return what runs, then what waits, then what has finished, up to its limit.

    It reads by the index that leaves the fewest jobs: few in a queue, with a tag, or whose names begin alike
    are found at once. Otherwise it takes up to 0.1 s for each million jobs in these states, and 0.2 s if very
    many have the tag.
    """
    groups: tuple[tuple[State, ...], ...] = _BY_INTEREST
    if query.states is not None:
        groups = (tuple(dict.fromkeys(query.states)),)
    elif query.before is not None:  # by id alone, so that pages leave nothing out
        groups = (ALL_STATES,)
    search = _Search(db, replace(_filter_of(query), uid=uid if query.mine else None))
    highest = _MAX_ID if query.before is None else query.before - 1
    ids: list[JobId] = []
    for states in groups:
        if left := query.limit - len(ids):
            found = search.ids(search.sources(states), left, highest=highest)
            ids += sorted(found, reverse=True)[:left]
    return sorted(ids, reverse=True)


def next_slice(
    db: sqlite3.Connection,
    wanted: Filter,
    start: int | None,
    limit: int,
    rows: int,
    *,
    ascending: bool = False,
) -> tuple[list[JobId], int | None]:
    """Return up to `limit` of the wanted jobs, looking at about `rows` jobs, or at _FEW by an index.

    Also return the id after which the rest of the list begins; None: there is no rest.

    They come newest first, from below the id `start` on; None: from the newest on. If `ascending`, they come
    oldest first, from above `start` on.
    """
    with transaction(db, "DEFERRED"):
        search = _Search(db, wanted)
        sources = search.sources(wanted.states)
        lowest = _first_since(db, wanted.since)
        highest = _MAX_ID if wanted.until is None else _first_since(db, wanted.until) - 1
        if start is not None:
            lowest, highest = (
                (max(lowest, start + 1), highest) if ascending else (lowest, min(highest, start - 1))
            )
        end = search.end_of_slice(sources, lowest, highest, rows, ascending=ascending)
        if end is not None:
            lowest, highest = (lowest, end) if ascending else (end, highest)
        found = search.ids(sources, limit, lowest, highest, ascending=ascending)
    ids = sorted(found, reverse=not ascending)[:limit]
    return ids, ids[-1] if len(ids) == limit else end


def count_few(db: sqlite3.Connection, wanted: Filter) -> dict[State, int] | None:
    """Return how many wanted jobs there are in each state; None if no index leaves only a few jobs."""
    with transaction(db, "DEFERRED"):
        search = _Search(db, wanted)
        lowest = _first_since(db, wanted.since)
        sources = search.sources(wanted.states)
        if not all(source.has_few for source in sources):
            return None
        return Counter(state for source in sources for _, state in search.jobs(source, lowest))


def in_order(db: sqlite3.Connection, job_ids: Sequence[JobId], column: str) -> list[JobId]:
    """Return those of these jobs that exist, the highest values of a column first, then the lowest ids."""
    with transaction(db, "DEFERRED"):
        sql = f"SELECT id, ifnull({column}, 0) FROM jobs WHERE id IN"  # noqa: S608 (constants)
        values: dict[JobId, float] = dict(rows_of(db, sql, job_ids))
    return sorted(values, key=lambda job_id: (-values[job_id], job_id))


def last_finished(db: sqlite3.Connection, states: Sequence[State], limit: int) -> list[JobId]:
    """Return the jobs in these final states that finished last, the last one first."""
    found = [
        row
        for state in states
        for row in db.execute(
            "SELECT aged_from, id FROM jobs INDEXED BY jobs_by_end WHERE aged_from IS NOT NULL AND state = ?"
            " ORDER BY aged_from DESC, id DESC LIMIT ?",
            (state, limit),
        )
    ]
    return [JobId(job) for _, job in sorted(map(tuple, found), reverse=True)[:limit]]


def distinct(db: sqlite3.Connection, what: str, beginning: str = "", limit: int = _MAX_ID) -> list[str]:
    """Return the first few names, tags or queues that begin so, in order, without the default queue.

    Each is found by a look-up in an index, however many jobs have it.
    """
    column, rows = DISTINCT[what]
    found: list[str] = []
    while len(found) < limit:
        bound, last = (">", found[-1]) if found else (">=", beginning)
        sql = f"SELECT {column} FROM {rows} AND {column} {bound} ? ORDER BY {column} LIMIT 1"  # noqa: S608 (constants)
        row = db.execute(sql, (last,)).fetchone()
        if row is None or not row[0].startswith(beginning):
            break
        found.append(row[0])
    return found


DISTINCT = {  # what can be listed without its repetitions: its column, and the rows with the index to read by
    "name": ("name", "jobs INDEXED BY jobs_by_name WHERE name IS NOT NULL"),
    "tag": ("tag", "tags WHERE TRUE"),
    "queue": ("queue", f"jobs INDEXED BY jobs_by_queue WHERE queue <> '{DEFAULT_QUEUE}'"),
}


def _first_since(db: sqlite3.Connection, since: float | None) -> int:
    """Return the id of the first job that was submitted at or after this instant; 0 for None.

    It takes later jobs to have later times. After the wall clock was set back, some of the jobs submitted
    around then are passed over.
    """
    if since is None:
        return 0
    (end,) = db.execute("SELECT ifnull(max(id), 0) + 1 FROM jobs").fetchone()
    first = 0
    while first < end:
        middle = (first + end) // 2
        found = db.execute(
            "SELECT id, created_at FROM jobs WHERE id BETWEEN ? AND ? ORDER BY id LIMIT 1", (middle, end - 1)
        ).fetchone()
        if found is None or found[1] >= since:
            end = middle
        else:
            first = found[0] + 1
    return int(first)


# --- how they are found


class _Source(Struct, frozen=True):
    """A table with the index to read it by, up to its condition, and the states of the jobs that are read.

    `has_few`: it leaves so few jobs that all of them can be looked at.
    """

    rows: str
    states: tuple[State, ...]
    has_few: bool


class _Search:
    """Finds the jobs that a Filter wants, except that callers choose the states."""

    def __init__(self, db: sqlite3.Connection, wanted: Filter) -> None:
        self._db = db
        self._wanted = wanted
        from_name, to_name = _name_range(wanted.name or "")
        pieces = _pieces_of_spec(wanted)
        self._values: dict[str, object] = {
            "from_name": from_name,
            "to_name": to_name,
            "name": None if wanted.name is None else _glob(wanted.name),
            "signal": None if wanted.exit_code is None else wanted.exit_code - SIGNALLED,
            **{name: getattr(wanted, name) for name in _COMPARED},
            **{f"tag{number}": tag for number, tag in enumerate(wanted.tags)},
            **{f"piece{number}": piece for number, piece in enumerate(pieces)},
        }
        self._conditions = _conditions(wanted, len(pieces))
        self._reads_specs = bool(wanted.texts or wanted.target)

    def sources(self, states: Sequence[State]) -> list[_Source]:
        """Return what to read: by tag, name or queue if that leaves few jobs, otherwise by state.

        Many jobs of a queue are found sooner among all jobs of their state, which needs a single index.
        """
        if (code := self._wanted.exit_code) is not None:
            states = [each for each in states if each in FINAL and (each is State.SUCCEEDED) == (code == 0)]
        states = tuple(states)
        if not states:
            return []
        for number in range(len(self._wanted.tags)):
            tagged = f"tags WHERE tags.tag = :tag{number}"
            if self._are_few(tagged):
                return [_Source(_BY_TAG.format(number=number), states, has_few=True)]
        if self._values["from_name"]:
            named = _BY_ONE_NAME if self._values["from_name"] == self._values["to_name"] else _BY_NAME
            if self._are_few(named):
                return [_Source(named, states, has_few=True)]
        if self._wanted.queue in {None, DEFAULT_QUEUE}:
            return [_Source(_BY_STATE, (state,), has_few=False) for state in states]
        return [
            _Source(_BY_QUEUE, (state,), has_few=True)
            if self._are_few(f"{_BY_QUEUE} AND {_in((state,))}")
            else _Source(_BY_STATE, (state,), has_few=False)
            for state in states
        ]

    def end_of_slice(
        self, sources: Sequence[_Source], lowest: int, highest: int, rows: int, *, ascending: bool
    ) -> int | None:
        """Return the id up to which about this many jobs lie in this range of ids; None if there are fewer.

        The range is walked from its highest id down, or up if `ascending`.
        """
        large = [source for source in sources if not source.has_few]
        values = self._values | {"lowest": lowest, "highest": highest, "rows": rows // max(len(large), 1)}
        order = "ASC" if ascending else "DESC"
        found = (
            self._db.execute(
                f"SELECT id FROM {source.rows} AND {_in(source.states)} AND {_IN_RANGE}"  # noqa: S608 (constants)
                f" ORDER BY id {order} LIMIT 1 OFFSET :rows",
                values,
            ).fetchone()
            for source in large
        )
        ends = [row[0] for row in found if row is not None]
        return None if not ends else min(ends) if ascending else max(ends)

    def ids(
        self,
        sources: Sequence[_Source],
        limit: int,
        lowest: int = 0,
        highest: int = _MAX_ID,
        *,
        ascending: bool = False,
    ) -> list[JobId]:
        """Return the newest wanted jobs of each source in a range of ids, or the oldest: `limit` of each."""
        return [
            JobId(row[0])
            for source in sources
            for row in self._rows(source, limit, lowest, highest, ascending=ascending)
        ]

    def jobs(self, source: _Source, lowest: int) -> Iterator[tuple[JobId, State]]:
        """Yield the wanted jobs of a source from an id on, with their states."""
        for row in self._rows(source, None, lowest):
            yield JobId(row[0]), State(row[1])

    def _rows(
        self,
        source: _Source,
        limit: int | None,
        lowest: int,
        highest: int = _MAX_ID,
        *,
        ascending: bool = False,
    ) -> Iterator[Any]:
        """Yield the id and the state of the wanted jobs of a source; as in `ids`."""
        conditions = " AND ".join([_in(source.states), _IN_RANGE, *self._conditions])
        columns = f"id, state, {_SPEC}" if self._reads_specs else "id, state"
        order = "ASC" if ascending else "DESC"
        rows = self._db.execute(
            f"SELECT {columns} FROM {source.rows} AND {conditions} ORDER BY id {order}",  # noqa: S608 (likewise)
            self._values | {"lowest": lowest, "highest": highest},
        )
        matching = (row for row in rows if _matches(self._wanted, row[2])) if self._reads_specs else rows
        return islice(matching, limit)

    def _are_few(self, rows: str) -> bool:
        counted = f"SELECT count(*) FROM (SELECT 1 FROM {rows} LIMIT {_FEW + 1})"  # noqa: S608 (constants)
        (found,) = self._db.execute(counted, self._values).fetchone()
        return bool(found <= _FEW)


_COMPARED = ("queue", "but_queue", "uid", "suspended", "since", "until", "priority", "exit_code")


def _conditions(wanted: Filter, pieces: int) -> list[str]:
    conditions = {
        "queue": "queue = :queue",
        "but_queue": "queue <> :but_queue",
        "uid": "uid = :uid",
        "suspended": "(state <> 'running' OR suspended = :suspended)",
        "name": "name GLOB :name",
        "since": "created_at >= :since",
        "until": "created_at < :until",
        "priority": "priority = :priority",
        "exit_code": _exit_condition(wanted.exit_code),
    }
    return [
        *(condition for name, condition in conditions.items() if getattr(wanted, name) is not None),
        *(
            f"EXISTS (SELECT 1 FROM tags WHERE tag = :tag{number} AND job = jobs.id)"  # noqa: S608 (constants)
            for number in range(len(wanted.tags))
        ),
        *(f"instr({_SPEC}, :piece{number})" for number in range(pieces)),
    ]


def _exit_condition(code: int | None) -> str:
    """Return the condition for what `exit_code_of` counts as this code."""
    alike = [
        outcome.value
        for outcome in Outcome
        if outcome not in {Outcome.EXIT, Outcome.SIGNAL} and exit_code_of(outcome, None, None) == code
    ]
    words = ", ".join(f"'{word}'" for word in alike)
    return (
        "(outcome = 'exit' AND exit_code = :exit_code OR outcome = 'signal' AND signal = :signal"
        f" OR outcome IN ({words}))"
    )


def _in(states: Sequence[State]) -> str:
    """Return the condition that a job is in one of these states; a single one allows the use of an index."""
    words = [f"'{state.value}'" for state in states]
    return f"state = {words[0]}" if len(words) == 1 else f"state IN ({', '.join(words)})"


# --- what stands in specs: SQLite finds the bytes, which leaves few jobs, and these are looked at


def _pieces_of_spec(wanted: Filter) -> list[bytes]:
    """Return a few texts, as long as can be, that a packed spec has somewhere if it matches."""
    pieces = [piece for text in wanted.texts for piece in text.split(" ")]
    if wanted.target is not None:
        pieces += re.findall(r"\w+", _WILDCARD.split(wanted.target, maxsplit=1)[0])
    longest = sorted(filter(None, set(pieces)), key=len)[-_MAX_PIECES:]
    return [piece.encode(errors="replace") for piece in longest]


_MAX_PIECES = 3  # each is a walk through the spec


def _matches(wanted: Filter, packed: bytes) -> bool:
    spec = unpack_spec(packed)
    if wanted.target is not None and not _is_like(spec.target or "", wanted.target):
        return False
    command = f"{spec.target} {spec.arguments or ''}" if spec.argv is None else " ".join(spec.argv)
    return all(text in command or text in (spec.name or "") for text in wanted.texts)


def _is_like(target: str, pattern: str) -> bool:
    target, pattern = (re.sub("[:@]+", ".", text) for text in (target, pattern))
    return fnmatchcase(target, pattern) or fnmatchcase(target, f"{pattern}.*")


# --- shell patterns


def _name_range(pattern: str) -> tuple[str, str]:
    """Return the first and the last name that a shell's pattern can match, as far as its beginning says."""
    beginning = _WILDCARD.split(pattern, maxsplit=1)[0]
    return beginning, beginning if beginning == pattern else f"{beginning}{_LAST_CHARACTER}"


def _glob(pattern: str) -> str:
    """Return a shell's pattern in SQLite's syntax: [^...] for [!...], and no unclosed bracket."""
    pieces: list[str] = []
    at = 0
    while at < len(pattern):
        end = -1
        if pattern[at] == "[":
            is_negated = pattern.startswith(("!", "^"), at + 1)
            first = at + 1 + is_negated
            end = pattern.find("]", first + 1)  # a bracket in the first place is a member of the set
            pieces.append("[[]" if end < 0 else f"[{'^' * is_negated}{pattern[first:end]}]")
        else:
            pieces.append(pattern[at])
        at = max(at, end) + 1
    return "".join(pieces)


_WILDCARD = re.compile(r"[*?[]")
_LAST_CHARACTER = "\U0010ffff"  # no name has it: it cannot be printed


# --- SQL

_IN_RANGE = "id BETWEEN :lowest AND :highest"  # one range: of two lower bounds SQLite may use the worse one
_SPEC = "(SELECT spec FROM specs WHERE job = jobs.id)"

# CROSS keeps SQLite from changing the order
_BY_TAG = "tags CROSS JOIN jobs ON jobs.id = tags.job WHERE tags.tag = :tag{number}"
_BY_NAME = "jobs INDEXED BY jobs_by_name WHERE name IS NOT NULL AND name BETWEEN :from_name AND :to_name"
_BY_ONE_NAME = (  # in the order of their ids
    "jobs INDEXED BY jobs_by_name WHERE name IS NOT NULL AND name = :from_name"
)
_BY_QUEUE = f"jobs INDEXED BY jobs_by_queue WHERE queue <> '{DEFAULT_QUEUE}' AND queue = :queue"
_BY_STATE = "jobs INDEXED BY jobs_by_state WHERE TRUE"


# --- attempts whose logs can be searched --------------------------------------------------------------------


class LoggedAttempt(Struct, frozen=True, kw_only=True):
    """An attempt that has, or may have, a log. `at` is when it ended or, if it runs, when it started."""

    job: int
    attempt: int
    name: str | None
    at: float | None
    outcome: Outcome | None
    exit_code: int | None
    signal: int | None


def logged_attempts(
    db: sqlite3.Connection, before: tuple[int, int], limit: int
) -> tuple[list[LoggedAttempt], tuple[int, int] | None]:
    """Look at `limit` attempts before a job's attempt, newest first.

    Return those that may have a log, and before which attempt to go on; None after the oldest one.
    """
    rows = plain_cursor(db).execute(_LOGGED, (*before, limit)).fetchall()
    found = [
        LoggedAttempt(
            job=job,
            attempt=attempt,
            name=name,
            at=at,
            outcome=None if outcome is None else Outcome(outcome),
            exit_code=exit_code,
            signal=signal,
        )
        for job, attempt, log_bytes, name, at, outcome, exit_code, signal in rows
        if log_bytes != 0
    ]
    return found, (rows[-1][0], rows[-1][1]) if len(rows) == limit else None


_LOGGED = """
    SELECT attempts.job, attempts.attempt, log_bytes, name,
           coalesce(attempts.finished_at, attempts.started_at),
           attempts.outcome, attempts.exit_code, attempts.signal
    FROM attempts CROSS JOIN jobs ON jobs.id = attempts.job
    WHERE (attempts.job, attempts.attempt) < (?, ?) ORDER BY attempts.job DESC, attempts.attempt DESC LIMIT ?
"""
