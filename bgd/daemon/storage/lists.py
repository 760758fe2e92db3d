"""Find the jobs that a list shows: at once where an index leaves few, otherwise slice by slice."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from itertools import islice, takewhile
from typing import Any

from msgspec import Struct, convert
from msgspec.structs import replace

from bgd.core.filters import (
    ALL_STATES,
    ESCAPED,
    MAX_ERROR,
    NO_OUTCOME,
    Filter,
    both,
    but_notifications,
    filter_of,
    parse_words,
)
from bgd.core.job import ACTIVE, FINAL, WAITING, JobId, Outcome, State, Verb
from bgd.core.retry import SIGNALLED, exit_code_of
from bgd.core.spec import DEFAULT_QUEUE, MAX_ID, NOTIFICATION_QUEUE, JobSpec
from bgd.daemon.storage.database import plain_cursor, rows_of, transaction
from bgd.daemon.storage.records import unpack_spec
from bgd.errors import Refused
from bgd.system import clock
from bgd.wire.requests import List, Selection

_FEW = 10_000  # jobs that are read one by one; 10 ms

# A list without states shows, up to its limit, what runs before what waits before what has finished
_BY_INTEREST = (ACTIVE, WAITING, FINAL)


def selected_by(where: Selection, verb: Verb, now: float) -> Filter:
    """Return the filter for those of the selected jobs that a verb applies to; raise as `asked_by`."""
    wanted = asked_by(where, now)
    states = verb.states_in(wanted.states) if where.states is None else verb.states & set(wanted.states)
    suspended = wanted.suspended if where.suspended is None else where.suspended
    if verb.suspended is not None and suspended is not None and verb.suspended != suspended:
        states -= {State.RUNNING}
    if verb.suspended:  # also the held ones that were
        states = verb.states if suspended else states
        return but_notifications(replace(wanted, states=tuple(states), suspended=None, may_continue=True))
    suspended = suspended if verb.suspended is None else verb.suspended
    return but_notifications(replace(wanted, states=tuple(states), suspended=suspended))


def asked_by(where: Selection | List, now: float, uid: int | None = None) -> Filter:
    """Return the filter of a request; its words count from `now`, and `mine` means the jobs of `uid`.

    Raises:
        Refused: the words cannot be understood.
    """
    given = Filter(
        states=ALL_STATES if where.states is None else tuple(dict.fromkeys(where.states)),
        queue=where.queue,
        name=where.name,
        tags=() if where.tag is None else (where.tag,),
        since=where.since,
        until=where.until,
        uid=uid if isinstance(where, List) and where.mine else None,
    )
    try:
        return both(given, filter_of(parse_words(where.words or ""), now))
    except ValueError as error:
        raise Refused(str(error)) from error


def select_ids(db: sqlite3.Connection, query: List, wanted: Filter) -> list[JobId]:
    """Return the newest jobs that the query selects, newest first; `wanted` is what it asks for.

    If the query names no states, return what runs, then what waits, then what has finished, up to its limit.

    It reads by the index that leaves the fewest jobs: few in a queue, with a tag, or whose names begin alike
    are found at once. Otherwise it takes up to 0.1 s for each million jobs in these states, and 0.2 s if very
    many have the tag.
    """
    groups: tuple[Collection[State], ...] = _BY_INTEREST
    if query.states is not None or query.before is not None:  # by id alone, so that pages leave nothing out
        groups = (ALL_STATES,)
    search = _Search(db, wanted)
    lowest, highest = _id_range(wanted)
    highest = min(highest, (query.before or MAX_ID) - 1)
    ids: list[JobId] = []
    for states in groups:
        if left := query.limit - len(ids):
            sources = search.sources([state for state in states if state in wanted.states])
            found = search.ids(sources, left, lowest, highest)
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
        lowest, highest = _bounds(db, wanted)
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
        sources = search.sources(wanted.states)
        if not all(source.has_few for source in sources):
            return None
        bounds = _bounds(db, wanted)
        return Counter(State(row[1]) for source in sources for row in search.rows(source, None, *bounds))


def in_order(db: sqlite3.Connection, job_ids: Sequence[JobId], column: str) -> list[JobId]:
    """Return those of these jobs that exist, the highest values of a column first, then the lowest ids."""
    with transaction(db, "DEFERRED"):
        sql = f"SELECT id, ifnull({column}, 0) FROM jobs WHERE id IN"  # noqa: S608 (constants)
        values: dict[JobId, float] = dict(rows_of(db, sql, job_ids))
    return sorted(values, key=lambda job_id: (-values[job_id], job_id))


def last_finished(db: sqlite3.Connection, states: Sequence[State], limit: int) -> list[JobId]:
    """Return the jobs in these final states that finished last, the last one first, without notifications."""
    found = [
        row
        for state in states
        for row in db.execute(
            "SELECT aged_from, id FROM jobs INDEXED BY jobs_by_end WHERE aged_from IS NOT NULL AND state = ?"
            " AND queue <> ? ORDER BY aged_from DESC, id DESC LIMIT ?",
            (state, NOTIFICATION_QUEUE, limit),
        )
    ]
    return [JobId(job) for _, job in sorted(map(tuple, found), reverse=True)[:limit]]


def distinct(db: sqlite3.Connection, what: str, beginning: str = "", limit: int = MAX_ID) -> list[str]:
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


def _bounds(db: sqlite3.Connection, wanted: Filter) -> tuple[int, int]:
    """Return the lowest and the highest id that wanted jobs may have, as `_first_since` finds them."""
    lowest, highest = _id_range(wanted)
    before = MAX_ID if wanted.until is None else _first_since(db, wanted.until) - 1
    return max(lowest, _first_since(db, wanted.since)), min(highest, before)


def _id_range(wanted: Filter) -> tuple[int, int]:
    """Return the lowest and the highest of the wanted ids."""
    ids = wanted.ids or {range(MAX_ID + 1)}
    return min(each.start for each in ids), max(each.stop for each in ids) - 1


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
        pieces = {f"piece{number}": piece for number, piece in enumerate(_pieces_of_spec(wanted))}
        conditions, values = _conditions(wanted)
        self._values: dict[str, object] = values | pieces | {"from_name": from_name, "to_name": to_name}
        self._conditions = conditions + [f"instr(lower({_SPEC}), :{piece})" for piece in pieces]
        self._reads_specs = reads_specs(wanted)

    def sources(self, states: Sequence[State]) -> list[_Source]:
        """Return what to read: by tag, batch, session, name or queue if that leaves few jobs, or by state.

        Many jobs of a queue are found sooner among all jobs of their state, which needs a single index.
        """
        states = tuple(state for state in states if state in _states_of(self._wanted))
        if not states:
            return []
        lowest, highest = _id_range(self._wanted)
        if highest - lowest < _FEW:
            return [_Source(_BY_ID, states, has_few=True)]
        for number in range(len(self._wanted.tags)):
            tagged = f"tags WHERE tags.tag = :tags{number}"
            if self._are_few(tagged):
                return [_Source(_BY_TAG.format(number=number), states, has_few=True)]
        for given, rows in ((self._wanted.batch, _BY_BATCH), (self._wanted.session, _BY_SESSION)):
            if given is not None and self._are_few(rows):
                return [_Source(rows, states, has_few=True)]
        if self._values["from_name"]:
            named = _BY_ONE_NAME if self._values["from_name"] == self._values["to_name"] else _BY_NAME
            if self._are_few(named):
                return [_Source(named, states, has_few=True)]
        return [self._source_of(state) for state in states]

    def _source_of(self, state: State) -> _Source:
        """Return what to read for the jobs of a state: by queue or end if that leaves few jobs."""
        by_queue = [] if self._wanted.queue in {None, DEFAULT_QUEUE} else [_BY_QUEUE]
        for rows in by_queue + ([] if self._wanted.finished is None else [_BY_END]):
            if self._are_few(f"{rows} AND {_in((state,))}"):
                return _Source(rows, (state,), has_few=True)
        return _Source(_BY_STATE, (state,), has_few=False)

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
        highest: int = MAX_ID,
        *,
        ascending: bool = False,
    ) -> list[JobId]:
        """Return the newest wanted jobs of each source in a range of ids, or the oldest: `limit` of each."""
        return [
            JobId(row[0])
            for source in sources
            for row in self.rows(source, limit, lowest, highest, ascending=ascending)
        ]

    def rows(
        self,
        source: _Source,
        limit: int | None,
        lowest: int,
        highest: int = MAX_ID,
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


def _conditions(wanted: Filter, prefix: str = "") -> tuple[list[str], dict[str, object]]:
    """Return the conditions in SQL, without those for states and specs, and their parameters."""
    conditions: list[str] = []
    values: dict[str, object] = {}
    for field, condition in _CONDITIONS.items():
        given = getattr(wanted, field)
        each = given if isinstance(given, tuple) else () if given is None else (given,)
        for number, value in enumerate(each):
            parameter = f"{prefix}{field}{number}"
            conditions.append(condition.format(f":{parameter}"))
            values[parameter] = _PARAMETERS[field](value) if field in _PARAMETERS else value
    if wanted.exit_code is not None:
        conditions.append(_exit_condition(wanted.exit_code))
    if wanted.ids is not None:  # +: the range of the whole search is for the index
        ranges = (f"+id BETWEEN {each.start:d} AND {each.stop - 1:d}" for each in wanted.ids)
        conditions.append(f"({' OR '.join(ranges)})")
    for number, other in enumerate(wanted.without):
        theirs, parameters = _conditions(other, f"{prefix}without{number}_")
        if theirs:
            conditions.append(f"({' AND '.join(theirs)}) IS NOT TRUE")
        values |= parameters
    return conditions, values


# By what errors of jobs are equal: of a class job the type, of others the message; see `error_key`
_ERROR_TEXT = "iif(error ->> 'type' = jobs.outcome, error ->> 'message', error ->> 'type') || char(10)"
ERROR = f"""ifnull((
    SELECT substr({_ERROR_TEXT}, 1, min(instr({_ERROR_TEXT}, char(10)) - 1, {MAX_ERROR}))
    FROM results WHERE job = jobs.id AND attempt = jobs.attempt
), '')"""  # noqa: S608 (constants)

_CONDITIONS = {  # in SQL, by the field of Filter, for each of its values
    "queue": "queue = {}",
    "uid": "uid = {}",
    "suspended": "(state <> 'running' OR suspended = {})",
    "may_continue": "suspended = {}",
    "name": "name GLOB {}",
    "has_name": "(name IS NOT NULL) = {}",
    "name_parts": "instr(lower(name), {})",
    "tags": "EXISTS (SELECT 1 FROM tags WHERE tag = {} AND job = jobs.id)",
    "since": "created_at >= {}",
    "until": "created_at < {}",
    "finished": "aged_from >= {} + (SELECT age_ahead FROM meta)",
    "outcome": f"ifnull(outcome, '{NO_OUTCOME}') = {{}}",
    "signal": "outcome = 'signal' AND signal = {}",
    "exact_error": f"{ERROR} = {{}}",
    "priority": "priority = {}",
    "session": "session = {}",
    "batch": """{} = (
        SELECT iif(last >= jobs.id, batch, 0) FROM batch_jobs WHERE first <= jobs.id
        ORDER BY first DESC LIMIT 1
    )""",
    "errors": """(
        instr(lower(reason), {0})
        OR outcome NOT IN ('succeeded', 'snoozed') AND (
            instr(replace(outcome, '_', ' '), {0})
            OR EXISTS (
                SELECT 1 FROM results WHERE job = jobs.id AND attempt = jobs.attempt AND instr(
                    lower(json_extract(error, '$.type') || ': ' || json_extract(error, '$.message')), {0}
                )
            )
        )
    )""",
}


def _elapsed_at(at: float) -> float:
    """Return an instant on the elapsed clock, which orders ends and cannot be set."""
    return clock.elapsed() - (time.time() - at)


def _folded(text: str) -> str:
    """Return a text with A to Z in lower case, as `lower` of SQLite does."""
    return text.encode(errors="replace").lower().decode()


def _states_of(wanted: Filter) -> Collection[State]:
    """Return the states of jobs that may have finished at a time or with an exit code."""
    if wanted.exit_code is not None:
        return _states_with(wanted.exit_code)
    return ALL_STATES if wanted.finished is None else FINAL


def _exit_condition(code: int) -> str:
    """Return the condition for what `exit_code_of` counts as this code."""
    alike = [
        outcome.value
        for outcome in Outcome
        if outcome not in {Outcome.EXIT, Outcome.SIGNAL} and exit_code_of(outcome, None, None) == code
    ]
    words = ", ".join(f"'{word}'" for word in alike)
    ended = (
        f"outcome = 'exit' AND exit_code = {code:d} OR outcome = 'signal' AND signal = {code - SIGNALLED:d}"
    )
    return f"({_in(_states_with(code))} AND ({ended} OR outcome IN ({words})))"


def _states_with(code: int) -> tuple[State, ...]:
    """Return the states of jobs that may have an exit code."""
    return tuple(state for state in State if state in FINAL and (state is State.SUCCEEDED) == (code == 0))


def _in(states: Sequence[State]) -> str:
    """Return the condition that a job is in one of these states; a single one allows the use of an index."""
    words = [f"'{state.value}'" for state in states]
    return f"state = {words[0]}" if len(words) == 1 else f"state IN ({', '.join(words)})"


# --- what stands in specs: SQLite finds the bytes, which leaves few jobs, and these are looked at


def reads_specs(wanted: Filter) -> bool:
    """Return whether specs are looked at, which may be as large as a job is."""
    return any(_needs_spec(each) for each in (wanted, *wanted.without))


def _needs_spec(wanted: Filter) -> bool:
    return bool(wanted.texts or wanted.target or wanted.args) or wanted.exact_target is not None


def _pieces_of_spec(wanted: Filter) -> list[str]:
    """Return a few texts, as long as can be, that a packed spec has somewhere if it matches."""
    pieces = [piece for text in wanted.texts for piece in text.split(" ")]
    for pattern in (wanted.target or "", wanted.exact_target or "", *wanted.args):
        pieces += re.findall("[A-Za-z0-9_]+", ESCAPED.sub("*", pattern))
    return [_folded(piece) for piece in sorted(filter(None, set(pieces)), key=len)[-_MAX_PIECES:]]


_MAX_PIECES = 3  # each is a walk through the spec


def _matches(wanted: Filter, packed: bytes) -> bool:
    spec = unpack_spec(packed)
    return _has(spec, wanted) and not any(_needs_spec(each) and _has(spec, each) for each in wanted.without)


def _has(spec: JobSpec, wanted: Filter) -> bool:
    """Return whether a spec has the texts, the target and the arguments."""
    if wanted.exact_target not in {None, spec.target or ""}:
        return False
    if wanted.target is not None and not (spec.target and _is_target_like(spec.target, wanted.target)):
        return False
    if wanted.args:
        arguments = [_folded(each) for each in _arguments(spec)]
        patterns = [_folded(pattern) for pattern in wanted.args]
        if not all(any(_is_like(each, pattern) for each in arguments) for pattern in patterns):
            return False
    command = f"{spec.target} {spec.arguments or ''}" if spec.argv is None else " ".join(spec.argv)
    found = [_folded(text) for text in (command, spec.name or "")] if wanted.texts else []
    return all(any(_folded(text) in each for each in found) for text in wanted.texts)


def _arguments(spec: JobSpec) -> list[str]:
    """Return the arguments of a command without its program, or of a class job in JSON, or as plain text."""
    if spec.argv is not None:
        return list(spec.argv[1:])
    given = json.loads(spec.arguments or "{}")
    positional, named = given.get("args") or (), given.get("kwargs") or {}
    texts = {name: each if isinstance(each, str) else json.dumps(each) for name, each in named.items()}
    plain = [each if isinstance(each, str) else json.dumps(each) for each in positional]
    return [*plain, *texts.values(), *(f"{name}={text}" for name, text in texts.items())]


def _is_target_like(target: str, pattern: str) -> bool:
    target, pattern = (re.sub("[:@]+", ".", text) for text in (target, pattern))
    return _is_like(target, pattern) or _is_like(target, f"{pattern}.*")


# --- patterns: * and ? are wildcards


def _is_like(text: str, pattern: str) -> bool:
    """Return whether a pattern matches a text; one regular expression takes the product of their lengths.

    What stands between stars is found in turn, and of it only what is not plain is compared at each place.
    """
    *parts, (last, length) = _parts(pattern)
    at = 0
    for number, (part, _) in enumerate(parts):
        found = part.search(text, at) if number else part.match(text)
        if found is None:
            return False
        at = found.end()
    return last.fullmatch(text, max(at, len(text) - length) if parts else 0) is not None


@lru_cache(maxsize=100)
def _parts(pattern: str) -> list[tuple[re.Pattern[str], int]]:
    """Return what stands before, between and after the stars, and how many characters each matches."""
    parts: list[list[str]] = [[]]
    for each in _CHARACTER.findall(pattern):
        if each == "*":
            parts.append([])
        else:
            parts[-1].append("." if each == "?" else re.escape(_plain(each)))
    return [(re.compile("".join(part), re.DOTALL), len(part)) for part in parts]


def _plain(character: str) -> str:
    """Return what one of _CHARACTER that is no wildcard stands for."""
    return character[len(character) // 2]


def _name_range(pattern: str) -> tuple[str, str]:
    """Return the first and the last name that a pattern can match, as far as its beginning says."""
    characters = _CHARACTER.findall(pattern)
    plain = [*takewhile(lambda each: each not in {"*", "?"}, characters)]
    beginning = "".join(map(_plain, plain))
    return beginning, beginning if plain == characters else f"{beginning}{_LAST_CHARACTER}"


def _glob(pattern: str) -> str:
    """Return a pattern in SQLite's syntax, in which brackets enclose sets of characters."""
    return "".join("[[]" if each == "[" else each for each in _CHARACTER.findall(pattern))


