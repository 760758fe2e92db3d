"""Tables for users, and those of queues and batches.

This module imports next to nothing, because `bgctl queue` and `bgctl batch list` start with it.
"""

from __future__ import annotations

import sys

from bgctl.columns import aligned
from bgctl.terminal import cells_of, fitted, screen_size
from bgd.text.brief import BATCH_COUNTS, short_duration
from bgd.text.escape import one_line

TYPE_CHECKING = False  # as type checkers know it; typing takes as long to import as Python to start
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bgd.wire.replies import Queues
    from bgd.wire.views import BatchView, QueueView

ALL_PAUSED = "all queues are paused together: `bgctl resume` undoes that"
UNLIMITED = "unlimited"
USUAL_BATCHES = 20  # in a list

_BATCH_HEADINGS = ("BATCH", "NAME", *(each.upper() for each in BATCH_COUNTS), "ENDED")
_COUNTED_STATES = ("running", "queued", "scheduled", "blocked", "held")
_QUEUE_HEADINGS = ("QUEUE", "SLOTS", "STARTS", *(each.upper() for each in _COUNTED_STATES))


def table_of(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a table for users; on a terminal none is wider than the screen."""
    columns, _ = screen_size()
    for line in aligned([headings, *(tuple(map(one_line, row)) for row in rows)], cells_of):
        yield fitted(line, columns) if sys.stdout.isatty() else line


def local_time(at: float | None, now: float) -> str:
    """Return an instant for people: local time and distance from `now`; "-" for None."""
    if at is None:
        return "-"
    from datetime import datetime  # noqa: PLC0415 - most tables have no instants

    distance = f"{short_duration(now - at)} ago" if at <= now else f"in {short_duration(at - now)}"
    return f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S} ({distance})"


# --- queues -------------------------------------------------------------------------------------------------


def queue_lines(queues: Queues, now: float) -> Iterator[str]:
    """Yield tables of queues, of their rates and weights, of resources, and of what queued jobs wait for."""
    resources = [
        tuple(map(str, (each.name, each.tokens, each.taken, each.waiting))) for each in queues.resources
    ]
    yield from table_of(_QUEUE_HEADINGS, _rows(queues))
    if limited := list(_rows_of_limited(queues, now)):
        yield from ("", *table_of(("QUEUE", "RATE", "NEXT", "WEIGHT"), limited))
    if resources:
        yield from ("", *table_of(("RESOURCE", "TOKENS", "TAKEN", "WAITING"), resources))
    if any(queue.why_waiting for queue in queues.queues):
        from bgd.text.formatting import why_queued  # noqa: PLC0415 - it imports all options of jobs

        if waiting := [(queue.name, why) for queue in queues.queues if (why := why_queued(queue))]:
            yield from ("", *table_of(("QUEUE", "QUEUED JOBS WAIT"), waiting))


def _rows(queues: Queues) -> Iterator[tuple[str, ...]]:
    for queue in queues.queues:
        yield (
            queue.name,
            UNLIMITED if queue.slots is None else str(queue.slots),
            "paused" if queue.paused or queues.paused else "yes",
            *(str(queue.counts.get(state, 0)) for state in _COUNTED_STATES),
        )


def _rows_of_limited(queues: Queues, now: float) -> Iterator[tuple[str, ...]]:
    for queue in queues.queues:
        if queue.rate is not None or queue.weight is not None:
            weight = "-" if queue.weight is None else str(queue.weight)
            next_start = _next_start(queue, now, is_paused=queues.paused or queue.paused)
            yield queue.name, queue.rate or "-", next_start, weight


def _next_start(queue: QueueView, now: float, *, is_paused: bool) -> str:
    if queue.rate is None:
        return "-"
    if is_paused:
        return "paused"
    left = 0.0 if queue.opens_at is None else queue.opens_at - now
    return f"in {short_duration(left)}" if left > 0 else "now"


# --- batches ------------------------------------------------------------------------------------------------


def batch_lines(batches: Iterable[BatchView], now: float) -> Iterator[str]:
    """Yield the table of batches."""
    return table_of(_BATCH_HEADINGS, [_row_of_batch(each, now) for each in batches])


def _row_of_batch(view: BatchView, now: float) -> tuple[str, ...]:
    counts = (str(getattr(view, name)) for name in BATCH_COUNTS)
    return (str(view.id), view.name or "-", *counts, end_of_batch(view, now))


def end_of_batch(view: BatchView, now: float) -> str:
    """Return when a batch ended, or that it has not."""
    if view.finished_at is None and not view.is_whole:
        return "not yet: more jobs may come"
    return "not yet" if view.finished_at is None else local_time(view.finished_at, now)


def more_batches(count: int) -> str:
    """Return the option that lists the batches that follow these."""
    return f"showing {count} batches; there may be more: --limit N"
