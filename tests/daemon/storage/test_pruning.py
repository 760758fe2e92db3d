"""Which finished jobs are deleted, and what is deleted with them."""

from __future__ import annotations

import pytest

from bgd.core.job import JobId, Now, Outcome, State
from bgd.daemon.storage import pruning, read, summaries
from bgd.daemon.storage.pruning import PrunableJob, RetentionLimits
from bgd.daemon.storage.records import AttemptEnd, Transaction
from bgd.daemon.storage.store import Store, adopt_boot, save_retention_clock
from tests.daemon.storage.builders import BOOT, NOW, a_job, first_attempt, new, put, saves, sql

SHARING = "SELECT jobs FROM counts WHERE key < 'a' ORDER BY key"  # how many jobs have each environment
ANY_AGE = dict.fromkeys((State.SUCCEEDED, State.FAILED, State.CANCELLED))
_OUTCOMES = {
    State.SUCCEEDED: Outcome.SUCCEEDED,
    State.FAILED: Outcome.EXIT,
    State.CANCELLED: Outcome.CANCELLED,
}


async def finish(store, number, ago, state=State.SUCCEEDED, logged=0, **fields):
    """Add a job that finished `ago` seconds ago, with `logged` bytes of logs."""
    await store.write(adopt_boot, NOW, BOOT)
    await put(store, new(number, tags=("all", f"tag-{number}"), **fields))
    running = saves(a_job(number, State.RUNNING, attempt=1))
    await store.commit(Transaction(now=NOW, saves=running, attempts=[first_attempt(number)]))
    end = AttemptEnd(
        job=JobId(number),
        attempt=1,
        outcome=_OUTCOMES[state],
        finished_at=NOW.wall - ago,
        log_bytes=10 * logged,
        log_kept=logged,
        result="1",
    )
    ended = saves(a_job(number, state, attempt=1), at=NOW.wall - ago)
    then = Now(NOW.elapsed - ago, NOW.wall - ago)
    await store.commit(Transaction(now=then, saves=ended, ends=[end]))


async def due(store, limit=100, **keep):
    await store.write(adopt_boot, NOW, BOOT)  # converts the database of an earlier bgd
    found = await store.search(
        pruning.prunable_jobs, RetentionLimits(**{"max_age": ANY_AGE, **keep}), NOW.elapsed, limit
    )
    return [each.job for each in found]


async def test_jobs_are_due_once_they_reach_their_age_limit(store):
    await finish(store, 1, ago=10)
    await finish(store, 2, ago=30)
    await finish(store, 3, ago=20, state=State.FAILED)
    await finish(store, 4, ago=20)
    keep = {State.SUCCEEDED: 20, State.FAILED: 30}

    assert await due(store, max_age=keep) == [2, 4]
    assert await due(store, max_age=keep, limit=1) == [2]
    assert await store.read(pruning.next_prunable_at, RetentionLimits(max_age=keep)) == NOW.elapsed - 10
    assert await due(store, max_age=dict.fromkeys(keep, None)) == []
    assert (
        await store.read(pruning.next_prunable_at, RetentionLimits(max_age=dict.fromkeys(keep, None))) is None
    )


async def test_latest_jobs_of_each_state_stay(store):
    for number, ago in enumerate((5, 1, 4, 2, 3), start=1):
        await finish(store, number, ago)
    for number, ago in enumerate((9, 7), start=11):
        await finish(store, number, ago, state=State.CANCELLED)

    assert await due(store, max_jobs=2) == [1, 3, 5]
    assert await due(store, max_jobs=1) == [1, 3, 5, 4, 11]
    assert await due(store, max_jobs=1, max_age={State.CANCELLED: None}) == [11]


