"""Jobs summed up by name and by queue."""

from __future__ import annotations

from math import inf

from bgd.core.job import JobId, Now, Outcome, State
from bgd.core.schedule_spec import Result
from bgd.core.schedules import Occurrence
from bgd.daemon.storage import read, summaries
from bgd.daemon.storage.records import AttemptEnd, JobEvent, NewAttempt, Transaction
from bgd.daemon.storage.store import adopt_boot
from bgd.daemon.storage.summaries import OldestQueued, Run, UsualTimes
from bgd.system import clock
from bgd.text.facts import facts_of
from bgd.text.formatting import is_slow
from bgd.wire.views import JobError
from tests.daemon.storage.builders import BOOT, NOW, a_job, move, new, put, saves

LATER = 1_000.0  # seconds from NOW to the end of a job


async def finish(store, number, *, failed=False, took=1.0, ago=0.0, queue="default", error=None):
    """Start a job, and let it end some seconds before LATER."""
    job, at = JobId(number), Now(NOW.elapsed + LATER - ago, NOW.wall + LATER - ago)
    running = a_job(number, State.RUNNING, attempt=1, queue=queue)
    start = NewAttempt(job, 1, 1, "launcher", NOW.wall)
    await store.commit(Transaction(now=NOW, saves=saves(running), attempts=[start]))
    outcome = Outcome.EXIT if failed else Outcome.SUCCEEDED
    end = AttemptEnd(
        job=job,
        attempt=1,
        outcome=outcome,
        finished_at=at.wall,
        run_seconds=took,
        error=None if error is None else JobError(*error),
    )
    ended = a_job(number, State.FAILED if failed else State.SUCCEEDED, attempt=1, queue=queue)
    await store.commit(Transaction(now=at, saves=saves(ended), ends=[end]))


async def board_of(store):
    return await store.search(summaries.board)


async def names_of(store):
    return {each.name: each for each in (await board_of(store)).names}


# --- by name


async def test_a_name_has_its_latest_results_streak_and_times(store):
    await put(store, *(new(number, name="backup") for number in range(1, 8)))
    for number, failed, took in ((1, True, 1.0), (2, False, 2.0), (3, True, 3.0), (4, True, 9.0)):
        await finish(store, number, failed=failed, took=took, ago=100 - number)
    await move(store, 5, State.RUNNING, attempt=1)
    await move(store, 6, State.CANCELLED)
    found = (await names_of(store))["backup"]

    at = NOW.wall + LATER - 100
    assert found.succeeded == Run(2, State.SUCCEEDED, at + 2, 2.0, Outcome.SUCCEEDED)
    assert found.failed == Run(4, State.FAILED, at + 4, 9.0, Outcome.EXIT)
    assert [run.job for run in found.recent] == [4, 3, 2, 1]
    assert (found.streak, found.runs, found.median, found.last_seconds) == (2, 4, 2.0, 9.0)
    assert (found.running, found.waiting, found.latest) == (1, 1, 7)


async def test_a_schedule_has_its_latest_jobs_that_are_still_there(store):
    await put(store, *(new(number) for number in range(1, 6)))
    times = [Occurrence(NOW.wall, Result.RAN, schedule="nightly", job=JobId(job)) for job in (1, 2, 4, 99)]
    times.append(Occurrence(NOW.wall, Result.SKIPPED, "paused", schedule="nightly"))
    await store.commit(Transaction(now=NOW, occurrences=times))
    await finish(store, 2, failed=True, took=2.0)
    runs = await store.search(summaries.runs_of_schedules, ["nightly", "unknown"], 2)

    assert [(run.job, run.state, run.seconds) for run in runs["nightly"]] == [
        (4, State.QUEUED, None),
        (2, State.FAILED, 2.0),
    ]
    assert runs["unknown"] == []


