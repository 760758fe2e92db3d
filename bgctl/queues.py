"""slots, pause, resume and queue: how many jobs run at once, and of which queues."""

from __future__ import annotations

from collections.abc import Iterator

import click

from bgctl.common import client, global_options, print_columns, print_json, say, verb, verb_group
from bgctl.options import QUEUE_NAME, SlotsType
from bgd import State
from bgd.wire.replies import Queues

_ALL_PAUSED = "all queues are paused together: `bgctl resume` goes on"

_UNLIMITED = "unlimited"
_AUTO = "auto"

_HEADINGS = ("QUEUE", "SLOTS", "STARTS", "RUNNING", "QUEUED", "SCHEDULED", "BLOCKED", "HELD")
_COUNTED = (State.RUNNING, State.QUEUED, State.SCHEDULED, State.BLOCKED, State.HELD)

_queue = click.argument("queue", required=False, type=QUEUE_NAME)


@verb(
    "slots",
    "bgctl slots",
    "bgctl slots 8",
    "bgctl slots auto",
)
@click.argument("slots", required=False, type=SlotsType(_AUTO), metavar="[N|auto]")
def slots_command(slots: int | str | None) -> int:
    """Show or set how many slots there are.

    auto: as configured. What runs already runs on.
    """
    with client() as daemon:
        queues = daemon.queues() if slots is None else daemon.set_slots(_number(slots))
    if global_options().json:
        print_json({name: getattr(queues, name) for name in ("slots", "configured_slots", "taken")})
    else:
        usual = "" if queues.slots == queues.configured_slots else f" (configured: {queues.configured_slots})"
        click.echo(f"{queues.slots} slots{usual}, {queues.taken} taken")
        if queues.paused:
            say(_ALL_PAUSED)
    return 0


@verb(
    "pause",
    "bgctl pause",
    "bgctl pause mail",
)
@_queue
def pause_command(queue: str | None) -> int:
    """Start no more jobs, of a queue or of any.

    `bgctl resume` undoes it. What runs already runs on; `bgctl suspend` stops it. `bgctl hold` is for
    single jobs.
    """
    with client() as daemon:
        queues = daemon.pause(queue)
    return _tell(queues, f"{_named(queue)} paused")


@verb(
    "resume",
    "bgctl resume",
    "bgctl resume mail",
)
@_queue
def resume_command(queue: str | None) -> int:
    """Undo `bgctl pause`.

    Without QUEUE the pause of all together is undone, not that of single queues.
    """
    with client() as daemon:
        queues = daemon.resume(queue)
    paused = ", ".join(each.name for each in queues.queues if each.paused)
    rest = f"; still paused: {paused}" if queue is None and paused else ""
    if queue is not None and queues.paused:
        rest = "; but all queues are paused together: `bgctl resume`"
    return _tell(queues, f"{_named(queue)} resumed{rest}")


@verb(
    "list",
    "bgctl queue list",
    "bgctl queue list --json",
)
def list_command() -> int:
    """List queues.

    These are those that are configured, set or paused, and those with unfinished jobs.
    """
    with client() as daemon:
        queues = daemon.queues()
    if global_options().json:
        return _tell(queues, "")
    print_columns(_HEADINGS, list(_rows(queues)))
    if queues.paused:
        say(_ALL_PAUSED)
    return 0


@verb(
    "set",
    "bgctl queue set mail --slots 2",
    "bgctl queue set mail --slots unlimited",
)
@click.argument("name", type=QUEUE_NAME)
@click.option(
    "--slots",
    required=True,
    type=SlotsType(_UNLIMITED),
    metavar="N|unlimited",
    help="How many of its jobs may run at once, within the daemon's slots.",
)
def set_command(name: str, *, slots: int | str) -> int:
    """Say how many slots a queue has.

    This is kept over restarts, whatever the configuration says, until `bgctl queue remove`.
    """
    with client() as daemon:
        queues = daemon.set_queue(name, _number(slots))
    return _tell(queues, f"queue {name} has {slots} {'slot' if slots == 1 else 'slots'}")


@verb(
    "remove",
    "bgctl queue remove mail",
)
@click.argument("name", type=QUEUE_NAME)
def remove_command(name: str) -> int:
    """Forget what was set of a queue.

    It is as configured again, and not paused. Its jobs stay.
    """
    with client() as daemon:
        queues = daemon.remove_queue(name)
    return _tell(queues, f"queue {name} is as configured")


queue_command = verb_group(
    "queue", "List queues, and say how many slots they have.", list_command, set_command, remove_command
)


def _tell(queues: Queues, message: str) -> int:
    """Print all queues as JSON if that is wanted, else say what was done."""
    if global_options().json:
        fields = {name: getattr(queues, name) for name in queues.__struct_fields__ if name != "id"}
        fields["queues"] = [
            {name: getattr(queue, name) for name in queue.__struct_fields__} for queue in queues.queues
        ]
        print_json(fields)
    else:
        say(message)
    return 0


def _number(slots: int | str) -> int | None:
    return slots if isinstance(slots, int) else None


def _named(queue: str | None) -> str:
    return "all queues are" if queue is None else f"queue {queue} is"


def _rows(queues: Queues) -> Iterator[tuple[str, ...]]:
    for queue in queues.queues:
        yield (
            queue.name,
            _UNLIMITED if queue.slots is None else str(queue.slots),
            "paused" if queue.paused or queues.paused else "yes",
            *(str(queue.counts.get(state, 0)) for state in _COUNTED),
        )
