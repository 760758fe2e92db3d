"""The verbs slots, pause, resume and queue: limits on running jobs, and the state of queues."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click

from bgctl.columns import first_of
from bgctl.common import ALL_PAUSED, answer, global_options, report, say, table_of
from bgctl.options import QUEUE_NAME, slots_or
from bgctl.verbs import verb, verb_group
from bgd import Client, State
from bgd.brief import short_duration
from bgd.errors import nearest
from bgd.formatting import reply_as_json, why_queued
from bgd.units import counted
from bgd.wire.replies import Queues
from bgd.wire.views import QueueView

_UNLIMITED = "unlimited"
_AUTO = "auto"

_HEADINGS = ("QUEUE", "SLOTS", "STARTS", "RUNNING", "QUEUED", "SCHEDULED", "BLOCKED", "HELD")
_COUNTED_STATES = (State.RUNNING, State.QUEUED, State.SCHEDULED, State.BLOCKED, State.HELD)

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
    resources = [
        tuple(map(str, (each.name, each.tokens, each.taken, each.waiting))) for each in queues.resources
    ]
    lines = [*table_of(_HEADINGS, _rows(queues))]
    if limited := list(_rows_of_limited(queues)):
        lines += ["", *table_of(("QUEUE", "RATE", "NEXT", "WEIGHT"), limited)]
    if resources:
        lines += ["", *table_of(("RESOURCE", "TOKENS", "TAKEN", "WAITING"), resources)]
    if waiting := [(queue.name, why) for queue in queues.queues if (why := why_queued(queue))]:
        lines += ["", *table_of(("QUEUE", "QUEUED JOBS WAIT"), waiting)]
    answer(reply_as_json(queues), *lines)
    _say_if_paused(queues)


@verb("bgctl queue set mail --slots 2", "bgctl queue set mail --slots unlimited")
@click.argument("name", type=QUEUE_NAME)
@click.option(
    "--slots",
    required=True,
    type=slots_or(_UNLIMITED),
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


def _rows(queues: Queues) -> Iterator[tuple[str, ...]]:
    for queue in queues.queues:
        yield (
            queue.name,
            _UNLIMITED if queue.slots is None else str(queue.slots),
            "paused" if queue.paused or queues.paused else "yes",
            *(str(queue.counts.get(state, 0)) for state in _COUNTED_STATES),
        )


def _rows_of_limited(queues: Queues) -> Iterator[tuple[str, ...]]:
    for queue in queues.queues:
        if queue.rate is not None or queue.weight is not None:
            weight = "-" if queue.weight is None else str(queue.weight)
            yield queue.name, queue.rate or "-", _next_start(queue, is_paused=queues.paused), weight


def _next_start(queue: QueueView, *, is_paused: bool) -> str:
    if queue.rate is None:
        return "-"
    if is_paused or queue.paused:
        return "paused"
    left = 0.0 if queue.opens_at is None else queue.opens_at - time.time()
    return f"in {short_duration(left)}" if left > 0 else "now"