# what stands for a value in SQL, if it is not the value itself
_PARAMETERS: dict[str, Callable[[Any], object]] = {
    "name": _glob,
    "name_parts": _folded,
    "errors": _folded,
    "finished": _elapsed_at,
}
_CHARACTER = re.compile(f"{ESCAPED.pattern}|.", re.DOTALL)
_LAST_CHARACTER = "\U0010ffff"  # no name has it: it cannot be printed


# --- SQL

_IN_RANGE = "id BETWEEN :lowest AND :highest"  # one range: of two lower bounds SQLite may use the worse one
_SPEC = "(SELECT spec FROM specs WHERE job = jobs.id)"

# CROSS keeps SQLite from changing the order
_BY_BATCH = "batch_jobs CROSS JOIN jobs ON jobs.id BETWEEN first AND last WHERE batch_jobs.batch = :batch0"
_BY_SESSION = "jobs INDEXED BY jobs_by_session WHERE session IS NOT NULL AND session = :session0"
_BY_TAG = "tags CROSS JOIN jobs ON jobs.id = tags.job WHERE tags.tag = :tags{number}"
_BY_NAME = "jobs INDEXED BY jobs_by_name WHERE name IS NOT NULL AND name BETWEEN :from_name AND :to_name"
_BY_ONE_NAME = (  # in the order of their ids
    "jobs INDEXED BY jobs_by_name WHERE name IS NOT NULL AND name = :from_name"
)
_BY_QUEUE = f"jobs INDEXED BY jobs_by_queue WHERE queue <> '{DEFAULT_QUEUE}' AND queue = :queue0"
_BY_END = "jobs INDEXED BY jobs_by_end WHERE aged_from >= :finished0 + (SELECT age_ahead FROM meta)"
_BY_ID = "jobs NOT INDEXED WHERE TRUE"
_BY_STATE = "jobs INDEXED BY jobs_by_state WHERE TRUE"


# --- attempts whose logs can be searched --------------------------------------------------------------------


class LoggedAttempt(Struct, frozen=True, array_like=True):
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
    found = [convert(row, LoggedAttempt) for *row, log_bytes in rows if log_bytes != 0]
    return found, (rows[-1][0], rows[-1][1]) if len(rows) == limit else None


_LOGGED = """
    SELECT attempts.job, attempts.attempt, name, coalesce(attempts.finished_at, attempts.started_at),
           attempts.outcome, attempts.exit_code, attempts.signal, log_bytes
    FROM attempts CROSS JOIN jobs ON jobs.id = attempts.job
    WHERE (attempts.job, attempts.attempt) < (?, ?) ORDER BY attempts.job DESC, attempts.attempt DESC LIMIT ?
"""
