"""Notifications in the database: facts to decide about, streaks of failures, and messages that wait."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter

import msgspec
from msgspec.structs import asdict, replace

from bgd.core.job import Outcome, State
from bgd.core.notifications import (
    WINDOW,
    Decisions,
    Fact,
    Message,
    NotifyEvent,
    NotifyRule,
    Streak,
    StreakKey,
    Waiting,
    decide,
)
from bgd.core.schedule_spec import Result
from bgd.core.spec import DEFAULT_QUEUE, NOTIFICATION_QUEUE
from bgd.daemon.storage import schedules
from bgd.daemon.storage.records import Transaction, unpack_spec
from bgd.text.brief import command_line
from bgd.wire.launching import log_name
from bgd.wire.views import JobError

AT_ONCE = 200  # facts that are settled in one transaction, some milliseconds
MAX_STREAKS = 100_000  # those that began first are forgotten: names are made by strangers
MAX_COMMAND = 1_000  # characters of a command in a message
MAX_REASON = 300  # characters of a reason
_MOST_SENT = 2_000  # jobs of one name among which the latest messages are looked for

_encode = msgspec.msgpack.Encoder().encode
_decode_waiting = msgspec.msgpack.Decoder(Waiting).decode
_decode_error = msgspec.json.Decoder(JobError).decode


# --- writing ----------------------------------------------------------------------------------------------


def save(db: sqlite3.Connection, transaction: Transaction) -> None:
    """Write what a transaction holds of notifications, after its jobs and schedules; most hold nothing."""
    for settled in transaction.settled:
        _save_settled(db, settled)
    if not transaction.rules:
        return
    for fact in (*transaction.notify_facts, *_of_occurrences(transaction)):
        whole = _completed(db, fact, transaction.default_target)
        if whole is not None and _is_wanted(db, whole, transaction.rules):
            db.execute(_INSERT, _row(whole))
            transaction.has_notify_facts = True


def _of_occurrences(transaction: Transaction) -> Iterator[Fact]:
    """Yield which occurrences were missed, and which have jobs that are late."""
    for each in transaction.occurrences:
        if each.late or each.result is Result.MISSED:
            yield Fact(
                event=NotifyEvent.LATE if each.late else NotifyEvent.MISSED,
                at=transaction.now.wall,
                schedule=each.schedule,
                job=each.job,
                reason=each.reason and each.reason[:MAX_REASON],
                due_at=each.due_at,
                count=None if each.late else each.count,
            )


def _completed(db: sqlite3.Connection, fact: Fact, default: str | None) -> Fact | None:
    """Return a fact with its target, and with what the row of its job says; None: it has no target."""
    if fact.schedule is not None:
        spec = schedules.spec_of(db, fact.schedule)
        target = default if spec is None else spec.job.notify or default
        return None if target is None else replace(fact, target=target)
    if fact.is_about_calls:
        return replace(fact, target=fact.target or default) if fact.target or default else None
    row = db.execute(_JOB, (default, fact.at, MAX_REASON, fact.job)).fetchone()
    if row is None or row[0] is None:
        return None
    return msgspec.convert({**asdict(fact), **dict(zip(_OF_JOB.split(", "), row, strict=True))}, Fact)


def _is_wanted(db: sqlite3.Connection, fact: Fact, rules: Mapping[str, NotifyRule]) -> bool:
    """Return whether a fact may cause a message, or changes a streak.

    A success that causes no message matters only after a failure, which may still be among the facts.
    """
    rule = rules.get(fact.target or "")
    if rule is None or fact.event is NotifyEvent.FAILED or fact.event in rule.on:
        return True  # of a target that is not configured, too: whoever settles it warns
    if fact.event is not NotifyEvent.SUCCEEDED:
        return False
    row = db.execute(_HAS_FAILED, (fact.target, fact.streak, fact.target)).fetchone()
    return row is not None


def _save_settled(db: sqlite3.Connection, settled: Decisions) -> None:
    db.execute("DELETE FROM notify_facts WHERE id <= ?", (settled.until,))
    gone = [key for key, streak in settled.streaks.items() if not streak.failures]
    db.executemany("DELETE FROM streaks WHERE target = ? AND subject = ?", gone)
    rows = [
        (*key, each.failures, each.is_notified, each.job, each.job, each.job)
        for key, each in settled.streaks.items()
        if each.failures
    ]
    if rows:
        db.executemany(_SAVE_STREAK, rows)
        db.execute("DELETE FROM streaks WHERE id <= (SELECT max(id) FROM streaks) - ?", (MAX_STREAKS,))
    for target, waiting in settled.waiting.items():
        db.execute("INSERT OR REPLACE INTO notify_waiting VALUES (?, ?)", (target, _encode(waiting)))
    for target in (*settled.sent, *settled.forgotten):
        db.execute("DELETE FROM notify_waiting WHERE target = ?", (target,))
    for target in settled.forgotten:
        db.execute("DELETE FROM streaks WHERE target = ?", (target,))


# --- reading ----------------------------------------------------------------------------------------------


def decide_page(
    db: sqlite3.Connection,
    rules: Mapping[str, NotifyRule],
    room: Mapping[str, int],
    waiting: Mapping[str, Waiting],
    log_dir: str,
    new_id: Callable[[], str],
) -> Decisions | None:
    """Return what follows from the oldest facts; None if there are none. Arguments as of `decide`."""
    rows = db.execute(_PAGE, (AT_ONCE,)).fetchall()
    if not rows:
        return None
    facts = [msgspec.convert(dict(zip(_FACT_FIELDS, row[1:], strict=True)), Fact) for row in rows]
    decisions = decide(facts, _streaks_of(db, facts), rules, room, waiting, new_id)
    for target, each in decisions.waiting.items():
        if target not in waiting:
            decisions.waiting[target] = replace(each, first=_in_full(db, each.first, log_dir))
    decisions.messages = [_in_full(db, each, log_dir) for each in decisions.messages]
    decisions.until = rows[-1][0]
    return decisions


def waiting_messages(db: sqlite3.Connection) -> dict[str, Waiting]:
    """Return the waiting messages, by target."""
    rows = db.execute("SELECT target, waiting FROM notify_waiting")
    return {target: _decode_waiting(packed) for target, packed in rows}


def known_targets(db: sqlite3.Connection) -> set[str]:
    """Return the targets with stored data; some may no longer be configured."""
    return {target for (target,) in db.execute(_TARGETS)}


def sent_messages(db: sqlite3.Connection, targets: Iterable[str], elapsed: float) -> dict[str, deque[float]]:
    """Return when each target was sent its latest messages, on the elapsed clock."""
    values = [NOTIFICATION_QUEUE, elapsed - WINDOW]
    rows = {each: db.execute(_SENT, (job_name(each), _MOST_SENT, *values)) for each in targets}
    return {target: deque(sorted(min(at, elapsed) for (at,) in found)) for target, found in rows.items()}


def undelivered(db: sqlite3.Connection) -> tuple[int, int | None]:
    """Return how many notifications could not be delivered, and the newest of their jobs."""
    count, newest = db.execute(_UNDELIVERED, (NOTIFICATION_QUEUE, State.FAILED.value)).fetchone()
    return count, newest


def job_name(target: str) -> str:
    """Return the name of the jobs that notify a target."""
    return f"notify {target}"


def _streaks_of(db: sqlite3.Connection, facts: list[Fact]) -> dict[StreakKey, Streak]:
    found: dict[StreakKey, Streak] = {}
    for key in {(fact.target or "", fact.streak) for fact in facts}:
        row = db.execute(_STREAK, key).fetchone()
        if row is not None:
            failures, is_notified, job = row
            found[key] = Streak(failures, bool(is_notified), job)
    return found


def _in_full(db: sqlite3.Connection, message: Message, log_dir: str) -> Message:
    """Return a message with what is known of its job: command, log, and why its latest attempt failed."""
    row = db.execute(_DETAILS, (message.job,)).fetchone()
    if row is None:
        return message
    packed, attempt, error = row
    reason = message.reason
    if reason is None and error is not None and message.event is NotifyEvent.FAILED:
        reason = _decode_error(error).in_words(message.outcome)[:MAX_REASON]
    return replace(
        message,
        command=command_line(unpack_spec(packed), MAX_COMMAND),
        log=f"{log_dir}/{log_name(message.job or 0, attempt)}" if attempt else None,
        reason=reason,
    )


_FACT_FIELDS = Fact.__struct_fields__
_COLUMNS = ", ".join(_FACT_FIELDS)
_row = attrgetter(*_FACT_FIELDS)

_INSERT = f"INSERT INTO notify_facts ({_COLUMNS}) VALUES ({', '.join('?' * len(_FACT_FIELDS))})"  # noqa: S608 (constants)
_PAGE = f"SELECT id, {_COLUMNS} FROM notify_facts ORDER BY id LIMIT ?"  # noqa: S608 (constants)
_OF_JOB = "target, at, name, schedule, queue, outcome, exit_code, signal, attempts, reason"
_JOB = f"""
    SELECT coalesce(notify, ?), coalesce(finished_at, ?), name, schedule, queue,
        iif(state = '{State.CANCELLED}', '{Outcome.CANCELLED}', outcome), exit_code, signal, attempt,
        substr(reason, 1, ?)
    FROM jobs WHERE id = ?
