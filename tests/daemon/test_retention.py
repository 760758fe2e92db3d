"""Finished jobs are deleted while others are served: by age, by number, and on request."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import aclosing
from pathlib import Path

import pytest
from msgspec.structs import replace

from bgd.core.job import State
from bgd.core.spec import JobSpec
from bgd.daemon import retention
from bgd.daemon.retention import Retention, configured_limits, requested_limits
from bgd.daemon.storage import change_stream, inbox, pruning, read, summaries
from bgd.daemon.storage.pruning import RetentionLimits
from bgd.errors import NoSuchJob, Refused
from bgd.wire.launching import Acknowledge, log_name
from bgd.wire.requests import Prune
from bgd.wire.views import EventView
from tests.daemon.harness import configure, running_supervisor, write_log
from tests.daemon.scripted_launcher import end
from tests.daemon.waiting import soon, until

ANY_AGE = dict.fromkeys((State.SUCCEEDED, State.FAILED, State.CANCELLED))


async def ended(life, launcher, jobs, spec=None):
    """Run this many jobs to their end; return their ids."""
    await launcher.greet()
    keys = []
    for _ in range(jobs):
        key = await life.launched(spec)
        write_log(life.config, key, b"word\n")
        launcher.say(replace(end(key), finished_at=time.time(), log_bytes=5))
        await launcher.hear(Acknowledge)
        keys.append(key)
    return [key.job for key in keys]


async def prune(life, keep):
    async with aclosing(Retention(life.supervisor, life.actions, life.store).prune(keep)) as passes:
        return [each async for each in passes]


async def test_jobs_are_pruned_with_their_logs_in_portions(config, launcher, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(retention, "FIRST_PORTION", 2)
    monkeypatch.setattr(retention, "MAX_PORTION", 2)
    monkeypatch.setattr(retention, "LONG_TRANSACTION", 60.0)  # however busy the machine is
    async with running_supervisor(config, launcher) as life:
        jobs = await ended(life, launcher, 5)

        passes = await prune(life, RetentionLimits(max_age=ANY_AGE, max_jobs=1))

        assert passes == [(2, 10), (4, 20)]
        assert [line for line in caplog.messages if "removed" in line] == [
            "removed 4 finished jobs, with 20B of logs"
        ]
        assert [await life.store.read(read.view, job) for job in jobs[:4]] == [None] * 4
        assert (await life.view(jobs[4])).state is State.SUCCEEDED
        assert (await life.store.read(summaries.counts))["succeeded"] == 1
        with pytest.raises(NoSuchJob):
            await life.actions.do("retry", jobs[0])
        events = await life.store.read(change_stream.read_events, 0, 1000)
        assert [
            event.job for event in events if isinstance(event, EventView) and event.what == "remove"
        ] == jobs[:4]
        kept_log = Path(config.log_dir, log_name(jobs[4], 1))
        await until(lambda: list(kept_log.parent.iterdir()) == [kept_log])


async def test_job_that_is_retried_is_not_pruned(config, launcher):
    async with running_supervisor(config, launcher) as life:
        [job] = await ended(life, launcher, 1)
        due = await life.store.search(
            pruning.prunable_jobs, RetentionLimits(max_age=ANY_AGE, max_jobs=0), 0.0, 10
        )
        assert [each.job for each in due] == [job]
        await life.actions.do("retry", job)

        assert await life.actions.remove_due(due) == []
        assert (await life.view(job)).state in {State.QUEUED, State.RUNNING}


async def test_logs_that_a_crash_left_are_deleted_at_the_next_start(config, launcher):
    async with running_supervisor(config, launcher) as life:
        [job] = await ended(life, launcher, 1)
        life.supervisor.log_cleaner.add = set  # type: ignore[assignment, method-assign]  # as if it died before it deleted them
        await life.actions.do("remove", job)
        await soon(life.supervisor.saved())
    log = Path(config.log_dir, log_name(job, 1))
    assert await asyncio.to_thread(log.exists)

    async with running_supervisor(config, launcher) as life:
        await until(lambda: not log.exists())
        await life.submit()  # the next transaction forgets the removed jobs
        await soon(_until_cleared(life))


async def _until_cleared(life):
    while await life.store.read(pruning.leftovers):
        life.supervisor.when_saved(lambda: None)
        await asyncio.sleep(0.01)


async def test_retention_deletes_jobs_that_are_too_many_or_too_old(folder, launcher, monkeypatch):
    monkeypatch.setattr(retention, "PASS_DELAY", 0.05)
    config = configure(folder, rest="[retention]\nmax_finished = 2\nsucceeded_for = '2s'")
    async with running_supervisor(config, launcher) as life:
        keeper = life.tasks.create_task(Retention(life.supervisor, life.actions, life.store).run())
        jobs = await ended(life, launcher, 4)

        await soon(_until_gone(life, jobs[:2]))
        await soon(_until_gone(life, jobs))  # no job ends any more, so only its own alarm starts a pass
        keeper.cancel()


async def test_unread_ends_and_their_jobs_are_kept_for_as_long_as_configured(folder, launcher, monkeypatch):
    monkeypatch.setattr(retention, "PASS_DELAY", 0.05)
    config = configure(folder, rest="[retention]\nsucceeded_for = '0s'\nkeep_unread = '1h'")
    async with running_supervisor(config, launcher) as life:
        keeper = life.tasks.create_task(Retention(life.supervisor, life.actions, life.store).run())
        [read_one, unread] = [
            await ended(life, launcher, 1, JobSpec(argv=("true",), session=session))
            for session in (None, "s")
        ]

        await soon(_until_gone(life, read_one))
        assert await life.store.read(read.view, unread[0]) is not None
        life.supervisor.configure(replace(config, retention=replace(config.retention, keep_unread=0.0)))
        await soon(_until_gone(life, unread))
        assert await life.store.read(inbox.unread, os.geteuid(), "s", 10) == []
        keeper.cancel()


async def _until_gone(life, jobs):
    while any([await life.store.read(read.view, job) for job in jobs]):  # noqa: ASYNC110 - nobody is notified
        await asyncio.sleep(0.01)


def test_limits_are_the_configured_ones_unless_a_request_names_others(config):
    assert configured_limits(config) == RetentionLimits(
        max_age={State.SUCCEEDED: 7 * 86400, State.FAILED: 30 * 86400, State.CANCELLED: 30 * 86400},
        max_jobs=100_000,
        max_log_bytes=5_000_000_000,
        keeps_unread=True,
    )
    assert requested_limits(Prune(id=1), config) == replace(configured_limits(config), keeps_unread=False)
    assert requested_limits(Prune(id=1, states=[State.FAILED]), config).max_age == {State.FAILED: 30 * 86400}
    assert requested_limits(Prune(id=1, keep=3), config) == RetentionLimits(max_age=ANY_AGE, max_jobs=3)
    assert requested_limits(Prune(id=1, older_than=3.0, states=[State.FAILED]), config) == RetentionLimits(
        max_age={State.FAILED: 3.0}
    )
    with pytest.raises(Refused, match="not running ones: cancel them first"):
        requested_limits(Prune(id=1, states=[State.RUNNING]), config)
