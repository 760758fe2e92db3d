"""Exit codes of bgctl: its own, and those of jobs."""

from __future__ import annotations

from bgctl.columns import excerpt
from bgctl.common import (
    WrongUsage,
)
from bgd import Job, Outcome, State
from bgd.errors import ConfigError, DaemonUnreachable, Full, NoSuchJob, NotAllowed

# bgctl's own, from sysexits.h where it has a code for the case
REFUSED = 1
USAGE = 2
LEFT_OUT = 65  # EX_DATAERR: some of the input was left out
NO_SUCH_JOB = 66
UNREACHABLE = 69
BUG = 70
TRY_LATER = 75  # timed out while waiting, or no room
NOT_ALLOWED = 77
CONFIG = 78
INTERRUPTED = 130  # 128 + SIGINT, as in shells
BROKEN_PIPE = 141  # 128 + SIGPIPE

# of a finished job
FAILED = 1
NOT_RUN = 125  # 125 to 127 as env(1) and shells
NOT_EXECUTABLE = 126
NOT_FOUND = 127
CANCELLED = 143  # 128 + SIGTERM


def exit_code_of_error(error: BaseException) -> int:
    """Return bgctl's exit code for an error."""
    return next((code for kind, code in _CODES_OF_ERRORS if isinstance(error, kind)), REFUSED)


_CODES_OF_ERRORS: tuple[tuple[type[BaseException], int], ...] = (  # the first match wins
    (WrongUsage, USAGE),
    (NoSuchJob, NO_SUCH_JOB),
    (DaemonUnreachable, UNREACHABLE),
    (TimeoutError, TRY_LATER),
    (Full, TRY_LATER),
    (NotAllowed, NOT_ALLOWED),
    (ConfigError, CONFIG),
    (BrokenPipeError, BROKEN_PIPE),
    (KeyboardInterrupt, INTERRUPTED),
)


def exit_code_of_job(job: Job) -> int:
    """Return the exit code with which `run` and `wait` pass on how a job ended."""
    if job.state is State.SUCCEEDED:
        return 0
    if job.state is State.CANCELLED or job.outcome is None:
        return NOT_RUN if _reason_of_daemon(job) else CANCELLED
    if job.outcome is Outcome.NOT_STARTED:
        return _code_for_not_started(job)
    from bgd.core.retry import exit_code_of  # noqa: PLC0415 - submit does not need it

    return exit_code_of(job.outcome, job.exit_code, job.signal) or NOT_RUN


def describe_end(job: Job) -> str:
    """Return in words how a finished job ended, for example "failed (exit code 3)"."""
    if job.state is not State.FAILED:
        reason = _reason_of_daemon(job)
        return f"{job.state} ({reason})" if reason else job.state
    from bgd.text.formatting import outcome_in_words  # noqa: PLC0415 - submit does not need it

    words = outcome_in_words(job)
    if job.outcome not in {Outcome.EXIT, Outcome.SIGNAL} and (problem := _problem_of(job)):
        says_all = job.outcome in {Outcome.NOT_STARTED, Outcome.ERROR}
        words = problem if says_all else f"{words}: {problem}"
    return f"failed ({words})"


def _reason_of_daemon(job: Job) -> str:
    """Return why the daemon itself cancelled a job, for example because it expired; "" if a user did."""
    if job.state is not State.CANCELLED or job.reason is None or job.reason.startswith("cancelled"):
        return ""  # the reason begins with "cancelled" if a user asked for it
    return excerpt(job.reason)


def _code_for_not_started(job: Job) -> int:
    from bgd.wire.launching import NotStarted  # noqa: PLC0415 - submit does not need it

    problem = _problem_of(job)
    if problem.startswith((NotStarted.NO_PROGRAM, NotStarted.NO_INTERPRETER)):
        return NOT_FOUND
    if problem.startswith((NotStarted.NOT_EXECUTABLE, NotStarted.NOT_PERMITTED)):
        return NOT_EXECUTABLE
    return NOT_RUN


def _problem_of(job: Job) -> str:
    """Return what went wrong in the latest attempt, on one line; `show` has the whole error."""
    error = job.attempts()[-1].error
    return "" if error is None else excerpt(error.in_words(job.outcome))
