"""Run bgd as `python -m bgd` does; it kills itself where $POINT says, as soon as the file $ARMED exists."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

from bgd.__main__ import main
from bgd.core.job import JobId
from bgd.daemon import followups, job_actions
from bgd.daemon.measurements import Measurements
from bgd.daemon.storage.records import StoredSpec, Transaction
from bgd.daemon.storage.write import TransactionWriter

POINTS = ("within the failure", "after the failure", "within the notification", "after the notification")
"""Before the commit that stores a failure, after it, and the same for the job that tells it."""
FOLLOW_UP_POINTS = ("before the follow-up", "within the follow-up", "after the follow-up")
"""After the end of a job: before its follow-up is submitted, before the commit that stores both, after it."""
POINT, ARMED = "POINT", "ARMED"  # variables

_save = TransactionWriter.save
_saved = Measurements.saved
_follow = followups.follow


def save(
    writer: TransactionWriter, db: sqlite3.Connection, transaction: Transaction
) -> dict[JobId, StoredSpec]:
    specs = _save(writer, db, transaction)
    _die_with(transaction, "within")
    return specs


def saved(measurements: Measurements, transaction: Transaction, seconds: float, committed_at: float) -> None:
    _die_with(transaction, "after")
    _saved(measurements, transaction, seconds, committed_at)


async def follow(*arguments: Any) -> None:
    _die_at(FOLLOW_UP_POINTS[0])
    await _follow(*arguments)


def _die_with(transaction: Transaction, when: str) -> None:
    if transaction.has_notify_facts:
        _die_at(f"{when} the failure")
    if transaction.settled:
        _die_at(f"{when} the notification")
    if transaction.follow_ups:
        _die_at(f"{when} the follow-up")


def _die_at(point: str) -> None:
    if os.environ[POINT] == point and Path(os.environ[ARMED]).exists():
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    TransactionWriter.save = save  # type: ignore[method-assign, assignment]
    Measurements.saved = saved  # type: ignore[method-assign, assignment]
    job_actions.follow = follow  # type: ignore[attr-defined, assignment]
    sys.exit(main())
