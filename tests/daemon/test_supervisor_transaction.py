"""What one transaction holds, also when several things have happened since the last one."""

from __future__ import annotations

from bgd.core.job import JobId, Now, Outcome, State
from bgd.daemon.storage import change_stream, summaries
from bgd.daemon.storage.records import Transaction
from bgd.wire.views import EventView
from tests.daemon.harness import command, running_supervisor, served
from tests.daemon.scripted_launcher import end
from tests.daemon.waiting import soon


async def test_an_outcome_is_in_one_event_only_and_not_in_that_of_a_later_cancel(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        key = await life.launched(command("false", retries=1))
        _, before = await life.store.read(change_stream.event_bounds)

        life.supervisor.attempt_ended(end(key, Outcome.EXIT, 1))
        assert await life.actions.do("cancel", JobId(key.job)) is State.CANCELLED
        await soon(life.supervisor.saved())

        saved = [
            (event.what, event.outcome, event.reason)
            for event in await life.store.read(change_stream.read_events, before, 10)
            if isinstance(event, EventView)
        ]
        assert saved == [("retry", Outcome.EXIT, None), ("cancel", None, "cancelled before it ran again")]


def test_a_transaction_is_empty_only_if_nothing_is_written_or_read_back():
    followers = []
    for name in Transaction.__struct_fields__:
        transaction = Transaction(now=Now(0.0, 0.0))
        assert transaction.is_empty
        setattr(transaction, name, ["something"])
        if transaction.is_empty:
            followers.append(name)

    # each spec comes with a new job, results are read back, and who asked with an event
    assert followers == [
        *("now", "rules", "default_target", "has_notify_facts", "sessions"),
        *("specs", "results", "answers", "launches", "commands", "acknowledge"),
        *("permitted", "actors", "removers"),
    ]


async def test_a_job_that_moves_twice_in_one_transaction_is_counted_in_its_last_state(config, launcher):
    async with served(config, launcher) as life:
        job = await life.submit(command(hold=True, delay=300.0))
        commits = life.commits.commits

        await life.actions.do("release", job)
        await life.actions.do("hold", job)
        await life.actions.do("cancel", job)
        await soon(life.supervisor.saved())

        assert life.commits.commits == commits + 1
        counts = await life.store.read(summaries.counts)
        assert {state: count for state, count in counts.items() if count} == {"cancelled": 1}
