"""What starts and ends is counted in the transaction of the jobs, and becomes part of longer times later."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from bgd.core.job import Conditions, JobId, Now, Outcome, State
from bgd.daemon.storage import activity, read
from bgd.daemon.storage.activity import (
    DAY,
    ERROR,
    HOUR,
    KEPT_NAMES,
    MINUTE,
    NAME,
    OTHER,
    QUARTER,
    QUEUE,
    Counts,
    bucket_of,
    percentile,
)
from bgd.daemon.storage.records import AttemptEnd, NewAttempt, Transaction
from bgd.daemon.storage.store import Store
from tests.daemon.storage.builders import NOW, a_job, new, saves, sql, submitted
from tests.support import ROOT

BEGIN = int(NOW.wall) // DAY * DAY + DAY  # the midnight after NOW


def after(seconds):
    return Now(NOW.elapsed + BEGIN + seconds - NOW.wall, BEGIN + seconds)


async def start(store, number, seconds, *, queue="default", slot=1, slots=1, **fields):
    """Start a job this long after BEGIN that was submitted two seconds before."""
    now, needs = after(seconds), Conditions(slots=slots)
    await store.commit(submitted(new(number, queue=queue, at=now.wall - 2, **fields), now=now))
    running = a_job(number, State.RUNNING, queue=queue, attempt=1, conditions=needs)
    first = NewAttempt(JobId(number), 1, slot, "launcher", now.wall)
    await store.commit(Transaction(now=now, saves=saves(running), attempts=[first], wanted=[JobId(number)]))


def ended(number, seconds, *, took=1.0, outcome=Outcome.SUCCEEDED, queue="default", slots=1):
    """Return the transaction in which an attempt of a job ends."""
    state = State.SUCCEEDED if outcome is Outcome.SUCCEEDED else State.FAILED
    job = a_job(number, state, queue=queue, attempt=1, conditions=Conditions(slots=slots))
    end = AttemptEnd(
        job=JobId(number), attempt=1, outcome=outcome, finished_at=BEGIN + seconds, run_seconds=took
    )
    return Transaction(now=after(seconds), saves=saves(job), ends=[end])


async def run(store, number, seconds, *, name=None, took=1.0, outcome=Outcome.SUCCEEDED, **fields):
    """Let a job run until this long after BEGIN."""
    await start(store, number, seconds - took, name=name, **fields)
    await store.commit(ended(number, seconds, took=took, outcome=outcome, **fields))


async def columns_of(store, kind, begin, step, count, now):
    return await store.read(activity.columns, kind, BEGIN + begin, step, count, BEGIN + now)


async def rows_of(store):
    """Return how many rows there are of each level."""
    return dict(await sql(store, "SELECT seconds, count(*) FROM activity GROUP BY seconds"))


async def test_starts_and_ends_are_counted_by_minute_queue_and_name(store):
    await start(store, 1, 5.0, name="nightly")
    await start(store, 2, 6.0, queue="mail")
    await store.commit(ended(1, 15.0, took=10.0))
    await store.commit(ended(2, 70.0, took=5.0, outcome=Outcome.TIMEOUT, queue="mail"))

    wait, ran, short = ({bucket_of(seconds): 1} for seconds in (2.0, 10.0, 5.0))
    one = Counts(1, 10.0, {Outcome.SUCCEEDED: 1}, {State.SUCCEEDED: 1}, wait, ran)
    begun = Counts(started=1, waits=wait)
    timed_out = Counts(0, 5.0, {Outcome.TIMEOUT: 1}, {State.FAILED: 1}, {}, short)
    nothing = Counts()
    assert await columns_of(store, QUEUE, 0, MINUTE, 3, 120.0) == {
        "default": [one, nothing, nothing],
        "mail": [begun, timed_out, nothing],
    }
    assert await columns_of(store, NAME, 0, MINUTE, 3, 120.0) == {
        "nightly": [one, nothing, nothing],
        OTHER: [begun, timed_out, nothing],
    }


async def test_slots_are_counted_in_the_minutes_in_which_they_were_taken(store):
    await run(store, 1, 150.0, took=100.0, slots=2)
    await start(store, 2, 100.0)
    await start(store, 3, 100.0, slot=0)  # a cluster runs it

    [columns] = (await columns_of(store, QUEUE, 0, MINUTE, 4, 190.0)).values()

    assert [each.slot_seconds for each in columns] == [20.0, 120.0 + 20.0, 60.0 + 60.0, 10.0]


async def test_an_attempt_of_days_is_counted_in_few_rows(store):
    took = 3 * DAY + 100.0
    await run(store, 1, 3 * DAY + 40.0, took=took)

    [columns] = (await columns_of(store, QUEUE, -HOUR, HOUR, 74, 3 * DAY + HOUR)).values()

    assert [columns[0].slot_seconds, *{each.slot_seconds for each in columns[1:73]}] == [60.0, 3600.0]
    assert sum(each.slot_seconds for each in columns) == took
    assert sum((await rows_of(store)).values()) < 2 * 300


async def test_minutes_become_quarters_these_hours_and_these_are_deleted(store):
    for number, minute in enumerate((1, 14, 16), start=1):
        await run(store, number, minute * MINUTE + 30.0, queue="mail", name="nightly")
    [before] = (await columns_of(store, NAME, 0, QUARTER, 2, 0)).values()

    async def rows_after(seconds, number):
        await run(store, number, seconds)
        after_fold = (await columns_of(store, NAME, 0, QUARTER, 2, 0)).get("nightly")
        found = await sql(store, "SELECT seconds, at FROM activity WHERE subject = 'mail'")
        return [(length, since - BEGIN) for length, since in found], after_fold

    assert await rows_after(2 * HOUR + QUARTER - 1, 4) == ([(60, 60), (60, 840), (60, 960)], before)
    assert await rows_after(2 * HOUR + QUARTER, 5) == ([(60, 960), (900, 0)], before)
    assert await rows_after(3 * HOUR, 6) == ([(900, 0), (900, 900)], before)
    (hours, *_), _ = await rows_after(DAY + 3 * HOUR, 7)
    assert hours == (3600, 0)
    [[hour]] = (await columns_of(store, NAME, 0, HOUR, 1, 0)).values()
    assert (hour.started, hour.outcomes, sum(hour.waits.values())) == (3, {Outcome.SUCCEEDED: 3}, 3)
    for number, days in ((8, 9), (9, 12)):  # each leaves rows of all hours in which it ran
        await run(store, number, days * DAY, took=8 * DAY)
    assert await rows_after(12 * DAY + MINUTE, 10) == ([], None)


async def test_a_clock_that_is_ahead_for_a_while_deletes_nothing(store):
    for number in range(1, 5):
        await run(store, number, number * 2 * HOUR + 30.0, name="nightly")
    before = await columns_of(store, NAME, 0, HOUR, 10, 0)
    assert sum(each.started for each in before["nightly"]) == 4

    for minute in range(10):
        await run(store, 10 + minute, 366 * DAY + minute * MINUTE)
    await run(store, 30, 9 * HOUR, name="right")

    after_all = await columns_of(store, NAME, 0, HOUR, 10, 0)
    assert after_all["nightly"] == before["nightly"]


async def test_hours_are_kept_up_to_a_number_however_the_clock_is_set(store):
    await run(store, 1, 366 * DAY)
    number = 2
    for days in (8, 16, 24):
        await run(store, number, days * DAY, took=8 * DAY)
        await run(store, number + 1, days * DAY + MINUTE)
        number += 2

    [(hours,)] = await sql(store, "SELECT count(DISTINCT at) FROM activity WHERE seconds = 3600")

    assert hours <= 8 * 24


async def test_the_busiest_names_keep_rows_of_their_own(store):
    for number in range(1, KEPT_NAMES + 3):
        await run(store, number, 10.0, name=f"name-{number}")
        if number > 2:
            await run(store, 1000 + number, 10.0, name=f"name-{number}")
    await run(store, 5000, 3 * HOUR)

    found = await columns_of(store, NAME, 0, HOUR, 1, 0)

    assert {name: each.started for name, [each] in found.items()} == {
        OTHER: 2,
        **{f"name-{number}": 2 for number in range(3, KEPT_NAMES + 3)},
    }


async def test_very_many_names_in_a_minute_share_a_row(store, monkeypatch):
    monkeypatch.setattr(activity, "MAX_SUBJECTS", 2)
    for number in range(1, 5):
        await run(store, number, 10.0 + number, name=f"name-{number}")

    found = await columns_of(store, NAME, 0, MINUTE, 1, 0)

    assert {name: (each.started, each.slot_seconds) for name, [each] in found.items()} == {
        "name-1": (1, 1.0),
        "name-2": (1, 1.0),
        OTHER: (2, 2.0),
    }


async def test_a_commit_that_fails_counts_nothing_and_its_repetition_counts_once(store, monkeypatch):
    await start(store, 1, 5.0, name="nightly")
    end = ended(1, 15.0)
    with monkeypatch.context() as patch:
        patch.setattr("bgd.daemon.storage.write.TransactionWriter._remove", lambda *_: 1 / 0)
        end.cleared.append(JobId(9))  # so that it fails after the counts were written
        with pytest.raises(ZeroDivisionError):
            await store.commit(end)
    await store.commit(end)

    [[counts]] = (await columns_of(store, NAME, 0, MINUTE, 1, 0)).values()
    assert (counts.started, counts.outcomes) == (1, {Outcome.SUCCEEDED: 1})


RUN_JOBS = """
import asyncio, itertools, sys
from tests.daemon.storage.test_activity import Store, run

