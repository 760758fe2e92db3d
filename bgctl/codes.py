"""Exit codes of bgctl itself, after sysexits.h where it has one; a job's own are in bgctl.verdict."""

from __future__ import annotations

from bgd.errors import (
    ConfigError,
    DaemonUnreachable,
    Full,
    NoSuchJob,
    NotAllowed,
)

REFUSED = 1
USAGE = 2
NO_SUCH_JOB = 66
UNREACHABLE = 69
BUG = 70
LATER = 75  # waited too long, or no room now
NOT_ALLOWED = 77
CONFIG = 78
INTERRUPTED = 130  # 128 + SIGINT, as shells count
BROKEN_PIPE = 141  # 128 + SIGPIPE


_OF_ERRORS: tuple[tuple[type[BaseException], int], ...] = (  # the first that fits counts
    (NoSuchJob, NO_SUCH_JOB),
    (DaemonUnreachable, UNREACHABLE),
    (TimeoutError, LATER),
    (Full, LATER),
    (NotAllowed, NOT_ALLOWED),
    (ConfigError, CONFIG),
    (BrokenPipeError, BROKEN_PIPE),
    (KeyboardInterrupt, INTERRUPTED),
)


def of_error(error: BaseException) -> int:
    return next((code for kind, code in _OF_ERRORS if isinstance(error, kind)), REFUSED)
