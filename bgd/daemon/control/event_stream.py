"""Events: the change stream, from where a client left off to its end, or on and on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from bgd.core.job import JobId
from bgd.daemon.control.replying import Replies
from bgd.daemon.storage.store import Readings
from bgd.daemon.supervisor import Supervisor
from bgd.wire.replies import EventsPart
from bgd.wire.requests import GetEvents
from bgd.wire.views import EventView, JobProgress

# each costs half a KiB while it waits for somebody who reads slowly, and there may be many of these
EVENTS_AT_ONCE = 200

PROGRESS = "progress"  # what such an event is called


async def send_events(request: GetEvents, supervisor: Supervisor, store: Readings, replies: Replies) -> None:
    """Send what happened after the event that was asked for; with `follow` for ever.

    The first part comes at once, even without events: it tells from where the stream goes on.
    """
    with supervisor.following_all(progress=request.progress and request.follow) as feed:
        await supervisor.shown()  # what this client was told of before has happened
        oldest, newest = await store.event_bounds()
        since = request.since
        if since is None:
            since = newest if request.follow else oldest - 1
        await replies.send_in_step(EventsPart(request.id, [], last=since, lost=since < oldest - 1))
        while True:
            feed.changed.clear()
            events = None
            while events is None or events:
                async with replies.in_turn():
                    events = await store.events(since, EVENTS_AT_ONCE)
                    if events:
                        since = events[-1].id
                        await replies.send_in_step(EventsPart(request.id, events, last=since))
            if not request.follow:
                return
            told = list(_progress_events(feed.take_progress(), supervisor, since))
            for start in range(0, len(told), EVENTS_AT_ONCE):
                await replies.send_in_step(
                    EventsPart(request.id, told[start : start + EVENTS_AT_ONCE], last=since)
                )
            await feed.changed.wait()


def _progress_events(told: Iterable[JobProgress], supervisor: Supervisor, since: int) -> Iterator[EventView]:
    """Word as events what jobs said that have not ended since; they bear the id of the one before them."""
    for each in told:
        job = supervisor.get(JobId(each.job))
        if job is not None and job.attempt == each.attempt:
            yield EventView(
                id=since,
                at=time.time(),
                job=each.job,
                what=PROGRESS,
                state=job.state,
                attempt=each.attempt,
                progress=each.progress,
            )