async def main():
    store = await Store.open(sys.argv[1])
    for number in itertools.count(1):
        await run(store, number, number / 10, took=0.1, name=f"name-{number % 3}")
        print(number, flush=True)

asyncio.run(main())
"""


def run_until_killed(path):
    command = [sys.executable, "-c", RUN_JOBS, path]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as running:
        for line in running.stdout or ():
            if int(line) == 200:
                running.kill()


async def test_kill_9_loses_no_count_and_counts_nothing_twice(path):
    run_until_killed(path)
    store = await Store.open(path)
    last = (await store.read(read.last_id)) + 1
    await run(store, last, last / 10, took=0.1, name=f"name-{last % 3}")  # it adds to what is on disk

    found = await columns_of(store, NAME, 0, HOUR, 1, 0)
    starts = await sql(store, "SELECT name, count(*) FROM jobs JOIN attempts ON job = id GROUP BY name")
    done = await sql(store, "SELECT name, count(*) FROM jobs WHERE state = 'succeeded' GROUP BY name")
    assert {name: each.started for name, [each] in found.items()} == dict(starts)
    assert {name: each.finished[State.SUCCEEDED] for name, [each] in found.items()} == dict(done)
    await store.close()


async def test_ends_of_the_last_day_are_counted_by_hour(store, monkeypatch):
    monkeypatch.setattr("time.time", lambda: BEGIN + DAY + 10.0)
    for number, ago in enumerate((DAY, DAY - 2 * HOUR, HOUR - 60, 30), start=1):
        await run(store, number, DAY - ago, queue="mail", outcome=Outcome.EXIT)
    await run(store, 5, DAY)

    hours = await store.read(activity.ends)

    assert (hours[0], hours[1], hours[-1], sum(jobs for jobs, _ in hours)) == ((0, 0), (1, 1), (3, 2), 4)


def test_percentiles_are_right_but_for_the_stated_error():
    times = [0.004 * 1.37**number for number in range(40)]
    buckets = Counter(map(bucket_of, times))
    for place in range(40):
        found = percentile(dict(buckets), (place + 1) / 40) or 0.0
        assert abs(found / times[place] - 1) <= ERROR

    assert percentile({}, 0.5) is None
    assert bucket_of(0.0) == bucket_of(0.001)
    assert ERROR < 0.1
