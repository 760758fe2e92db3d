"""Due times on both clocks: the elapsed one decides, epoch time is for people and for the boot to come."""

from __future__ import annotations

import sqlite3

from bgd.core.job import FINAL, Now, State
from bgd.core.spec import MAX_DURATION
from bgd.daemon.storage.database import transaction


def adopt_boot(db: sqlite3.Connection, now: Now, boot_id: str) -> None:
    """Move times of an earlier boot's elapsed clock onto this boot's, by way of epoch time."""
    with transaction(db):
        (known,) = db.execute("SELECT boot_id FROM meta").fetchone()
        if known == boot_id:
            return
        _change_all(db, _ADOPT, {"elapsed": now.elapsed, "wall": now.wall, "longest": MAX_DURATION})
        db.execute("UPDATE meta SET boot_id = ?", (boot_id,))


def redate(db: sqlite3.Connection, now: Now) -> None:
    """Bring epoch times to where this boot's elapsed clock puts them, as the wall clock may have been set."""
    with transaction(db):
        _change_all(db, _REDATE, {"ahead": now.wall - now.elapsed, "little": _LITTLE})


def _change_all(db: sqlite3.Connection, sql: str, given: dict[str, float]) -> None:
    for state in State:
        if state not in FINAL:
            db.execute(sql, {**given, "state": state.value})


_LITTLE = 1.0  # seconds that nobody sees, by which a clock that is never set goes astray

_ADOPT = """
    UPDATE jobs SET due_elapsed = :elapsed + min(max(due_at - :wall, 0), :longest),
                    expires_elapsed = :elapsed + min(max(expires_at - :wall, 0), :longest)
    WHERE state = :state AND (due_elapsed IS NOT NULL OR expires_elapsed IS NOT NULL)
"""

_REDATE = """
    UPDATE jobs SET due_at = due_elapsed + :ahead, expires_at = expires_elapsed + :ahead
    WHERE state = :state AND (abs(due_at - due_elapsed - :ahead) > :little
                              OR abs(expires_at - expires_elapsed - :ahead) > :little)
"""
