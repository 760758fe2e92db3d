"""The verb logs."""

from __future__ import annotations

import os

import click

from bgctl import exit_codes
from bgctl.common import client, global_options, is_terminal, print_json, say
from bgctl.options import JobIdRanges, JobIdsType, chosen_ids, whole_number
from bgctl.output import LogPrinter
from bgctl.showing import say_if_waiting
from bgctl.verbs import verb
from bgd import Client, Outcome, Refused
from bgd.escape import one_line
from bgd.wire.requests import MAX_ATTEMPT, MAX_TAIL


@verb(
    "logs",
    "bgctl logs 12",
    "bgctl logs -f -n 20 last",
    "bgctl logs --all --timestamps 12 > log.txt",
)
@click.option(
    "-f", "--follow", is_flag=True, help="Follow the output of all attempts until the job finishes."
)
@click.option("-n", "lines", type=whole_number(0, MAX_TAIL), metavar="N", help="Start with the last N lines.")
@click.option(
    "--attempt",
    type=whole_number(1, MAX_ATTEMPT),
    metavar="N",
    help="Show this attempt; default: the latest.",
)
@click.option("--all", "all_attempts", is_flag=True, help="Show all attempts, oldest first.")
@click.option("--timestamps", is_flag=True, help="Prefix each line with its time.")
@click.option("--raw", is_flag=True, help="Print the output unchanged.")
@click.option("--path", is_flag=True, help="Print the path of the log instead.")
@click.argument("ids", nargs=-1, type=JobIdsType(), metavar="[ID]...")
def logs_command(  # noqa: PLR0913 - one parameter per option
    ids: JobIdRanges,
    *,
    follow: bool,
    lines: int | None,
    attempt: int | None,
    all_attempts: bool,
    timestamps: bool,
    raw: bool,
    path: bool,
) -> int:
    """Show the output of jobs.

    The default is your latest job. A line that carriage returns rewrite is shown as it last was. On a
    terminal, control characters are made visible, except colors.
    """
    if attempt is not None and all_attempts:
        raise click.UsageError("--attempt and --all exclude each other")
    with client() as daemon:
        job_ids = chosen_ids(daemon, ids)
        if path:
            return max([_print_path(daemon, job_id, attempt) for job_id in job_ids])
        for job_id in job_ids:
            if follow and is_terminal():
                say_if_waiting(daemon, job_id)
            printer = LogPrinter(
                job_id, raw=raw, timestamps=timestamps, headers=all_attempts or len(job_ids) > 1
            )
            for part in daemon.logs(
                job_id,
                attempt=0 if all_attempts else attempt,
                follow=follow,
                tail=lines,
                timestamps=timestamps or global_options().json,
            ):
                printer.write(part)
            printer.end()
            if printer.is_empty and lines != 0 and not global_options().json:
                say(_why_empty(daemon, job_id, attempt))
    return 0


def _why_empty(daemon: Client, job_id: int, attempt: int | None) -> str:
    """Return why a log is empty, so that it does not look like a fault."""
    job = daemon.job(job_id)
    found = [each for each in job.attempts() if attempt in {None, each.attempt}]
    if found and found[-1].outcome is Outcome.NOT_STARTED and found[-1].error is not None:
        return f"job {job_id} was not started: {one_line(found[-1].error.message)}"
    if job.finished_at is None:
        return f"job {job_id} is {job.state}: no output yet"
    return f"job {job_id} wrote nothing" if found else f"job {job_id} was never started"


def _print_path(daemon: Client, job_id: int, attempt: int | None) -> int:
    """Print the path of the log; return the exit code, not 0 if there will never be a log."""
    attempts = daemon.attempts(job_id)
    found = [each for each in attempts if attempt in {None, each.attempt}]
    if not found:
        raise Refused(f"job {job_id} has no attempt {attempt or 'yet'}")
    shown = found[-1]
    exists = _exists(shown.log_path)
    if not exists and shown.outcome is not None:
        wrote = (
            f"wrote {shown.log_bytes} bytes, but {shown.log_path} does not exist" if shown.log_bytes else ""
        )
        say(f"job {job_id} {wrote or 'wrote nothing: it has no log'}")
        return exit_codes.REFUSED
    if global_options().json:
        print_json({"job": job_id, "attempt": shown.attempt, "log_path": shown.log_path})
    else:
        click.echo(shown.log_path)
    if not exists:
        say(f"job {job_id} has no log yet: its first output creates the file")
    return 0


def _exists(path: str) -> bool:
    try:
        os.stat(path)  # noqa: PTH116 - Path.exists hides missing permission
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # this user may not see it
    return True
