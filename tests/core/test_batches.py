"""Batches: every job is counted in one state, and each event comes once."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bgd.core import batches
from bgd.core.batches import Batch, Batches, BatchEvent, BatchId
from bgd.core.job import ACTIVE, FINAL, Move, Outcome, State
from tests.core.scheduling import NOW, end, make_scheduler, spec, started_ids, submit

ALL = (BatchEvent.THEN, BatchEvent.CATCH, BatchEvent.FINALLY)
COUNTED = ("pending", "running", "succeeded", "failed", "cancelled")


def batch(number=1, *, is_whole=True, unstarted=ALL):
    token = bytes([number])
    return Batch(
        id=BatchId(number), uid=0, token=token, created_at=0.0, is_whole=is_whole, unstarted=unstarted
    )


def scheduler_with(*made, slots=10):
    scheduler = make_scheduler(slots)
    for each in made:
        scheduler.batches.put(each)
    return scheduler


def counts(one):
    return {name: getattr(one, name) for name in COUNTED if getattr(one, name)}


def due(scheduler):
    return [(one.id, event) for one, event in scheduler.batches.take_due()]


def test_the_jobs_of_a_batch_are_counted_by_state():
    one = batch(is_whole=False)
    scheduler = scheduler_with(one, slots=2)
    submit(scheduler)
    jobs = [submit(scheduler, batch=1) for _ in range(3)]
    assert counts(one) == {"running": 1, "pending": 2}

    end(scheduler, jobs[0])
    scheduler.cancel(jobs[2], NOW)
    end(scheduler, jobs[1], Outcome.EXIT)

    assert counts(one) == {"succeeded": 1, "failed": 1, "cancelled": 1}
    assert one.total == 3


def test_then_and_finally_come_once_when_all_have_succeeded():
    one = batch()
    scheduler = scheduler_with(one)
    first, second = submit(scheduler, batch=1), submit(scheduler, batch=1)
    end(scheduler, first)
    assert due(scheduler) == []

    end(scheduler, second)

    assert due(scheduler) == [(1, "then"), (1, "finally")]
    assert due(scheduler) == []
    assert one.unstarted == (BatchEvent.CATCH,)


def test_catch_comes_with_the_first_failure_and_then_never_after_it():
    scheduler = scheduler_with(batch())
    jobs = [submit(scheduler, batch=1) for _ in range(3)]

    end(scheduler, jobs[0], Outcome.EXIT)
    assert due(scheduler) == [(1, "catch")]
    end(scheduler, jobs[1], Outcome.EXIT)
    assert due(scheduler) == []
    end(scheduler, jobs[2])

    assert due(scheduler) == [(1, "finally")]


def test_a_cancelled_job_is_no_failure_but_then_does_not_come():
    scheduler = scheduler_with(batch())
    job = submit(scheduler, batch=1, hold=True)

    scheduler.cancel(job, NOW)

    assert due(scheduler) == [(1, "finally")]


def test_a_batch_ends_only_when_its_client_is_done():
    one = batch(is_whole=False)
    scheduler = scheduler_with(one)
    end(scheduler, submit(scheduler, batch=1))
    assert due(scheduler) == []

    scheduler.batches.change(one, is_whole=True)

    assert due(scheduler) == [(1, "then"), (1, "finally")]


def test_a_batch_does_not_end_before_what_its_jobs_have_added():
    one = batch()
    scheduler = scheduler_with(one)
    first = submit(scheduler, batch=1)
    added = submit(scheduler, batch=1)
    end(scheduler, first)
    assert due(scheduler) == []

    end(scheduler, added)

    assert due(scheduler) == [(1, "then"), (1, "finally")]


def test_a_retry_reopens_the_counts_and_starts_only_what_has_not_started():
    one = batch()
    scheduler = scheduler_with(one)
    job = submit(scheduler, batch=1)
    ended = end(scheduler, job, Outcome.EXIT).job
    assert due(scheduler) == [(1, "catch"), (1, "finally")]
    [saved], _ = scheduler.batches.take_changed(5.0)
    assert (saved.finished_at, scheduler.batches.open) == (5.0, {})

    scheduler.batches.put(saved)
    scheduler.batches.recall(job, saved.id)
    scheduler.revive(ended, NOW)
    assert counts(saved) == {"running": 1}
    [reopened], _ = scheduler.batches.take_changed(6.0)
    assert reopened.finished_at is None
    end(scheduler, job)

    assert due(scheduler) == [(1, "then")]
    [again], _ = scheduler.batches.take_changed(7.0)
    assert (counts(again), again.finished_at) == ({"succeeded": 1}, 7.0)


def test_a_batch_that_is_reopened_and_gets_no_jobs_stays_as_it_was():
    scheduler = scheduler_with(batch())
    end(scheduler, submit(scheduler, batch=1))
    due(scheduler)
    [saved], _ = scheduler.batches.take_changed(5.0)

    scheduler.batches.put(saved)
    assert due(scheduler) == []

    assert scheduler.batches.take_changed(9.0) == ([saved], [])
    assert scheduler.batches.open == {}


def test_changed_batches_are_returned_as_copies_with_the_runs_of_new_jobs():
    first, second = batch(1, is_whole=False), batch(2, is_whole=False)
    scheduler = scheduler_with(first, second)
    for number in (1, 1, 2, 1):
        submit(scheduler, batch=number)

    changed, joined = scheduler.batches.take_changed(0.0)

    assert joined == [(1, 2, 1), (3, 3, 2), (4, 4, 1)]
    assert changed == [first, second]
    end(scheduler, started_ids(scheduler)[0])
    assert changed != [first, second]
    first.started[BatchEvent.CATCH] = 9
    assert changed[0].started == {}
    assert scheduler.batches.take_changed(0.0)[0] == [first]


def test_a_cancelled_batch_stays_so():
    one = batch(is_whole=False)
    known = scheduler_with(one).batches

    known.change(one, is_whole=True, is_cancelled=True)
    known.change(one, is_whole=False)

    assert (one.is_cancelled, one.is_whole) == (True, False)


def test_a_batch_is_found_by_its_token_while_it_is_open():
    known: Any = Batches()
    assert known.of_token(b"\1") is None
    known.put(batch(is_whole=False))
    assert known.of_token(b"\1").id == 1
    known.change(known.of_token(b"\1"), is_whole=True)

    known.take_changed(1.0)

    assert (known.of_token(b"\1"), known.last_id) == (None, 1)


def test_a_restored_batch_knows_its_jobs():
    known: Any = Batches()
    one = batch()
    one.running = 5

    known.restore(one, [(10, 12), (20, 21)])

    assert [job for job in range(30) if known.of_job(job) is one] == [10, 11, 12, 20, 21]
    known.moved(11, State.RUNNING, State.SUCCEEDED)
    known.moved(13, State.RUNNING, State.SUCCEEDED)
    assert counts(one) == {"running": 4, "succeeded": 1}


def test_runs_of_ended_batches_are_dropped(monkeypatch):
    monkeypatch.setattr(batches, "_STALE", 3)
    known: Any = Batches()
    kept = batch(1, is_whole=False)
    known.put(kept)
    for number in range(2, 40):
        one = batch(number)
        known.put(one)
        known.join(3 * number, one.id, State.QUEUED)
        known.join(3 * number + 1, kept.id, State.QUEUED)
        known.moved(3 * number, State.QUEUED, State.SUCCEEDED)
        known.take_changed(0.0)

    assert len(known._firsts) < 2 * 38
    assert all(known.of_job(3 * number + 1) is kept for number in range(2, 40))
    assert all(known.of_job(3 * number) is None for number in range(2, 40))


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([*Outcome, Move.CANCEL])), max_size=30))
def test_counts_equal_the_jobs_whatever_happens(history):
    made = [batch(1, unstarted=()), batch(2, unstarted=())]
    scheduler = scheduler_with(*made, slots=3)
    job_ids = [submit(scheduler, **({"batch": number} if number else {})) for number, _ in history]
    states = dict.fromkeys(job_ids, State.QUEUED)
    for job_id, (_, what) in zip(job_ids, history, strict=True):
        job = scheduler.get(job_id)
        if what is Move.CANCEL or job.state is State.QUEUED:
            scheduler.cancel(job_id, NOW)
        elif job.state is State.RUNNING:
            scheduler.ended(job_id, job.attempt, what, NOW)
    for effect in scheduler.take_effects():
        if hasattr(effect, "before"):
            states[effect.job.id] = effect.job.state

    for one in made:
        of_it = [states[job] for job, (number, _) in zip(job_ids, history, strict=True) if number == one.id]
        kinds = (
            each.value if each in FINAL else "running" if each in ACTIVE else "pending" for each in of_it
        )
        assert counts(one) == dict(Counter(kinds))


def test_a_job_without_a_batch_is_in_none():
    scheduler = make_scheduler()
    submit(scheduler)

    assert spec().batch is None
    assert scheduler.batches.take_changed(0.0) == ([], [])
    assert scheduler.batches.of_job(1) is None
