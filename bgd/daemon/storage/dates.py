"""Due times on both clocks: the elapsed one decides, epoch time is for people and for the boot to come."""

from __future__ import annotations

import sqlite3

from bgd.core.job import FINAL, JobId, Now, State
from bgd.core.spec import MAX_DURATION
from bgd.daemon.storage.database import transaction

AT_ONCE = 2_000  # jobs in one transaction: some milliseconds


MOST_DOWNTIME = 86_400.0  # seconds by which jobs age while the machine is off: only the wall clock knows more


def adopt_boot(db: sqlite3.Connection, now: Now, boot_id: str) -> float:
    """Move times of an earlier boot's elapsed clock onto this boot's, by way of epoch time.

    Return the seconds since the earlier boot that do not count for retention, because the wall clock, which
    is the only one that measured them, may be wrong by years.
    """
    with transaction(db):
        known, age_ahead, noted, wall = db.execute(_KNOWN).fetchone()
        ignored = 0.0
        if age_ahead is None:  # the database is new, or an earlier bgd wrote it
            _set_age(db, now, now.wall)
            db.execute("UPDATE jobs SET aged_from = ? WHERE aged_from > ?", (now.wall, now.wall))
        elif known != boot_id:
            ignored = max(now.wall - wall - MOST_DOWNTIME, 0)
            _set_age(db, now, noted + min(max(now.wall - wall, 0), MOST_DOWNTIME))
        if known == boot_id:
            return ignored
        given = {"elapsed": now.elapsed, "wall": now.wall, "longest": MAX_DURATION}
        for state in State:
            if state not in FINAL:
                db.execute(_ADOPT, {**given, "state": state.value})
        db.execute("UPDATE meta SET boot_id = ?", (boot_id,))
    return ignored


def note_age(db: sqlite3.Connection, now: Now) -> None:
    """Write down retention's clock beside the wall clock, so that the next boot can continue it."""
    with transaction(db):
        db.execute("UPDATE meta SET age_noted = ? + age_ahead, wall_noted = ?", (now.elapsed, now.wall))


def _set_age(db: sqlite3.Connection, now: Now, age: float) -> None:
    ahead = age - now.elapsed
    db.execute("UPDATE meta SET age_ahead = ?, age_noted = ?, wall_noted = ?", (ahead, age, now.wall))


def redate(db: sqlite3.Connection, now: Now, state: State, after: JobId) -> JobId | None:
    """Bring epoch times to where this boot's elapsed clock puts them, as the wall clock may have been set.

    That of the next jobs of this state, by their ids; returns the last of these, None: there are no more.
    """
    with transaction(db):
        (last,) = db.execute(_LAST, (state.value, after, AT_ONCE)).fetchone()
        if last is None:
            return None
        ahead = now.wall - now.elapsed
        given = {"state": state.value, "after": after, "last": last, "ahead": ahead, "little": _LITTLE}
        db.execute(_REDATE, given)
    return JobId(last)


_LITTLE = 1.0  # seconds that nobody sees, by which a clock that is never set goes astray

_KNOWN = "SELECT boot_id, age_ahead, age_noted, wall_noted FROM meta"

_ADOPT = """
    UPDATE jobs SET due_elapsed = :elapsed + min(max(due_at - :wall, 0), :longest),
                    expires_elapsed = :elapsed + min(max(expires_at - :wall, 0), :longest)
    WHERE state = :state AND (due_elapsed IS NOT NULL OR expires_elapsed IS NOT NULL)
"""

# the index keeps it from reading all that has finished between one of these jobs and the next
_LAST = """
    SELECT max(id) FROM
        (SELECT id FROM jobs INDEXED BY jobs_by_state WHERE state = ? AND id > ? ORDER BY id LIMIT ?)
"""

_REDATE = """
    UPDATE jobs INDEXED BY jobs_by_state
    SET due_at = due_elapsed + :ahead, expires_at = expires_elapsed + :ahead
    WHERE state = :state AND id > :after AND id <= :last
          AND (abs(due_at - due_elapsed - :ahead) > :little
               OR abs(expires_at - expires_elapsed - :ahead) > :little)
"""
