"""Keys: until when a job has its key, and for how long after its end no other job may have it."""

from __future__ import annotations

import pytest

from bgd.core.job import Outcome, State
from bgd.core.spec import KeyUntil
from tests.core.scheduling import NOW, THREE_RETRIES, at, end, make_scheduler, spec, submit


def ended(scheduler, outcome=Outcome.SUCCEEDED, now=NOW, **options):
    """Run a job with a key that stays for ten seconds; return its id."""
    job_id = submit(scheduler, key="site", **({"key_for": 10.0} | options), now=now)
    return end(scheduler, job_id, outcome, now).job.id


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.EXIT])
def test_a_key_stays_for_a_time_after_the_end(outcome):
    scheduler = make_scheduler()
    job_id = ended(scheduler, outcome)

    assert scheduler.holder_of("site", at(9.9)) == job_id
    assert scheduler.holder_of("site", at(10.0)) is None
    assert (scheduler.kept_keys, len(scheduler)) == (1, 0)
    scheduler.advance(at(10.0))
    assert scheduler.kept_keys == 0


def test_the_next_job_takes_a_key_whose_time_is_over():
    scheduler = make_scheduler()
    ended(scheduler)
    second = submit(scheduler, key="site", now=at(10.0))

    assert scheduler.holder_of("site", at(10.0)) == second
    end(scheduler, second, now=at(11.0))
    assert scheduler.holder_of("site", at(11.0)) is None


def test_the_next_job_keeps_the_key_for_its_own_time():
    scheduler = make_scheduler()
    ended(scheduler)
    scheduler.wait_to_settle()  # nothing has freed the key since
    second = submit(scheduler, key="site", key_for=10.0, now=at(12.0))
    end(scheduler, second, now=at(13.0))

    assert scheduler.holder_of("site", at(22.0)) == second
    assert scheduler.holder_of("site", at(23.0)) is None


def test_a_cancelled_job_frees_its_key():
    scheduler = make_scheduler()
    job_id = submit(scheduler, key="site", key_for=10.0, hold=True)
    scheduler.cancel(job_id, NOW)

    assert scheduler.holder_of("site", NOW) is None


def test_a_removed_job_frees_its_key_and_only_its_own():
    scheduler = make_scheduler()
    job_id = submit(scheduler, key="site", key_for=10.0)
    job = end(scheduler, job_id).job
    scheduler.table.free_key(job)
    second = submit(scheduler, key="site")
    scheduler.table.free_key(job)

    assert scheduler.holder_of("site", NOW) == second


def test_a_job_that_runs_again_has_its_key_again():
    scheduler = make_scheduler()
    job = end(scheduler, submit(scheduler, key="site", key_for=10.0)).job
    scheduler.revive(job, NOW)

    assert scheduler.kept_keys == 0
    assert scheduler.holder_of("site", at(99.0)) == job.id
    end(scheduler, job.id, now=at(100.0))
    assert scheduler.holder_of("site", at(109.0)) == job.id


def test_keys_are_restored_unless_another_job_has_them():
    scheduler = make_scheduler()
    second = submit(scheduler, key="site")
    scheduler.table.restore_keys([("site", 7, 10.0), ("mail", 8, 10.0)])

    assert scheduler.holder_of("site", NOW) == second
    assert scheduler.holder_of("mail", at(9.0)) == 8
    assert scheduler.kept_keys == 1


def test_a_key_until_the_start_is_free_once_the_first_attempt_has_started():
    scheduler = make_scheduler()
    first = submit(scheduler, THREE_RETRIES, key="site", key_until=KeyUntil.START)
    assert scheduler.holder_of("site", NOW) is None
    second = submit(scheduler, key="site", key_until=KeyUntil.START)

    assert scheduler.holder_of("site", NOW) == second
    end(scheduler, first, Outcome.EXIT)  # the second starts while the first waits for its retry
    assert scheduler.get(second).state is State.RUNNING
    assert scheduler.holder_of("site", NOW) is None
    third = submit(scheduler, key="site")
    end(scheduler, second)
    assert scheduler.holder_of("site", NOW) == third
    assert scheduler.get(first).conditions.key is None


def test_an_edit_leaves_the_key_as_it_is():
    scheduler = make_scheduler(slots=1)
    submit(scheduler)
    options = {"key": "site", "key_until": KeyUntil.START}
    job_id = submit(scheduler, **options)
    scheduler.edit(job_id, spec(priority=3, **options), THREE_RETRIES, {"priority"}, NOW)

    assert scheduler.holder_of("site", NOW) == job_id
