"""The events that one transaction saves when several things have happened to a job since the last one."""

from __future__ import annotations

from bgd.core.job import Now, Outcome, RetryPolicy
from bgd.core.scheduler import Scheduler
from bgd.core.spec import JobSpec
from bgd.daemon.dispatch import AttemptTable
from bgd.daemon.storage.records import AttemptEnd
from bgd.daemon.supervisor import PendingChanges, TransactionPlan

NOW = Now(elapsed=100.0, wall=1_700_000_000.0)


def test_an_outcome_is_in_one_event_only_and_not_in_that_of_a_later_cancel():
    scheduler = Scheduler(slots=1, rules={}, last_id=0, roll=lambda: 0.5)
    job = scheduler.submit(JobSpec(argv=("false",)), RetryPolicy(retries=1), NOW)
    scheduler.take_effects()
    scheduler.ended(job, 1, Outcome.EXIT, NOW, 1)
    scheduler.cancel(job, NOW)
    end = AttemptEnd(job=job, attempt=1, outcome=Outcome.EXIT, exit_code=1, finished_at=NOW.wall)
    plan = TransactionPlan(PendingChanges(ends=[end]), NOW, "launcher", scheduler.get)

    plan.add_effects(scheduler.take_effects(), AttemptTable())

    saved = [(event.what, event.outcome, event.reason) for event in plan.batch.events]
    assert saved == [("retry", Outcome.EXIT, None), ("cancel", None, "cancelled before it started")]
