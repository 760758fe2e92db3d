"""The verbs slots, pause, resume and queue: limits on running jobs, and the state of queues."""

from __future__ import annotations

import time

import click

from bgctl.columns import first_of
from bgctl.common import answer, global_options, report, say
from bgctl.options import QUEUE_NAME, slots_or
from bgctl.tables import ALL_PAUSED, UNLIMITED, queue_lines
from bgctl.verbs import verb, verb_group
from bgd import Client
from bgd.errors import nearest
from bgd.text.formatting import reply_as_json
from bgd.text.units import counted
from bgd.wire.replies import Queues

_AUTO = "auto"

_queue_argument = click.argument("queue", required=False, type=QUEUE_NAME)


@verb(
    "bgctl slots",
    "bgctl slots 8",
    "bgctl slots auto",
)
@click.argument("slots", required=False, type=slots_or(_AUTO), metavar="[N|auto]")
def slots_command(daemon: Client, slots: int | str | None) -> None:
    """Show or set the number of slots.

    auto restores the configured number. Running jobs keep running.
    """
    queues = daemon.queues() if slots is None else daemon.set_slots(_slots_or_none(slots))
    usual = "" if queues.slots == queues.configured_slots else f" (configured: {queues.configured_slots})"
    answer(
        {name: getattr(queues, name) for name in ("slots", "configured_slots", "taken")},
        f"{counted(queues.slots, 'slot')}{usual}, {queues.taken} taken",
    )
    _say_if_paused(queues)


@verb("bgctl pause", "bgctl pause mail")
@_queue_argument
def pause_command(daemon: Client, queue: str | None) -> None:
    """Start no more jobs, in one queue or in all.

    `bgctl resume` undoes it, with the same QUEUE or without one. Running jobs keep running; use `bgctl
    suspend` to stop them, and `bgctl hold` for single jobs.
    """
    queues = daemon.pause(queue)
    others = {each.name: each for each in queues.queues}
    paused = others.pop(queue or "", None)
    is_new = paused is not None and not paused.counts and paused.slots == paused.configured_slots is None
    note = (
        f"; no job waits in it yet ({nearest(paused.name, others)}); `bgctl suspend ID` halts a job"
        if paused and is_new
        else ""
    )
    report(reply_as_json(queues), f"{_queue_is(queue)} paused{note}")


@verb("bgctl resume", "bgctl resume mail")
@_queue_argument
def resume_command(daemon: Client, queue: str | None) -> None:
    """Undo `bgctl pause`.

    Without QUEUE, undo only the pause of all queues together. Queues that were paused by name stay paused.
    """
    queues = daemon.resume(queue)
    paused = [each.name for each in queues.queues if each.paused]
    if queue is None and paused:
        said = f"all queues are resumed except {first_of(paused)}: `bgctl resume {paused[0]}`"
    elif queue is not None and queues.paused:
        said = f"queue {queue} is not paused by name any more; {ALL_PAUSED}"
    else:
        said = f"{_queue_is(queue)} resumed"
    report(reply_as_json(queues), said)


@verb("bgctl queue list", "bgctl queue list --json")
def list_command(daemon: Client) -> None:
    """List queues.

    The list contains queues that are configured, set or paused, and queues with unfinished jobs. A second
    list shows rates, the next start that they allow, and weights. A third list shows the tokens of each
    resource, how many are taken, and how many queued jobs ask for one. A last list shows what the oldest
    queued job of a queue waits for, if that is more than its turn.
    """
    queues = daemon.queues()
    answer(reply_as_json(queues), *queue_lines(queues, time.time()))
    _say_if_paused(queues)


@verb("bgctl queue set mail --slots 2", "bgctl queue set mail --slots unlimited")
@click.argument("name", type=QUEUE_NAME)
@click.option(
    "--slots",
    required=True,
    type=slots_or(UNLIMITED),
    metavar="N|unlimited",
    help="Limit on its running jobs, within the daemon's slots.",
)
def set_command(daemon: Client, name: str, *, slots: int | str) -> None:
    """Set the number of slots of a queue.

    The number survives restarts and overrides the configuration until `bgctl queue remove`.
    """
    queues = daemon.set_queue(name, _slots_or_none(slots))
    report(reply_as_json(queues), f"queue {name} has {counted(slots, 'slot')}")


@verb("bgctl queue remove mail")
@click.argument("name", type=QUEUE_NAME)
def remove_command(daemon: Client, name: str) -> None:
    """Reset a queue to its configuration.

    This also resumes it. Its jobs stay.
    """
    queues = daemon.remove_queue(name)
    report(reply_as_json(queues), f"queue {name} is as configured")


queue_command = verb_group(
    "queue", "List queues and set their slots.", list_command, set_command, remove_command
)


def _say_if_paused(queues: Queues) -> None:
    if queues.paused and not global_options().json:
        say(ALL_PAUSED)


def _slots_or_none(slots: int | str) -> int | None:
    return slots if isinstance(slots, int) else None


def _queue_is(queue: str | None) -> str:
    return "all queues are" if queue is None else f"queue {queue} is"