async def test_oldest_finished_jobs_are_due_until_the_logs_fit(store):
    await finish(store, 1, ago=10, logged=100)
    await finish(store, 2, ago=30, logged=50, state=State.FAILED)
    await finish(store, 3, ago=20, logged=0)
    await finish(store, 4, ago=5, logged=1000)

    assert await due(store, max_log_bytes=1150) == []
    assert await due(store, max_log_bytes=1149) == [2]
    assert await due(store, max_log_bytes=1000) == [2, 3, 1]
    assert await due(store, max_log_bytes=1100, max_age={State.SUCCEEDED: 10}) == [3, 1]
    assert await store.read_apart(
        pruning.total_prunable, RetentionLimits(max_age=ANY_AGE, max_log_bytes=0), NOW.elapsed
    ) == (
        4,
        1150,
    )


async def test_jobs_with_unread_ends_stay_unless_the_logs_do_not_fit(store):
    for number, ago in enumerate((50, 40, 30, 20, 10), start=1):
        await finish(store, number, ago, logged=100, session="somebody" if number in {1, 4} else None)
    unread = {"keeps_unread": True}
    limits = RetentionLimits(max_age={State.SUCCEEDED: 100}, **unread)

    assert await due(store, max_age={State.SUCCEEDED: 0}, **unread) == [2, 3, 5]
    assert await due(store, max_age={State.SUCCEEDED: 0}) == [1, 2, 3, 4, 5]
    assert await due(store, max_jobs=2, **unread) == [2]
    assert await due(store, max_log_bytes=300, **unread) == [1, 2]
    assert await due(store, max_age={State.SUCCEEDED: 35}, max_log_bytes=200, **unread) == [2, 1, 3]
    assert await store.read(pruning.next_prunable_at, limits) == NOW.elapsed + 60


async def test_unfinished_job_is_never_due(store):
    await put(store, *(new(number) for number in range(1, 4)))
    await store.commit(
        Transaction(
            now=NOW,
            saves=saves(a_job(1, State.RUNNING, attempt=1), a_job(2, State.HELD)),
            attempts=[first_attempt(1)],
        )
    )

    assert await due(store, max_jobs=0, max_log_bytes=0, max_age=dict.fromkeys(ANY_AGE, 0)) == []


async def test_job_that_was_run_again_is_no_longer_due(store):
    await finish(store, 1, ago=10)
    await finish(store, 2, ago=10)
    wanted = await store.search(
        pruning.prunable_jobs, RetentionLimits(max_age=ANY_AGE, max_jobs=0), NOW.elapsed, 10
    )
    await store.commit(Transaction(now=NOW, saves=saves(a_job(1, State.QUEUED, attempt=1))))

    assert [job.id for job in await store.read(pruning.still_finished, wanted)] == [2]
    assert (
        await store.read(
            pruning.still_finished,
            [PrunableJob(NOW.wall - 11, JobId(2), 0), PrunableJob(NOW.wall, JobId(9), 0)],
        )
        == []
    )


async def test_removing_a_job_deletes_all_its_rows_and_no_longer_counts_its_bytes(store):
    await finish(store, 1, ago=10, logged=100, env={"A": "1"})
    await finish(store, 2, ago=10, logged=10)

    await store.commit(Transaction(now=NOW, removed=[a_job(1), a_job(1)]))

    for table in ("jobs", "specs", "attempts", "results", "tags"):
        column = "id" if table == "jobs" else "job"
        assert {row for (row,) in await sql(store, f"SELECT {column} FROM {table}")} == {2}
    assert await sql(store, "SELECT count(*) FROM environments") == [(0,)]
    assert await sql(store, "SELECT logged FROM meta") == [(10,)]
    assert (await store.read(summaries.counts))["succeeded"] == 1
    assert await store.read(pruning.leftovers) == [1]
    await store.commit(Transaction(now=NOW, cleared=[JobId(1)]))
    assert await store.read(pruning.leftovers) == []


