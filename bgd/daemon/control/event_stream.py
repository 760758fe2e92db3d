"""Events: the change stream, from where a client left off to its end, or on and on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bgd.daemon.storage.store import Store
from bgd.daemon.supervisor import Supervisor
from bgd.wire.replies import EventsPart
from bgd.wire.requests import GetEvents

# each costs half a KiB while it waits for somebody who reads slowly, and there may be many of these
EVENTS_AT_ONCE = 200

Send = Callable[[EventsPart], Awaitable[None]]


async def send_events(request: GetEvents, supervisor: Supervisor, store: Store, send: Send) -> None:
    """Send what happened after the event that was asked for; with `follow` for ever.

    The first part comes at once, even without events: it tells from where the stream goes on.
    """
    with supervisor.following_all() as feed:
        await supervisor.saved()  # what this client was told of before has happened
        oldest, newest = await store.event_bounds()
        since = request.since
        if since is None:
            since = newest if request.follow else oldest - 1
        await send(EventsPart(request.id, [], last=since, lost=since < oldest - 1))
        while True:
            feed.changed.clear()
            while events := await store.events(since, EVENTS_AT_ONCE):
                since = events[-1].id
                await send(EventsPart(request.id, events, last=since))
            if not request.follow:
                return
            await feed.changed.wait()