async def test_names_that_fail_come_first_and_cancelled_jobs_are_no_results(store):
    await put(store, new(1, name="b"), new(2, name="a"), new(3, name="c"), new(4), new(5, name="c"))
    await finish(store, 3, failed=True)
    await finish(store, 1)
    await move(store, 2, State.CANCELLED)
    await move(store, 5, State.CANCELLED)

    names = (await board_of(store)).names
    assert [(each.name, each.streak, each.runs) for each in names] == [("c", 1, 1), ("a", 0, 0), ("b", 0, 1)]


async def usual_of(store, usual, number):
    """Return the usual time that a job is shown with, and whether it is slow."""
    view = await with_usual(store, usual, number)
    return view.usual_seconds, is_slow(view)


async def test_a_job_is_slow_that_takes_longer_than_95_of_100_of_its_name(store):
    await store.write(adopt_boot, NOW, BOOT)
    await put(
        store, *(new(number, name="nightly") for number in range(1, 31)), new(31, name="other"), new(32)
    )
    for number in range(1, 11):
        await finish(store, number, took=float(number))
    assert await usual_of(store, UsualTimes(), 10) == (None, False)  # the others are too few
    for number in range(11, 21):
        await finish(store, number, took=float(number))
    await finish(store, 21, took=0.5, failed=True)  # what fails soon is not usual
    for number in (31, 32):
        await finish(store, number, took=1000.0)
    usual = UsualTimes()

    assert await usual_of(store, usual, 19) == (20.0, False)
    assert await usual_of(store, usual, 20) == (19.0, True)
    assert await usual_of(store, usual, 22) == (None, False)  # it waits
    assert await usual_of(store, usual, 31) == (None, False)
    assert await usual_of(store, usual, 32) == (None, False)
    assert ("speed", "slower than usual (up to 19s)") in facts_of(await with_usual(store, usual, 20))


async def test_a_usual_time_is_computed_once_for_a_while_and_for_a_few_names_at_a_time(store, monkeypatch):
    await store.write(adopt_boot, NOW, BOOT)
    await put(store, *(new(number, name="nightly") for number in range(1, 21)))
    for number in range(1, 12):
        await finish(store, number, took=1.0)
    usual, at = UsualTimes(), clock.elapsed()
    monkeypatch.setattr(clock, "elapsed", lambda: at)
    assert await usual_of(store, usual, 1) == (1.0, False)
    for number in range(12, 21):
        await finish(store, number, took=5.0)

    assert await usual_of(store, usual, 1) == (1.0, False)
    monkeypatch.setattr(clock, "elapsed", lambda: at + summaries.USUAL_SECONDS + 1)
    monkeypatch.setattr(summaries, "MAX_COMPUTED", 0)
    assert await usual_of(store, usual, 1) == (1.0, False)
    monkeypatch.setattr(summaries, "MAX_COMPUTED", 1)
    assert await usual_of(store, usual, 1) == (5.0, False)
    monkeypatch.setattr(summaries, "MAX_USUAL", 1)
    assert await usual_of(store, UsualTimes(), 1) == (5.0, False)


async def with_usual(store, usual, number):
    [view] = await store.search(usual.add_to, [await store.read(read.view, number)])
    return view


async def test_class_jobs_without_a_name_are_known_by_their_target(store):
    call = {"argv": None, "target": "app:Mail.send", "arguments": "{}"}
    await put(store, new(1, **call), new(2, **call), new(3, **call, name="app:Mail.send"), new(4))
    await finish(store, 1, failed=True)

    found = [(each.name, each.is_target, each.streak, each.waiting) for each in (await board_of(store)).names]
    assert found == [("app:Mail.send", True, 1, 1), ("app:Mail.send", False, 0, 1)]


async def test_a_run_is_found_behind_many_jobs_that_wait(store):
    await put(store, *(new(number, name="busy") for number in range(1, 2 * summaries.RUNS)))
    await finish(store, 1)
    found = (await names_of(store))["busy"]

    assert (found.succeeded and found.succeeded.job, found.waiting) == (1, 2 * summaries.RUNS - 2)


