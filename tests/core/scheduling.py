"""Short ways to make a Scheduler, give it facts and read its effects."""

from __future__ import annotations

from bgd.core.explain import Cause
from bgd.core.job import Now, Outcome, RetryPolicy
from bgd.core.limits import QueueRule
from bgd.core.scheduler import SaveJob, Scheduler, StartAttempt
from bgd.core.spec import JobSpec

OBSTACLES = (Cause.LAUNCHER, Cause.SHUTDOWN, Cause.PAUSE, Cause.LOAD, Cause.MEMORY)
"""Why no job starts at all."""

NO_RETRIES = RetryPolicy()
THREE_RETRIES = RetryPolicy(retries=3, delay=5.0, jitter=0.0)


def at(elapsed):
    return Now(elapsed=elapsed, wall=1000.0 + elapsed)


NOW = at(0.0)


def spec(**options):
    return JobSpec(argv=("true",), **options)


def limits(**queue_slots):
    return {queue: QueueRule(slots=slots) for queue, slots in queue_slots.items()}


def make_scheduler(slots=1, **queue_slots):
    return Scheduler(slots, limits(**queue_slots), last_id=0, roll=lambda: 0.5)


def submit(scheduler, policy=NO_RETRIES, now=NOW, **options):
    job_id = scheduler.submit(spec(**options), policy, now)
    scheduler.advance(now)
    return job_id


def started(scheduler):
    """Take the effects; return those that start attempts, as (job, attempt, slot)."""
    return [
        (effect.job.id, effect.job.attempt, effect.slot)
        for effect in scheduler.take_effects()
        if isinstance(effect, StartAttempt)
    ]


def started_ids(scheduler):
    return [job_id for job_id, _, _ in started(scheduler)]


def end(scheduler, job_id, outcome=Outcome.SUCCEEDED, now=NOW):
    """End the attempt of a job and return the SaveJob of that."""
    scheduler.take_effects()
    assert scheduler.ended(job_id, scheduler.get(job_id).attempt, outcome, now)
    return next(effect for effect in scheduler.take_effects() if isinstance(effect, SaveJob))


def dead_weight(scheduler):
    """Return how many entries of heaps stand for nothing if no job waits."""
    return len(scheduler.table.queues) + len(scheduler.table.waiting)
