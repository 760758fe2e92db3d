"""The verbs attach and send, and `run -it`: a keyboard for the terminal of a job."""

from __future__ import annotations

import os
import sys

import click

from bgctl import exit_codes
from bgctl.common import WrongUsage, global_options, report
from bgctl.options import NamedJobs, chosen_ids, job_ids
from bgctl.output import leave, maybe_goes_on, report_end
from bgctl.showing import say_if_waiting
from bgctl.terminal import takes_more
from bgctl.verbs import verb
from bgd import Client, DaemonUnreachable, State

MAX_TEXT = 64 * 1024  # bytes of one `send`

_active_job = click.argument("job", type=job_ids({State.RUNNING, State.STOPPING}), metavar="ID")


@verb("bgctl attach 12", "bgctl attach last")
@_active_job
def attach_command(daemon: Client, job: NamedJobs) -> int:
    """Type into the terminal of a running job.

    The job was submitted with --pty, or started by run -it. Ctrl-P Ctrl-Q detaches and leaves it running. Of
    several that are attached, the first one types; when it leaves, the next one does. The exit code is the
    job's own if it ends meanwhile, 0 after detaching.
    """
    check_terminal("attach")
    return attach(daemon, _only(daemon, job))


@verb("bgctl send 12 yes", "bgctl send --no-newline last q", "bgctl send 12 - < answers.txt")
@click.option("--no-newline", is_flag=True, help="Do not add a newline.")
@_active_job
@click.argument("text")
def send_command(daemon: Client, job: NamedJobs, text: str, *, no_newline: bool) -> None:
    """Write a line to the terminal of a running job.

    The job reads it as if it were typed. TEXT - reads stdin, at most 64 KiB. A newline is added unless the
    text ends with one.
    """
    data = sys.stdin.buffer.read(MAX_TEXT + 1) if text == "-" else os.fsencode(text)
    if not (no_newline or data.endswith(b"\n")):
        data += b"\n"
    if len(data) > MAX_TEXT:
        raise click.UsageError(f"send takes {MAX_TEXT} bytes at most: let the job read a file instead")
    job_id = _only(daemon, job)
    keyboard = daemon.keyboard(job_id)
    assert keyboard is not None  # noqa: S101 - the daemon refuses a job that does not run
    with keyboard:
        keyboard.write(data)
    report({"job": job_id, "attempt": keyboard.attempt, "bytes": len(data)})


def _only(daemon: Client, words: NamedJobs) -> int:
    first, *others = chosen_ids(daemon, (words,))
    if others:
        raise click.UsageError("one job at a time")
    return first


def check_terminal(what: str) -> None:
    """Refuse to attach without a terminal.

    Raises:
        WrongUsage: stdin is not one, or JSON is asked for.
    """
    if not sys.stdin.isatty():
        raise WrongUsage(
            f"{what} needs a terminal, but stdin is not one: `bgctl run -i PROGRAM` passes stdin to a new"
            " job, `bgctl send ID TEXT` writes to a running one"
        )
    if global_options().json:
        raise WrongUsage(f"{what} prints no JSON: `bgctl logs -f --json ID` does")


def attach(daemon: Client, job_id: int, *, is_new: bool = False) -> int:
    """Connect this terminal to that of a job until it finishes or the user detaches; return the exit code.

    `is_new`: show its output from the beginning, and wait for its start.
    """
    import asyncio  # noqa: PLC0415 - help and most verbs do without it

    from bgctl.session import Session  # noqa: PLC0415 - as above

    how_to_return = f"`bgctl attach {job_id}` comes back, `bgctl cancel {job_id}` cancels it"
    session = Session(job_id)
    try:
        if is_new:
            say_if_waiting(daemon, job_id)
        is_over = asyncio.run(session.run(is_new=is_new))
        code = exit_codes.INTERRUPTED if is_new else 0
    except KeyboardInterrupt:  # while the job does not run
        is_over, code = False, exit_codes.INTERRUPTED
    except asyncio.CancelledError:
        is_over, code = False, session.exit_code
    except DaemonUnreachable as error:
        raise DaemonUnreachable(f"{error}; {maybe_goes_on(job_id, how_to_return)}") from error
    if is_over:
        return report_end(daemon, daemon.job(job_id).wait())
    if takes_more(2):
        code = leave(daemon, job_id, code, how_to_return)
    return session.exit_code or code