"""  # noqa: S608 (constants)
_HAS_FAILED = """
    SELECT 1 FROM streaks WHERE target = ? AND subject = ?
    UNION ALL SELECT 1 FROM notify_facts WHERE target = ? LIMIT 1
"""
# A job that was removed meanwhile has no streak of its own
_SAVE_STREAK = """
    INSERT INTO streaks (target, subject, failures, is_notified, job)
    SELECT ?, ?, ?, ?, ? WHERE ? IS NULL OR EXISTS (SELECT 1 FROM jobs WHERE id = ?)
    ON CONFLICT (target, subject)
    DO UPDATE SET failures = excluded.failures, is_notified = excluded.is_notified
"""
_STREAK = "SELECT failures, is_notified, job FROM streaks WHERE target = ? AND subject = ?"
_TARGETS = "SELECT DISTINCT target FROM streaks UNION SELECT target FROM notify_waiting"
_SENT = """
    SELECT created_aged - (SELECT age_ahead FROM meta) AS at
    FROM (SELECT created_aged, queue FROM jobs WHERE name = ? ORDER BY id DESC LIMIT ?)
    WHERE queue = ? AND at > ?
"""
_UNDELIVERED = f"""
    SELECT count(*), max(id) FROM jobs INDEXED BY jobs_by_queue
    WHERE queue = ? AND queue <> '{DEFAULT_QUEUE}' AND state = ?
"""  # noqa: S608 (constants)
_DETAILS = """
    SELECT spec, attempt, (SELECT error FROM results WHERE job = jobs.id AND attempt = jobs.attempt)
    FROM jobs JOIN specs ON specs.job = jobs.id WHERE jobs.id = ?
"""
