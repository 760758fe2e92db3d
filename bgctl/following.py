"""Following a job to its end: its output, its exit code, and what Ctrl-C means meanwhile."""

from __future__ import annotations

import threading

from bgctl import exit_codes
from bgctl.common import global_options, is_terminal, print_json, say
from bgctl.exit_codes import describe_end, exit_code_of
from bgctl.output import Output
from bgctl.reasons import say_if_waiting
from bgd import Client, DaemonUnreachable, Job
from bgd.formatting import job_as_json

_SECOND_THOUGHT_SECONDS = 2.0  # for a second Ctrl-C


def follow_job(daemon: Client, job: Job, *, raw: bool = False) -> int:
    """Show a new job's output until it has finished; return its exit code.

    Ctrl-C leaves it alone and says how to come back; a second one cancels it. `raw`: a terminal gets the
    very bytes.
    """
    output = Output(job.id, raw=raw)
    try:
        return _followed(daemon, job, output)
    except DaemonUnreachable as error:
        output.leave_line()
        raise DaemonUnreachable(f"{error}; job {job.id} runs on: {_way_back(job)}") from error
    except KeyboardInterrupt:
        output.leave_line()
        if not _is_to_be_cancelled(job):
            say(f"job {job.id} runs on: {_way_back(job)}")
            return exit_codes.INTERRUPTED
    say(f"cancelling job {job.id}")
    daemon.cancel([job.id])  # if it has just finished, its end is told all the same
    return wait_for_job(job)


def wait_for_job(job: Job) -> int:
    """Wait until a job has finished; return its exit code."""
    return _told(job.wait())


def _followed(daemon: Client, job: Job, output: Output) -> int:
    if is_terminal():
        say_if_waiting(daemon, job.id)
    for part in daemon.logs(job.id, attempt=0, follow=True):
        output.write(part)
    output.end()
    job.wait()
    if exit_code_of(job):
        output.leave_line()
    return _told(job)


def _told(job: Job) -> int:
    if global_options().json:
        print_json(job_as_json(job.view))
    elif code := exit_code_of(job):
        say(f"job {job.id} {describe_end(job)}")
        return code
    return exit_code_of(job)


def _way_back(job: Job) -> str:
    return f"`bgctl logs -f {job.id}` shows it, `bgctl cancel {job.id}` ends it"


def _is_to_be_cancelled(job: Job) -> bool:
    say(f"Ctrl-C again within {_SECOND_THOUGHT_SECONDS:g} s cancels job {job.id}")
    try:
        threading.Event().wait(_SECOND_THOUGHT_SECONDS)
    except KeyboardInterrupt:
        return True
    return False
