"""prune: finished jobs that nobody needs any more."""

from __future__ import annotations

from functools import partial

import click

from bgctl import exit_codes
from bgctl.acting import FOREVER, is_confirmed
from bgctl.common import client, global_options, print_json, say, verb
from bgctl.options import DURATION, FINISHED, SIZE, whole_number
from bgd.units import format_size
from bgd.wire.replies import Pruned
from bgd.wire.steering import MAX_KEPT


@verb(
    "prune",
    "bgctl prune --dry-run",
    "bgctl prune --older-than 2d",
    "bgctl prune --state succeeded --keep 1000 --yes",
)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([str(state) for state in FINISHED]),
    metavar="STATE",
    help="Only jobs in this state; several may be given.",
)
@click.option("--older-than", type=DURATION, metavar="D", help="That finished longer ago, as 2d.")
@click.option(
    "--keep", type=whole_number(0, MAX_KEPT), metavar="N", help="All but the latest N of each state."
)
@click.option("--logs-total", type=SIZE, metavar="SIZE", help="Until all logs take no more, as 1GB.")
@click.option("--dry-run", is_flag=True, help="Only say how many they are.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before it is done to several.")
def prune_command(
    *,
    states: tuple[str, ...],
    older_than: float | None,
    keep: int | None,
    logs_total: int | None,
    dry_run: bool,
    yes: bool,
) -> int:
    """Delete finished jobs and their logs, the longest finished first.

    Without --older-than, --keep and --logs-total it does at once what the daemon does by itself as
    [retention] of its configuration says. Of several, each takes its share. Ids are never given out again.
    """
    with client() as daemon:
        prune = partial(
            daemon.prune, states=states or None, older_than=older_than, keep=keep, logs_total=logs_total
        )
        pruned = prune(dry_run=True)
        if not dry_run and pruned.jobs:
            if (
                pruned.jobs > 1
                and not yes
                and not is_confirmed("removed", pruned.jobs, FOREVER, rehearsal="")
            ):
                say("nothing was done")
                return exit_codes.REFUSED
            pruned = prune()
    if global_options().json:
        print_json({"jobs": pruned.jobs, "log_bytes": pruned.log_bytes})
    else:
        click.echo(_in_words(pruned, dry_run=dry_run))
    return 0


def _in_words(pruned: Pruned, *, dry_run: bool) -> str:
    if not pruned.jobs:
        return "no job would be removed" if dry_run else "no job was removed"
    jobs = "1 job" if pruned.jobs == 1 else f"{pruned.jobs} jobs"
    return f"{jobs}{' would be' if dry_run else ''} removed, with {format_size(pruned.log_bytes)} of logs"
