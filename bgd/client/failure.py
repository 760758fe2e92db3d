"""Failure: what is raised for a job that did not succeed."""

from __future__ import annotations

from bgd.core.job import Outcome, State
from bgd.errors import JobFailed
from bgd.wire.views import JobError, JobView


def failure_of(view: JobView, error: JobError | None) -> JobFailed:
    """Return what `result` raises for a job that did not succeed."""
    return JobFailed(
        f"job {view.id} {_words(view)}" + (f": {error.in_words(view.outcome)}" if error else ""),
        outcome=view.outcome,
        exit_code=view.exit_code,
        error_type=None if error is None or error.type == Outcome.NOT_STARTED else error.type,
        error_message=error.message if error else None,
        traceback=error.traceback if error else None,
    )


def _words(view: JobView) -> str:
    if view.state is State.CANCELLED:
        return "was cancelled"
    if view.outcome is Outcome.EXIT:
        return f"failed with exit code {view.exit_code}"
    if view.outcome is Outcome.SIGNAL:
        return f"was killed by signal {view.signal}"
    return f"failed ({view.outcome})"
