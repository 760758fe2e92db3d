"""Run bgd as `python -m bgd` does; it kills itself where $POINT says, as soon as the file $ARMED exists."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from pathlib import Path

from bgd.__main__ import main
from bgd.core.job import JobId
from bgd.daemon.measurements import Measurements
from bgd.daemon.storage.records import StoredSpec, Transaction
from bgd.daemon.storage.write import TransactionWriter

POINTS = ("within the failure", "after the failure", "within the notification", "after the notification")
"""Before the commit that stores a failure, after it, and the same for the job that tells it."""
POINT, ARMED = "POINT", "ARMED"  # variables

_save = TransactionWriter.save
_saved = Measurements.saved


def save(
    writer: TransactionWriter, db: sqlite3.Connection, transaction: Transaction
) -> dict[JobId, StoredSpec]:
    specs = _save(writer, db, transaction)
    _die_at(POINTS[0], POINTS[2], transaction)
    return specs


def saved(measurements: Measurements, transaction: Transaction, seconds: float, committed_at: float) -> None:
    _die_at(POINTS[1], POINTS[3], transaction)
    _saved(measurements, transaction, seconds, committed_at)


def _die_at(of_failure: str, of_notification: str, transaction: Transaction) -> None:
    points = {of_failure: transaction.has_notify_facts, of_notification: bool(transaction.settled)}
    if points.get(os.environ[POINT]) and Path(os.environ[ARMED]).exists():
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    TransactionWriter.save = save  # type: ignore[method-assign, assignment]
    Measurements.saved = saved  # type: ignore[method-assign, assignment]
    sys.exit(main())