async def test_environment_is_deleted_with_the_last_job_that_has_it(store):
    env = {"PATH": "/usr/bin"}
    for number in (1, 2, 3):
        await finish(store, number, ago=10, env=env)

    await store.commit(Transaction(now=NOW, removed=[a_job(1), a_job(3)]))
    stored = await store.read(read.read_spec, JobId(2))
    assert stored is not None
    assert stored.env == env

    await store.commit(Transaction(now=NOW, removed=[a_job(2)]))
    assert await sql(store, "SELECT count(*) FROM environments") == [(0,)]
    await put(store, new(4, env=env))  # the store knew it, and has to store it again
    stored = await store.read(read.read_spec, JobId(4))
    assert stored is not None
    assert stored.env == env


async def test_environment_of_an_edited_job_is_deleted_if_no_other_job_has_it(store):
    await put(store, new(1, env={"A": "1"}), new(2, env={"A": "2"}))

    await store.commit(Transaction(now=NOW, edited={JobId(1): new(1, env={"A": "2"}).spec}))

    assert await sql(store, SHARING) == [(2,)]
    assert await sql(store, "SELECT count(*) FROM environments") == [(1,)]


@pytest.mark.parametrize("jobs", [1, 3])
async def test_jobs_that_share_an_environment_are_counted_over_restarts(path, jobs):
    for number in range(1, jobs + 1):
        store = await Store.open(path)
        await finish(store, number, ago=10, env={"A": "1"})
        await store.close()

    store = await Store.open(path)
    assert await sql(store, SHARING) == [(jobs,)]
    await store.close()


WEEK = {State.SUCCEEDED: 7 * 86_400.0}
YEARS = 50 * 365 * 86_400.0


@pytest.mark.parametrize("jump", [YEARS, -YEARS], ids=["ahead", "back"])
async def test_jobs_do_not_age_when_the_clock_is_set(store, jump):
    await finish(store, 1, ago=10)
    await store.commit(
        Transaction(now=Now(NOW.elapsed + 5, NOW.wall + jump), wall_ahead=NOW.wall + jump - NOW.elapsed - 5)
    )
    # the worst moment: the clock is wrong
    await store.write(save_retention_clock, NOW.elapsed + 5)

    assert await store.search(pruning.prunable_jobs, RetentionLimits(max_age=WEEK), NOW.elapsed + 5, 10) == []
    assert await store.read_apart(pruning.total_prunable, RetentionLimits(max_age=WEEK), NOW.elapsed + 5) == (
        0,
        0,
    )
    assert (
        await store.read(pruning.next_prunable_at, RetentionLimits(max_age=WEEK))
        == NOW.elapsed - 10 + 7 * 86_400.0
    )
    [gone] = await store.search(
        pruning.prunable_jobs, RetentionLimits(max_age=WEEK), NOW.elapsed + 7 * 86_400.0, 10
    )
    assert gone.job == 1


@pytest.mark.parametrize(("off", "counted"), [(3600.0, 3600.0), (YEARS, 86_400.0), (-YEARS, 0.0)])
async def test_across_a_boot_jobs_age_by_a_day_at_most_and_the_rest_is_returned(store, off, counted):
    await finish(store, 1, ago=0)
    await store.write(save_retention_clock, NOW.elapsed)

    ignored = await store.write(adopt_boot, Now(20.0, NOW.wall + off), "second-boot")

    assert ignored == max(off - counted, 0)
    assert (
        await store.read(pruning.next_prunable_at, RetentionLimits(max_age=WEEK))
        == 20.0 + 7 * 86_400.0 - counted
    )


async def test_jobs_that_finished_before_a_machine_learned_the_time_are_older(store):
    await finish(store, 1, ago=0)
    await put(store, new(2))
    running = saves(a_job(2, State.RUNNING, attempt=1))
    await store.commit(Transaction(now=NOW, saves=running, attempts=[first_attempt(2)]))
    later = Now(NOW.elapsed + 60, NOW.wall - YEARS)
    end = AttemptEnd(job=JobId(2), attempt=1, outcome=Outcome.SUCCEEDED, finished_at=later.wall)
    ended = saves(a_job(2, State.SUCCEEDED, attempt=1), at=later.wall)
    await store.commit(Transaction(now=later, saves=ended, ends=[end]))

    assert await due(store, max_jobs=1) == [1]
