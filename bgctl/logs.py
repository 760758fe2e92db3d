"""The verb logs."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from typing import Any

import click

from bgctl import exit_codes
from bgctl.common import answer, global_options, is_terminal, print_json, say
from bgctl.options import FINISHED, PAST_TIME, JobIdRanges, chosen_ids, whole_number, with_ids
from bgctl.output import LogPrinter
from bgctl.showing import say_if_waiting
from bgctl.verbs import verb
from bgd import Client, Outcome, Refused
from bgd.text.escape import begun_at_end, one_line
from bgd.wire.requests import MAX_ATTEMPT, MAX_TAIL

MAX_OFFSET = 2**62
MAX_PIECE = 16 << 20  # bytes


@verb(
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
    help="Show attempt N; default: the latest.",
)
@click.option("--all", "all_attempts", is_flag=True, help="Show all attempts, oldest first.")
@click.option("--timestamps", is_flag=True, help="Prefix each line with its time.")
@click.option("--since", type=PAST_TIME, metavar="WHEN", help="Show what was written since, for example 5m.")
@click.option("--raw", is_flag=True, help="Print the output unchanged.")
@click.option("--after-byte", type=whole_number(0, MAX_OFFSET), metavar="N", help="Skip the first N bytes.")
@click.option(
    "--max-bytes", type=whole_number(1, MAX_PIECE), metavar="M", help="Print at most M bytes, for programs."
)
@click.option("--path", is_flag=True, help="Print the path of the log instead.")
@with_ids()
def logs_command(
    daemon: Client,
    ids: JobIdRanges,
    *,
    attempt: int | None,
    after_byte: int | None,
    max_bytes: int | None,
    path: bool,
    **shown: Any,
) -> int:
    """Show the output of jobs.

    The default is your latest job. Lines rewritten with carriage returns are shown in their final state. On a
    terminal, control characters are made visible, except colors.

    With --after-byte or --max-bytes print a piece of one attempt, unchanged; with --json as one document with
    next_byte, to continue from, and at_end, true if no more will come.
    """
    if attempt is not None and shown["all_attempts"]:
        raise click.UsageError("--attempt and --all cannot be combined")
    is_piece = after_byte is not None or max_bytes is not None
    others = {name for name, value in shown.items() if value is not None and value is not False} - {"raw"}
    if is_piece and (path or others):
        raise click.UsageError("--after-byte and --max-bytes go with --attempt and --json only")
    job_ids = chosen_ids(daemon, ids)
    if is_piece:
        if len(job_ids) > 1:
            raise click.UsageError("--after-byte and --max-bytes take one job")
        return _print_piece(daemon, job_ids[0], attempt, after_byte or 0, max_bytes or MAX_PIECE)
    if path:
        return max([_print_path(daemon, job_id, attempt) for job_id in job_ids])
    for job_id in job_ids:
        _print_log(daemon, job_id, attempt, is_one_of=len(job_ids), **shown)
    return 0


def _print_log(  # noqa: PLR0913 - one parameter per option
    daemon: Client,
    job_id: int,
    attempt: int | None,
    *,
    is_one_of: int,
    follow: bool,
    lines: int | None,
    all_attempts: bool,
    timestamps: bool,
    since: float | None,
    raw: bool,
) -> None:
    if follow and is_terminal():
        say_if_waiting(daemon, job_id)
    printer = LogPrinter(job_id, raw=raw, timestamps=timestamps, headers=all_attempts or is_one_of > 1)
    for part in daemon.logs(
        job_id,
        attempt=0 if all_attempts else attempt,
        follow=follow,
        tail=lines,
        timestamps=timestamps or global_options().json,
        since=since,
    ):
        printer.write(part)
    printer.end()
    if printer.is_empty and lines != 0 and not global_options().json:
        say(
            _why_empty(daemon, job_id, attempt) if since is None else f"job {job_id} wrote nothing since then"
        )


def _print_piece(daemon: Client, job_id: int, attempt: int | None, begin: int, limit: int) -> int:
    """Print some bytes of an attempt, and where the next ones begin."""
    job = daemon.job(job_id)
    number = attempt or max(job.attempt, 1)
    is_over = job.state in FINISHED or number < job.attempt  # before the log is read
    data, left_out, next_byte, at_end = bytearray(), 0, begin, True
    if job.attempt or number > 1:  # otherwise it has not started: there is nothing yet
        with closing(daemon.logs(job_id, attempt=number, offset=begin)) as parts:
            for part in parts:
                left_out += part.left_out
                more = part.data[: limit - len(data)]
                data += more
                next_byte = part.offset + len(more)
                if len(data) >= limit:
                    at_end = False
                    break
    if not global_options().json:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        say(f"next byte: {next_byte}")
        return 0
    if (cut := begun_at_end(data)) and cut < len(data):
        del data[-cut:]  # the rest of the character comes with the next piece
        next_byte, at_end = next_byte - cut, False
    print_json(
        {
            "job": job_id,
            "attempt": number,
            "data": data.decode(errors="replace"),
            "next_byte": next_byte,
            "left_out": left_out,
            "at_end": is_over and at_end,
        }
    )
    return 0


def _why_empty(daemon: Client, job_id: int, attempt: int | None) -> str:
    """Return why a log is empty, so that it does not look like an error."""
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
        raise Refused(
            f"job {job_id} has no attempt {attempt or 'yet'}: `bgctl show {job_id}` shows those it has"
        )
    shown = found[-1]
    exists = _exists(shown.log_path)
    if not exists and shown.outcome is not None:
        wrote = (
            f"wrote {shown.log_bytes} bytes, but {shown.log_path} does not exist" if shown.log_bytes else ""
        )
        say(f"job {job_id} {wrote or 'wrote nothing: it has no log'}")
        return exit_codes.REFUSED
    answer({"job": job_id, "attempt": shown.attempt, "log_path": shown.log_path}, shown.log_path)
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
