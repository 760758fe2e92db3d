"""The verdict on a finished job: the exit code that says for it how it went, and the same in words."""

from __future__ import annotations

from bgctl.common import excerpt
from bgd import Job, Outcome, State
from bgd.wire.launching import NotStarted

FAILED = 1
TIMED_OUT = 124  # as timeout(1)
NOT_RUN = 125  # 124 to 127 as env(1) and shells have them
NOT_EXECUTABLE = 126
NOT_FOUND = 127
KILLED = 137  # 128 + SIGKILL
CANCELLED = 143  # 128 + SIGTERM
SIGNALLED = 128  # and the signal's number

_BY_A_PERSON = "cancelled"  # how the reason begins then

_CODES = {
    Outcome.TIMEOUT: TIMED_OUT,
    Outcome.CANCELLED: CANCELLED,
    Outcome.OOM: KILLED,
    Outcome.LOG_LIMIT: KILLED,
    Outcome.ERROR: FAILED,
}
_NOT_STARTED = {
    NotStarted.NO_PROGRAM: NOT_FOUND,
    NotStarted.NO_INTERPRETER: NOT_FOUND,
    NotStarted.NOT_EXECUTABLE: NOT_EXECUTABLE,
    NotStarted.NOT_PERMITTED: NOT_EXECUTABLE,
}


def exit_code_of(job: Job) -> int:
    """Return the exit code with which `run` and `wait` pass on how a job ended."""
    if job.state is State.SUCCEEDED:
        return 0
    if job.state is State.CANCELLED or job.outcome is None:
        return NOT_RUN if _daemons_reason(job) else CANCELLED
    if job.outcome is Outcome.EXIT and job.exit_code is not None:
        return job.exit_code
    if job.outcome is Outcome.SIGNAL and job.signal is not None:
        return SIGNALLED + job.signal
    if job.outcome is Outcome.NOT_STARTED:
        return _code_of_problem(job)
    return _CODES.get(job.outcome, NOT_RUN)


def words_for(job: Job) -> str:
    """Return in words how a finished job ended, as "failed (exit code 3)"."""
    if job.state is not State.FAILED:
        reason = _daemons_reason(job)
        return f"{job.state} ({reason})" if reason else job.state
    match job.outcome:
        case Outcome.EXIT:
            return f"failed (exit code {job.exit_code})"
        case Outcome.SIGNAL:
            return f"failed (signal {job.signal})"
        case Outcome.NOT_STARTED:
            return f"failed ({_problem(job)})"
        case outcome:
            problem = _problem(job)
            return f"failed ({outcome}: {problem})" if problem else f"failed ({outcome})"


def _daemons_reason(job: Job) -> str:
    """Return why the daemon itself cancelled a job, as one that expired; empty if a person did."""
    if job.state is not State.CANCELLED or job.reason is None or job.reason.startswith(_BY_A_PERSON):
        return ""
    return excerpt(job.reason)


def _code_of_problem(job: Job) -> int:
    problem = _problem(job)
    return next((code for kind, code in _NOT_STARTED.items() if problem.startswith(kind)), NOT_RUN)


def _problem(job: Job) -> str:
    """Return what went wrong in the latest attempt, for one line; `show` has all of it."""
    error = job.attempts()[-1].error
    return "" if error is None else excerpt(error.in_words(job.outcome))