async def test_only_the_latest_runs_of_a_name_are_read(store, monkeypatch):
    monkeypatch.setattr(summaries, "RUNS", 2)
    await put(store, *(new(number, name="often") for number in range(1, 5)))
    for number in range(1, 5):
        await finish(store, number, failed=number != 2)
    found = (await names_of(store))["often"]

    assert (found.streak, found.runs, found.succeeded) == (2, 2, None)


async def test_of_many_names_the_latest_are_shown_and_the_others_counted(store, monkeypatch):
    monkeypatch.setattr(summaries, "MAX_NAMES", 3)
    await put(
        store, *(new(number, name=f"name-{9 - number}") for number in range(1, 9)), new(9, name="name-8")
    )
    board = await board_of(store)

    assert [each.name for each in board.names] == ["name-1", "name-2", "name-8"]
    assert (board.left_out, board.has_more) == (5, False)


async def test_of_very_many_names_the_first_and_the_newest_are_looked_at(store, monkeypatch):
    monkeypatch.setattr(summaries, "MAX_DISTINCT", 2)
    monkeypatch.setattr(summaries, "NEWEST_JOBS", 1)
    await put(store, *(new(number, name=f"name-{number}") for number in range(1, 8)))
    board = await board_of(store)

    assert [each.name for each in board.names] == ["name-1", "name-2", "name-3", "name-7"]
    assert board.has_more


async def test_counts_of_waiting_jobs_say_when_they_are_cut(store, monkeypatch):
    await put(store, *(new(number, name="crowd") for number in range(1, 6)))
    assert not (await board_of(store)).is_cut
    monkeypatch.setattr(summaries, "MAX_UNFINISHED", 3)
    board = await board_of(store)

    assert (board.is_cut, board.names[0].waiting) == (True, 3)


async def test_an_empty_store_has_no_names(store):
    board = await board_of(store)

    assert (board.names, board.left_out, board.has_more, board.is_cut) == ([], 0, False, False)


# --- what ran when


async def test_attempts_of_an_hour_are_those_that_run_or_ended_since(store):
    await put(store, new(1, name="ended"), new(2), new(3, name="runs"))
    for number, ago in ((2, 500.0), (1, 10.0)):
        await finish(store, number, ago=ago)
        at = NOW.wall + LATER - ago
        event = JobEvent(at, JobId(number), "succeed", State.SUCCEEDED, 1, Outcome.SUCCEEDED, None)
        await store.commit(Transaction(now=NOW, events=[event]))
    await run(store, 3, "default", slot=2)

    found = await store.search(summaries.runs_since, NOW.wall + LATER - 100.0)

    began = NOW.wall
    assert [(each.job, each.name, each.slot, each.ended_at, each.outcome) for each in found] == [
        (1, "ended", 1, began + LATER - 10.0, Outcome.SUCCEEDED),
        (3, "runs", 2, None, None),
    ]


# --- all of them, and by queue


async def test_figures_say_how_much_there_is(store):
    await put(store, new(1, at=NOW.wall - 60), new(2, at=NOW.wall - 90), new(3))
    await move(store, 1, State.RUNNING, attempt=1)
    figures = await store.search(summaries.figures)

    assert (figures.counts["queued"], figures.counts["running"]) == (2, 1)
    assert figures.oldest_queued_at == NOW.wall - 90
    assert (figures.log_bytes, figures.database_bytes > 10_000) == (0, True)


async def test_failures_of_a_day_are_grouped_by_error_and_name(store, monkeypatch):
    await store.write(adopt_boot, NOW, BOOT)
    monkeypatch.setattr(clock, "elapsed", lambda: NOW.elapsed + LATER)
    monkeypatch.setattr(summaries, "_DAY", 500.0)  # NOW is less than a day after the boot
    await put(store, *(new(number, name="nightly" if number < 5 else None) for number in range(1, 8)))
    for number, error in ((1, None), (2, None), (3, ("ValueError", "bad")), (5, None)):
        await finish(store, number, failed=True, ago=10.0 - number, error=error)
    await finish(store, 4)
    await finish(store, 6, failed=True, error=("exit", "no such directory"))  # said of the outcome itself
    await finish(store, 7, failed=True, ago=501.0)

    found = (await store.search(summaries.failures)).groups

    words = [(each.name, each.error, each.jobs, each.newest) for each in found]
    assert words == [
        ("nightly", None, 2, 2),
        (None, "no such directory", 1, 6),
        (None, None, 1, 5),
        ("nightly", "ValueError", 1, 3),
    ]
    assert found[0].at == NOW.wall + LATER - 8.0


