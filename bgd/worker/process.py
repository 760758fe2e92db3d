"""The process and the standard streams of a job, in any state that the job left them."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback

_job_pid = os.getpid()


def become_job_process() -> None:
    """Make this process, which was just forked for a job, the one that reports the job's result."""
    global _job_pid  # noqa: PLW0603  a process has one pid
    _job_pid = os.getpid()


def exit_if_forked(exit_code: int) -> None:
    """Exit if the job forked this process and let it return here: only the parent reports a result."""
    if os.getpid() != _job_pid:
        flush()
        os._exit(exit_code)


def log_traceback(error: BaseException) -> None:
    """Write the traceback of an error to the job's log."""
    log("".join(traceback.format_exception(type(error), error, error.__traceback__)))


def log(text: str) -> None:
    """Write text to the job's log, after everything that the job has printed."""
    flush()
    with contextlib.suppress(Exception):  # the job closed or replaced it; the result file has the text too
        sys.stderr.write(text)


def flush() -> None:
    """Flush stdout and stderr; drop a stream that cannot be flushed."""
    for name, fd in (("stdout", 1), ("stderr", 2)):
        try:
            getattr(sys, name).flush()
        except Exception:  # noqa: BLE001 - no reader, disk full, or closed or replaced by the job
            # otherwise the interpreter would flush it again at its end, and exit with code 120
            redirect_to_null(os.O_WRONLY, fd)
            setattr(sys, name, None)


def redirect_to_null(mode: int, *fds: int) -> None:
    """Make these descriptors refer to /dev/null, opened with `mode`."""
    null = os.open(os.devnull, mode)
    for fd in fds:
        if fd == null:  # it was closed, and was the lowest free number
            os.set_inheritable(fd, True)
        else:
            os.dup2(null, fd)
    if null not in fds:
        os.close(null)


def redirect_output(output: int) -> None:
    """Make stdout and stderr refer to `output`, and close `output`."""
    for fd in (1, 2):
        os.dup2(output, fd)
    os.close(output)
