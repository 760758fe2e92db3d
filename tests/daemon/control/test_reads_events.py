"""Events and statistics, as clients ask for them."""

from __future__ import annotations

import os

from bgd.core.job import JobId, Outcome, State
from bgd.daemon.access import user_name
from bgd.daemon.control import reads
from bgd.wire.launching import Acknowledge
from bgd.wire.replies import Acted, End, EventsPart, Stats
from bgd.wire.requests import Cancel, Forget, GetEvents, GetStats, Remove
from tests.daemon.harness import command, served
from tests.daemon.scripted_launcher import end


async def happened(caller, **since):
    parts = await caller.stream(GetEvents(id=1, **since), EventsPart)
    return [event for part in parts for event in part.events]


def told(events):
    return [(event.job, event.what, event.state, event.outcome) for event in events]


async def test_events_report_everything_that_happened_in_order(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched(command(retries=1, retry_delay=300.0))
        launcher.say(end(key, Outcome.EXIT, 1))
        await launcher.hear(Acknowledge)
        await life.actions.do("hold", JobId(key.job))
        await life.actions.do("cancel", JobId(key.job))
        await life.actions.do("remove", JobId(key.job))

        events = await happened(await life.call())

        assert told(events) == [
            (key.job, "submit", State.QUEUED, None),
            (key.job, "start", State.RUNNING, None),
            (key.job, "retry", State.SCHEDULED, Outcome.EXIT),
            (key.job, "hold", State.HELD, None),
            (key.job, "cancel", State.CANCELLED, None),
            (key.job, "remove", State.CANCELLED, None),
        ]
        assert [event.attempt for event in events] == [0, 1, 1, 1, 1, 1]
        assert sorted(event.id for event in events) == [event.id for event in events]


async def test_stream_continues_where_it_left_off_even_after_a_restart(config, launcher, monkeypatch):
    monkeypatch.setattr(reads, "EVENTS_AT_ONCE", 2)
    async with served(config, launcher) as life:
        first, second, third = [await life.submit(command(delay=300.0)) for _ in range(3)]
        seen = await happened(await life.call())
        assert [event.job for event in seen] == [first, second, third]
    async with served(config, launcher) as life:
        await life.actions.do("cancel", second)

        events = await happened(await life.call(), since=seen[1].id)

        assert told(events)[1:] == [(second, "cancel", State.CANCELLED, None)]
        assert events[0] == seen[2]


async def test_follower_learns_where_the_stream_begins_and_then_what_happens(config, launcher):
    async with served(config, launcher) as life:
        await life.submit(command(delay=300.0))
        caller = await life.call()
        begun = await caller.ask(GetEvents(id=1, follow=True), EventsPart)
        assert (begun.events, begun.lost) == ([], False)

        job = await life.submit(command(delay=300.0))

        part = await caller.hear(EventsPart)
        assert told(part.events) == [(job, "submit", State.SCHEDULED, None)]
        assert part.events[0].id == part.last > begun.last
        caller.send(Forget(2, 1))
        assert await caller.hear(End) == End(1)


async def test_request_for_events_that_are_no_longer_kept_says_so(config, launcher):
    async with served(config, launcher) as life:
        await life.submit(command(delay=300.0))
        await life.submit(command(delay=300.0))
        await life.store.write(lambda db: db.execute("DELETE FROM events WHERE last = 1").rowcount)

        part, _ = await (await life.call()).stream(GetEvents(id=1, since=0), EventsPart)

        assert part.lost


async def test_stats_count_ended_attempts_and_how_long_they_took(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        empty = await caller.ask(GetStats(1), Stats)
        assert (empty.outcomes, empty.run_median, empty.oldest_queued_at) == ({}, None, None)
        for outcome in (Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.EXIT):
            key = await life.launched()
            launcher.say(end(key, outcome))
            await launcher.hear(Acknowledge)

        stats = await caller.ask(GetStats(2, window=1e7), Stats)

        assert stats.counts["succeeded"] == 2
        assert (stats.window, stats.wait_median is not None) == (1e7, True)


async def test_events_say_who_asked_for_them(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        held, other = [await life.submit(command(hold=True)) for _ in range(2)]
        await caller.ask(Cancel(id=2, jobs=[held]), Acted)
        await life.actions.do("cancel", other)
        await caller.ask(Remove(id=3, jobs=[other]), Acted)

        events = await happened(caller)

    me = user_name(os.geteuid())
    assert [(event.job, event.what, event.by) for event in events] == [
        (held, "submit", None),
        (other, "submit", None),
        (held, "cancel", me),
        (other, "cancel", None),
        (other, "remove", me),
    ]
