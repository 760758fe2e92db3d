"""events: what happens to jobs, as it happens."""

from __future__ import annotations

from datetime import datetime

import click

from bgctl.common import client, excerpt, global_options, is_terminal, print_json, verb
from bgctl.options import whole_number
from bgd.formatting import iso_time, progress_as_json, progress_line
from bgd.wire.requests import MAX_EVENT
from bgd.wire.views import EventView


@verb(
    "events",
    "bgctl events -f",
    "bgctl events --since 1200 | jq -c 'select(.state == \"failed\")'",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is to come, until Ctrl-C.")
@click.option(
    "--since",
    type=whole_number(0, MAX_EVENT),
    metavar="ID",
    help="After the event with this id; 0: all there are.",
)
def events_command(*, follow: bool, since: int | None) -> int:
    """Print what happened to jobs.

    Each is a JSON object on a line; a terminal gets plainer lines. Without --since: all that is kept, or
    with -f what is to come, and also how far jobs say they are, which is not kept.
    """
    is_for_people = is_terminal() and not global_options().json
    with client() as daemon:
        for event in daemon.events(since=since, follow=follow, progress=True):
            if is_for_people:
                click.echo(_line(event))
            else:
                print_json(_as_json(event))
    return 0


def _as_json(event: EventView) -> dict[str, object]:
    fields: dict[str, object] = {name: getattr(event, name) for name in event.__struct_fields__}
    return fields | {"at": iso_time(event.at), "progress": progress_as_json(event.progress)}


def _line(event: EventView) -> str:
    at = datetime.fromtimestamp(event.at).astimezone()
    is_of = event.state if event.progress is None else progress_line(event.progress)
    words = [f"{at:%H:%M:%S}", f"job {event.job}", f"{event.what}:", is_of]
    if event.attempt:
        words.append(f"(attempt {event.attempt}{f', {event.outcome}' if event.outcome else ''})")
    if event.reason:
        words.append(excerpt(event.reason))
    return " ".join(words)
