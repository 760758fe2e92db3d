"""The simulator finds nothing wrong with retries, and finds faults that are made on purpose."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext

import pytest
from msgspec.structs import replace

from bgd.core import conditions
from bgd.daemon.job_actions import JobActions
from bgd.daemon.retries import Retries
from bgd.daemon.schedule_clock import ScheduleClock
from bgd.daemon.storage import read, write
from bgd.daemon.storage import schedules as schedule_storage
from bgd.daemon.storage.database import insert_rows
from tests.simulation.run import SimulationRun
from tests.simulation.search import search

RETRIED = 40  # histories with retries


def test_histories_with_retries_pass_all_checks():
    found: Counter[str] = Counter()
    for seed in range(RETRIED):
        found += SimulationRun(seed, has_retries=True, has_schedules=seed % 2 == 0).run()
    assert found["came along"] > RETRIED / 4, found
    assert found["replaced"] > 5, found


def revive_with(monkeypatch, **changes):
    revived = conditions.revived

    def changed(job, spec, now, awaited):
        new = revived(job, spec, now, awaited)
        return replace(new, conditions=replace(new.conditions, **changes))

    monkeypatch.setattr(conditions, "revived", changed)


def wait_for_nothing(monkeypatch):
    revive_with(monkeypatch, after=(), after_any=())


def never_expire_again(monkeypatch):
    revive_with(monkeypatch, expires=None)


def delay_again(monkeypatch):
    revived = conditions.revived

    def changed(job, spec, now, awaited):
        return replace(revived(job, spec, now, awaited), due=conditions.due_of(spec, now))

    monkeypatch.setattr(conditions, "revived", changed)


def retry_after_what_failed(monkeypatch):
    monkeypatch.setattr(conditions, "unmet", lambda *_: None)


def bring_nothing_along(monkeypatch):
    monkeypatch.setattr(read, "cancelled_with", lambda *_: ({}, set()))


def forget_dependents(monkeypatch):
    def lose(db, statement, *rows):
        if "dependents" not in statement:
            insert_rows(db, statement, *rows)

    monkeypatch.setattr(write, "insert_rows", lose)


def bring_along_in_a_later_transaction(monkeypatch):
    decide = Retries._decide

    def decide_asked(self, rest, facts, at):
        along = {job_id: rest.pop(job_id) for job_id in facts.causes}
        results = decide(self, rest, facts, at)
        later = self._supervisor._loop.call_later
        later(0.01, lambda: decide(self, dict(along), facts, at) and self._supervisor.advance())
        return results | {job_id: results[cause] for job_id, cause in facts.causes.items()}

    monkeypatch.setattr(Retries, "_decide", decide_asked)


def release_who_was_held(monkeypatch):
    cancelled_with = read.cancelled_with
    monkeypatch.setattr(read, "cancelled_with", lambda *those: (cancelled_with(*those)[0], set()))


def submit_while_a_retry_is_decided(monkeypatch):
    monkeypatch.setattr(JobActions, "keeping_jobs", lambda *_, **__: nullcontext())


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (wait_for_nothing, "it had not (finished|succeeded)"),
        (never_expire_again, "started at .* and not by"),
        (delay_again, "waits for its delay again"),
        (retry_after_what_failed, "it had not succeeded"),
        (bring_nothing_along, "stays cancelled, and job"),
        (forget_dependents, "stays cancelled, and job"),
        (bring_along_in_a_later_transaction, "stays cancelled, and job|is said to have come along"),
        (release_who_was_held, "was held, and is not held again|was held, and then"),
        (submit_while_a_retry_is_decided, "stays cancelled, and job"),
    ],
)
def test_a_fault_of_retries_is_found(monkeypatch, fault, found):
    fault(monkeypatch)
    search(found, has_retries=True, has_schedules=False, has_limits=False)


def retry_beside_others(monkeypatch):
    monkeypatch.setattr(ScheduleClock, "_overlap", lambda *_: ())


def cancel_who_has_not_begun(monkeypatch):
    monkeypatch.setattr(ScheduleClock, "_is_unbegun", lambda *_: False)


def leave_the_job_to_the_replaced_time(monkeypatch):
    monkeypatch.setattr(schedule_storage, "_HAND_OVER", "SELECT ?, ?")


def say_that_replaced_jobs_ran(monkeypatch):
    changed = schedule_storage._REPLACE.replace("'replaced'", "'ran'")
    monkeypatch.setattr(schedule_storage, "_REPLACE", changed)


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (retry_beside_others, "of schedule .* beside"),
        (cancel_who_has_not_begun, "of schedule .* (beside|never began)"),
        (leave_the_job_to_the_replaced_time, "has 2 rows"),
        (say_that_replaced_jobs_ran, "events and rows differ"),
    ],
)
def test_a_fault_of_overlaps_is_found(monkeypatch, fault, found):
    fault(monkeypatch)
    search(found, has_retries=True, has_schedules=True)
