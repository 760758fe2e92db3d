"""cancel and retry: what is done to jobs by id."""

from __future__ import annotations

from collections.abc import Sequence

import click

from bgctl import codes
from bgctl.common import client, common, say, verb
from bgctl.ids import Ids, chosen_ids
from bgctl.show import print_json
from bgd.client.session import error_in
from bgd.wire.replies import ActResult

_ids = click.argument("ids", nargs=-1, required=True, type=Ids(), metavar="ID...")


@verb(
    "cancel",
    "bgctl cancel 12",
    "bgctl cancel 3-9 last",
    "bgctl cancel $(bgctl list -q --state queued --limit 10000)",
)
@_ids
def cancel_command(ids: tuple[range, ...]) -> int:
    """Cancel jobs.

    Who waits never starts; who runs is made to end, first politely, then by force.
    """
    with client() as daemon:
        return _report(daemon.cancel(chosen_ids(daemon, ids)))


@verb(
    "retry",
    "bgctl retry 12",
    "bgctl retry $(bgctl list -q --state failed)",
)
@_ids
def retry_command(ids: tuple[range, ...]) -> int:
    """Run finished jobs again, with all their retries before them."""
    with client() as daemon:
        return _report(daemon.retry(chosen_ids(daemon, ids)))


def _report(results: Sequence[ActResult]) -> int:
    """Say what became of each; return 0 if it was done to all, else the code of the first refusal."""
    errors = [error for result in results if (error := error_in(result))]
    if common().json:
        print_json([{"id": each.job, "state": each.state, "error": each.message} for each in results])
    else:
        for result in results:
            if result.state is not None:
                click.echo(f"{result.job} {result.state}")
    for error in errors:
        say(str(error))
    return codes.of_error(errors[0]) if errors else 0
