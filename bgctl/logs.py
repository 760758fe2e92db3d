"""logs: what jobs have written."""

from __future__ import annotations

import os

import click

from bgctl import exit_codes
from bgctl.common import client, global_options, is_terminal, print_json, say, verb
from bgctl.options import JobIdRanges, JobIdsType, chosen_ids, whole_number
from bgctl.output import Output
from bgctl.reasons import say_if_waiting
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
    "-f", "--follow", is_flag=True, help="Go on until the job has finished, over all attempts to come."
)
@click.option(
    "-n", "lines", type=whole_number(0, MAX_TAIL), metavar="N", help="Only the last N lines of what there is."
)
@click.option(
    "--attempt", type=whole_number(1, MAX_ATTEMPT), metavar="N", help="Of this attempt; else of the latest."
)
@click.option("--all", "all_attempts", is_flag=True, help="Of all attempts, oldest first.")
@click.option("--timestamps", is_flag=True, help="Begin each line with the time it came.")
@click.option("--raw", is_flag=True, help="Give a terminal control characters as they are.")
@click.option("--path", is_flag=True, help="Print where the log lies instead.")
@click.argument("ids", nargs=-1, type=JobIdsType(), metavar="[ID]...")
def logs_command(  # noqa: PLR0913 - one parameter an option
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

    Without an ID your latest job is meant. On a terminal control characters are shown, not obeyed, but for
    colours.
    """
    if attempt is not None and all_attempts:
        raise click.UsageError("--attempt and --all exclude each other")
    wanted = 0 if all_attempts else attempt
    with_times = timestamps or global_options().json
    code = 0
    with client() as daemon:
        job_ids = chosen_ids(daemon, ids)
        for job_id in job_ids:
            if path:
                code = _print_path(daemon, job_id, attempt) or code
                continue
            if follow and is_terminal():
                say_if_waiting(daemon, job_id)
            output = Output(job_id, raw=raw, timestamps=timestamps, headers=all_attempts or len(job_ids) > 1)
            for part in daemon.logs(
                job_id,
                attempt=wanted,
                follow=follow,
                tail=lines,
                timestamps=with_times,
            ):
                output.write(part)
            output.end()
            if output.is_empty and lines != 0 and not global_options().json:
                say(_why_empty(daemon, job_id, attempt))
    return code


def _why_empty(daemon: Client, job_id: int, attempt: int | None) -> str:
    """Say why there is no output, which a person would else take for a fault."""
    job = daemon.job(job_id)
    found = [each for each in job.attempts() if attempt in {None, each.attempt}]
    if found and found[-1].outcome is Outcome.NOT_STARTED and found[-1].error is not None:
        return f"job {job_id} was not started: {one_line(found[-1].error.message)}"
    if job.finished_at is None:
        return f"job {job_id} is {job.state}: no output yet"
    return f"job {job_id} wrote nothing" if found else f"job {job_id} was never started"


def _print_path(daemon: Client, job_id: int, attempt: int | None) -> int:
    """Print where the log is; return the exit code: not 0 if there is none and will be none."""
    attempts = daemon.attempts(job_id)
    found = [each for each in attempts if attempt in {None, each.attempt}]
    if not found:
        raise Refused(f"job {job_id} has no attempt {attempt or 'yet'}")
    shown = found[-1]
    is_there = _is_there(shown.log_path)
    if not is_there and shown.outcome is not None:
        wrote = f"wrote {shown.log_bytes} bytes, and {shown.log_path} is not there" if shown.log_bytes else ""
        say(f"job {job_id} {wrote or 'wrote nothing: it has no log'}")
        return exit_codes.REFUSED
    if global_options().json:
        print_json({"job": job_id, "attempt": shown.attempt, "log_path": shown.log_path})
    else:
        click.echo(shown.log_path)
    if not is_there:
        say(f"job {job_id} has no log yet: its first output makes the file")
    return 0


def _is_there(path: str) -> bool:
    try:
        os.stat(path)  # noqa: PTH116 - unlike Path.exists it tells what is not there from what is not shown
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # for all that this user may see
    return True