async def test_the_oldest_queued_job_of_each_queue_is_found(store):
    await put(
        store,
        new(1, queue="mail", at=NOW.wall - 9),
        new(2, queue="mail", at=NOW.wall - 8),
        new(3, queue="mail", at=NOW.wall - 7),
        new(4, at=NOW.wall - 6),
        new(5, queue="held", due=99_999.0),
    )
    await move(store, 1, State.SUCCEEDED, queue="mail")

    assert await store.search(summaries.oldest_queued) == {
        "mail": OldestQueued(2, NOW.wall - 8),
        "default": OldestQueued(4, NOW.wall - 6),
    }


# --- how long they will likely take


async def test_running_jobs_likely_take_as_long_as_the_latest_of_their_names(store):
    named = [new(number, name="backup") for number in range(1, 5)]
    await put(store, *named, new(5, name="new"), new(6, queue="mail", name="letter"))
    for number, took in ((1, 4.0), (2, 9.0), (3, 60.0)):
        await finish(store, number, took=took, failed=took == 60.0)
    for number, queue in ((4, "default"), (5, "default"), (6, "mail")):
        await run(store, number, queue)

    at = NOW.wall
    unknown = (1, None)  # whatever jobs of the name that waits take
    assert await likely_ends(store, "backup", None) == (4.0, [(1, at + 4.0), unknown, unknown])
    assert await likely_ends(store, None, "default") == (
        None,
        [(1, at + 4.0), (1, None)],
    )
    assert await likely_ends(store, "letter", "mail") == (None, [(1, None)])


async def test_a_large_batch_is_known_by_those_that_ended_last(store, monkeypatch):
    monkeypatch.setattr(summaries, "MAX_WAITING", 2)
    await store.write(adopt_boot, NOW, BOOT)
    await put(store, *(new(number, name="batch") for number in range(1, 9)))
    await finish(store, 1, took=7.0)

    assert await likely_ends(store, "batch", None) == (7.0, [])


async def test_of_very_many_running_jobs_nobody_can_tell(store, monkeypatch):
    monkeypatch.setattr(summaries, "MAX_RUNNING", 2)
    await put(store, new(1, name="usual"), new(2, name="usual"), new(3, name="usual"))
    await finish(store, 1)
    await run(store, 2, "default")
    await run(store, 3, "default")

    assert await likely_ends(store, "usual", None) == (None, [(1, None)])


async def test_jobs_that_take_no_slot_of_the_daemon_make_none_free(store):
    await put(store, new(1, name="usual"), new(2, name="usual"), new(3, queue="far", name="usual"))
    await finish(store, 1, took=2.0)
    await run(store, 2, "default")
    await run(store, 3, "far", slot=0)

    assert await likely_ends(store, "usual", None) == (2.0, [(1, NOW.wall + 2.0)])
    assert await likely_ends(store, "usual", "far") == (2.0, [(1, NOW.wall + 2.0)])


async def test_a_suspended_job_does_not_end_by_itself(store):
    await put(store, new(1, name="usual"), new(2, name="usual"))
    await finish(store, 1, took=2.0)
    await run(store, 2, "default", suspended=True)

    assert await likely_ends(store, "usual", None) == (2.0, [(1, inf)])


async def run(store, number, queue, slot=1, **fields):
    running = a_job(number, State.RUNNING, attempt=1, queue=queue, **fields)
    start = NewAttempt(JobId(number), 1, slot, "launcher", NOW.wall)
    await store.commit(Transaction(now=NOW, saves=saves(running), attempts=[start]))


async def likely_ends(store, name, queue):
    return await store.search(summaries.likely_ends, name, queue)
