"""Find the jobs of a list, and count them, slice by slice: others may search in between, and it may stop."""

from __future__ import annotations

import asyncio
import math

from msgspec import Struct
from msgspec.structs import replace

from bgd.core.filters import ALL_STATES, Filter, but_notifications
from bgd.core.job import WAITING, JobId, State
from bgd.daemon.storage import lists, summaries
from bgd.daemon.storage.store import StoreReader
from bgd.daemon.storage.summaries import Count
from bgd.daemon.web.queries import MAX_SORTED, ORDERS, ListQuery

MAX_COUNTED = 1_000  # jobs of a state that match a filter; more are not counted
_FIRST_SLICE = 1_000  # jobs that are looked at before it is known how long that takes
_FIRST_SPECS = 50  # likewise, if their specs are looked at
_SLICE_SECONDS = 0.005
_GROWTH = 4.0  # from one slice to the next, at most


class ListPage(Struct, frozen=True, kw_only=True):
    """A part of a list: the ids of its jobs, in its order.

    `newer`, `older`: the fields of the query for the parts before and after it; None: there are none.
    `searched_to`: the time was up at this id, before the part was full.
    """

    ids: list[JobId]
    newer: dict[str, object] | None
    older: dict[str, object] | None
    searched_to: int | None = None


async def find(
    store: StoreReader,
    wanted: Filter,
    start: int | None = None,
    *,
    limit: float = math.inf,
    seconds: float = math.inf,
    ascending: bool = False,
) -> tuple[list[JobId], int | None]:
    """Return up to `limit` wanted jobs after `start`, as far as they are found in this time.

    Also return the id after which the rest begins; None: there is no rest. Their order, and what `start` and
    `ascending` mean, are those of `next_slice`.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    rows = _FIRST_SPECS if lists.reads_specs(wanted) else _FIRST_SLICE
    ids: list[JobId] = []
    while True:
        began = loop.time()
        most = int(min(limit - len(ids), MAX_SORTED))
        part, start = await store.search(lists.next_slice, wanted, start, most, rows, ascending=ascending)
        ids += part
        now = loop.time()
        if start is None or len(ids) >= limit or now >= end:
            return ids, start
        rows = max(int(rows * min(_SLICE_SECONDS / max(now - began, 1e-6), _GROWTH)), 1)


async def find_page(store: StoreReader, query: ListQuery, wanted: Filter, seconds: float) -> ListPage:
    """Return the part of a list that a query asks for, as far as it is found in this time."""
    limit = query.limit
    if query.sort is not None:
        found = await _find_sorted(store, wanted, query.sort, query.skip, limit + 1, seconds)
        return ListPage(
            ids=found[:limit],
            newer={"from": max(query.skip - limit, 0) or None} if query.skip else None,
            older={"from": query.skip + limit} if len(found) > limit else None,
        )
    if query.after is not None:
        found, rest = await find(store, wanted, query.after, limit=limit + 1, seconds=seconds, ascending=True)
        if rest is not None:
            ids = found[:limit][::-1]
            newer = ids[0] if len(found) > limit else rest
            oldest = ids[-1] if ids else query.after + 1
            return ListPage(ids=ids, newer=_moved(after=newer), older=_moved(before=oldest))
    before = query.before if query.after is None else None  # all newer ones fit on the first page
    found, rest = await find(store, wanted, before, limit=limit + 1, seconds=seconds)
    ids, is_full = found[:limit], len(found) > limit
    older = ids[-1] if is_full else rest
    return ListPage(
        ids=ids,
        newer=None if before is None else _moved(after=ids[0] if ids else before - 1),
        older=None if older is None else _moved(before=older),
        searched_to=None if is_full else rest,
    )


def _moved(*, before: int | None = None, after: int | None = None) -> dict[str, object]:
    return {"before": before, "after": after}


async def _find_sorted(
    store: StoreReader, wanted: Filter, order: str, skip: int, limit: int, seconds: float
) -> list[JobId]:
    """Return up to `limit` wanted jobs after the first `skip` of an order.

    What the order is for comes first. An index gives those that finished last, if nothing but the state is
    asked for. Otherwise, if there are more than MAX_SORTED, they are only the newest, or of those that wait
    the oldest. The other jobs follow, the newest first.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    states, column = ORDERS[order]
    needed = skip + limit
    of_order = replace(wanted, states=tuple(state for state in wanted.states if state in states))
    if order == "finished" and replace(wanted, states=ALL_STATES) == but_notifications(Filter()):
        ids = await store.search(lists.last_finished, of_order.states, needed)
    else:
        most = MAX_SORTED if column else needed
        ids, _ = await find(store, of_order, limit=most, seconds=seconds, ascending=states is WAITING)
        if column is not None:
            ids = await store.search(lists.in_order, ids, column)
    if len(ids) < needed:
        others = replace(wanted, states=tuple(state for state in wanted.states if state not in states))
        ids += (await find(store, others, limit=needed - len(ids), seconds=end - loop.time()))[0]
    return ids[skip:needed]


async def count(store: StoreReader, wanted: Filter, seconds: float) -> dict[State, Count]:
    """Return how many wanted jobs there are in each state, whichever states are wanted.

    States that have few jobs are looked at first. Each gets its share of the time.
    """
    wanted = replace(wanted, states=ALL_STATES, suspended=None)
    if wanted == but_notifications(Filter()):
        known = await store.search(summaries.counts_but_notifications)
        return {state: Count(known[state]) for state in State}
    if (few := await store.search(lists.count_few, wanted)) is not None:
        return {state: Count(few.get(state, 0)) for state in State}
    totals = await store.search(summaries.counts)
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    counts: dict[State, Count] = {}
    for done, state in enumerate(sorted(State, key=lambda state: totals.get(state, 0))):
        share = (end - loop.time()) / (len(State) - done)
        found, rest = list[JobId](), None
        if totals.get(state):
            of_state = replace(wanted, states=(state,))
            found, rest = await find(store, of_state, limit=MAX_COUNTED, seconds=share)
        counts[state] = Count(len(found), is_least=rest is not None)
    return counts
