"""The attempt table reconciles active attempts with what a launcher knows (R3)."""

from __future__ import annotations

from bgd.core.job import Job, JobId, Outcome, RetryPolicy, State
from bgd.core.scheduler import StartAttempt
from bgd.daemon.dispatch import AttemptTable
from bgd.daemon.launching import LauncherSnapshot
from bgd.daemon.storage.records import NewAttempt
from bgd.wire.launching import AttemptEnded, AttemptKey, AttemptStarted

STORE = "store"
BOOT = "boot"
HERE = f"{BOOT}:here"
BEFORE = f"{BOOT}:before"
OTHER_BOOT = "other-boot:before"


def a_job(number=1, state=State.RUNNING, attempt=1):
    return Job(JobId(number), state, "default", 0, RetryPolicy(), attempt=attempt)


def key_of(job):
    return AttemptKey(STORE, job.id, job.attempt)


def snapshot(*started, covers=(), ended=()):
    known = {key: AttemptStarted(key, 10, 1.0) for key in started}
    ends = [AttemptEnded(key=key, outcome=Outcome.SUCCEEDED, finished_at=2.0) for key in ended]
    return LauncherSnapshot(HERE, frozenset(covers), known, ends)


ADOPTED = "adopted"


def restored(job, launcher):
    attempts = AttemptTable()
    attempts.restore(job.id, 1, launcher)
    return attempts


def reconcile(attempts, job, seen):
    """Return the outcome of an attempt that is over, ADOPTED of one that runs; None: neither."""
    adopted, over = attempts.reconcile([job], seen, STORE, BOOT, 6.0)
    return over[0].outcome if over else ADOPTED if adopted else None


def test_running_attempt_is_adopted():
    job = a_job()
    assert reconcile(restored(job, BEFORE), job, snapshot(key_of(job))) == ADOPTED


def test_attempt_whose_end_is_in_the_snapshot_is_left_out():
    job = a_job()
    attempts = restored(job, HERE)
    assert reconcile(attempts, job, snapshot(ended=[key_of(job)])) is None
    assert list(attempts.to_reassign) == []


def test_attempt_absent_from_its_own_launcher_was_never_started():
    job = a_job()
    attempts = restored(job, HERE)
    assert reconcile(attempts, job, snapshot()) is None
    assert list(attempts.to_reassign) == [job.id]


def test_attempt_absent_from_a_launcher_that_covers_its_own_was_never_started():
    job = a_job()
    attempts = restored(job, BEFORE)
    assert reconcile(attempts, job, snapshot(covers=[BEFORE])) is None
    assert list(attempts.to_reassign) == [job.id]


def test_attempt_of_a_dead_launcher_is_unknown():
    job = a_job()
    result = reconcile(restored(job, BEFORE), job, snapshot())
    assert result is Outcome.UNKNOWN


def test_attempt_of_an_earlier_boot_is_interrupted():
    job = a_job()
    result = reconcile(restored(job, OTHER_BOOT), job, snapshot())
    assert result is Outcome.INTERRUPTED


def test_stopping_attempt_that_was_never_started_is_cancelled():
    job = a_job(state=State.STOPPING)
    attempts = restored(job, HERE)
    result = reconcile(attempts, job, snapshot())
    assert result is Outcome.CANCELLED
    assert list(attempts.to_reassign) == []


def test_other_attempts_of_the_same_job_in_the_snapshot_do_not_count():
    job = a_job(attempt=2)
    attempts = restored(job, HERE)
    assert reconcile(attempts, job, snapshot(AttemptKey(STORE, job.id, 1))) is None
    assert list(attempts.to_reassign) == [job.id]


def test_attempts_of_another_store_in_the_snapshot_do_not_count():
    job = a_job()
    attempts = restored(job, HERE)
    assert reconcile(attempts, job, snapshot(AttemptKey("other", job.id, 1))) is None
    assert list(attempts.to_reassign) == [job.id]


def test_attempt_that_is_not_saved_yet_is_left_out():
    job = a_job()
    assert reconcile(AttemptTable(), job, snapshot()) is None


def test_unsent_attempt_of_a_dead_launcher_was_never_started_whatever_the_database_says():
    job = a_job()
    attempts = AttemptTable()
    attempts.start(StartAttempt(job, 1), BEFORE, 5.0)
    assert reconcile(attempts, job, snapshot()) is None
    assert list(attempts.to_reassign) == [job.id]


def test_sent_attempt_of_a_dead_launcher_is_unknown():
    job = a_job()
    attempts = AttemptTable()
    attempts.start(StartAttempt(job, 1), BEFORE, 5.0)
    attempts.active[job.id].is_unsent = False
    assert reconcile(attempts, job, snapshot()) is Outcome.UNKNOWN


def test_new_attempt_may_be_sent_once_and_only_to_the_launcher_it_was_saved_for():
    job = a_job()
    attempts = AttemptTable()
    assert attempts.start(StartAttempt(job, 3), HERE, 5.0) == NewAttempt(job.id, 1, 3, HERE, 5.0)
    assert not attempts.may_send(job, BEFORE)
    assert attempts.may_send(job, HERE)
    attempts.active[job.id].is_unsent = False
    assert not attempts.may_send(job, HERE)


def test_attempt_is_reassigned_once():
    job = a_job()
    attempts = restored(job, BEFORE)
    reconcile(attempts, job, snapshot(covers=[BEFORE]))
    assert attempts.reassign({job.id: job}.get, HERE, 6.0) == [(job, NewAttempt(job.id, 1, 1, HERE, 6.0))]
    assert attempts.reassign({job.id: job}.get, HERE, 7.0) == []
    assert attempts.may_send(job, HERE)


def test_adopted_attempt_is_never_sent():
    job = a_job()
    attempts = AttemptTable()
    attempts.start(StartAttempt(job, 1), HERE, 5.0)
    reconcile(attempts, job, snapshot(key_of(job)))
    assert not attempts.may_send(job, HERE)


def test_attempt_that_ended_is_not_reassigned():
    job = a_job()
    attempts = restored(job, HERE)
    reconcile(attempts, job, snapshot())
    attempts.end(job.id)
    assert attempts.reassign({}.get, HERE, 6.0) == []
    assert list(attempts.to_reassign) == []
