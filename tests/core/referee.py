"""The referee follows a Scheduler's effects one by one and objects to whatever must never happen."""

from __future__ import annotations

import copy
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from bgd.core.effects import Effect, Save, Start, Stop
from bgd.core.job import ACTIVE, FINAL, MOVES, UNSEEN, Job, JobId, Outcome, State
from bgd.core.retry import MOST_UNSEEN
from bgd.core.scheduler import Scheduler

FAILURES = frozenset(
    {
        Outcome.EXIT,
        Outcome.SIGNAL,
        Outcome.TIMEOUT,
        Outcome.NOT_STARTED,
        Outcome.LOG_LIMIT,
        Outcome.ERROR,
    }
)
USES_UP_A_RETRY = FAILURES | {Outcome.UNKNOWN}


class Referee:
    """Knows every job there ever was, from effects alone, and holds the Scheduler's memory against that."""

    def __init__(self, slots: int, queue_slots: Mapping[str, int]) -> None:
        self.slots = slots
        self.queue_slots = dict(queue_slots)
        self.is_paused = False
        self.settled_at = 0.0  # elapsed time of the last fact after which nothing due may be left
        self.jobs: dict[JobId, Job] = {}
        self.slot_of: dict[JobId, int] = {}
        self.ends: defaultdict[JobId, list[Outcome]] = defaultdict(list)  # since submit or the last revival

    def copy(self) -> Referee:
        return copy.deepcopy(self)

    # --- what happens -------------------------------------------------------------------------------------

    def saw_end(self, job_id: JobId, outcome: Outcome) -> None:
        self.ends[job_id].append(outcome)

    def follow(self, effects: Iterable[Effect], revived: JobId | None = None) -> None:
        """Take the effects of one fact; `revived` is the finished job that it may bring back."""
        entered: Counter[tuple[JobId, State]] = Counter()
        ordered: Counter[tuple[JobId, State]] = Counter()
        for effect in effects:
            match effect:
                case Save():
                    if self._saw_save(effect, revived):
                        entered[effect.job.id, effect.job.state] += 1
                case Start():
                    self._saw_start(effect)
                    ordered[effect.job.id, State.RUNNING] += 1
                case Stop():
                    assert effect.job == self.jobs[effect.job.id]
                    ordered[effect.job.id, State.STOPPING] += 1
        acted_on = Counter({key: count for key, count in entered.items() if key[1] in ACTIVE})
        assert ordered == acted_on, "a Start for each move to running, a Stop for each to stopping"

    def _saw_save(self, save: Save, revived: JobId | None) -> bool:
        """Return whether the state is another than before."""
        old, new = self.jobs.get(save.job.id), save.job
        if old is None:
            assert save.spec is not None
            assert new.id > max(self.jobs, default=0), "ids grow"
            assert (new.state, new.attempt) in {(State.QUEUED, 0), (State.SCHEDULED, 0)}
        else:
            assert save.spec is None
            assert new.state is old.state or new.state in MOVES[old.state].values()
            assert old.state not in FINAL or new.id == revived
            assert new.attempt == old.attempt + (new.state is State.RUNNING), (
                "attempts are counted one by one"
            )
            assert (new.queue, new.priority, new.policy) == (old.queue, old.priority, old.policy)
            if old.state in FINAL:
                self.ends[new.id].clear()
            if new.state is State.FAILED:
                was_killed_unasked = old.state is State.RUNNING and self.ends[new.id][-1] is Outcome.CANCELLED
                assert was_killed_unasked or self._is_spent(new), "given up too early"
        assert (new.due is not None) == (new.state is State.SCHEDULED)
        assert new.state is State.STOPPING or not new.making_way
        if new.state not in ACTIVE:
            self.slot_of.pop(new.id, None)
        self.jobs[new.id] = new
        return old is None or new.state is not old.state

    def _saw_start(self, start: Start) -> None:
        job = start.job
        assert job == self.jobs[job.id]
        assert job.state is State.RUNNING
        assert not self.is_paused
        assert job.id not in self.slot_of, "one attempt of a job at a time"
        assert start.slot == next(slot for slot in itertools.count(1) if slot not in self.slot_of.values()), (
            "the smallest free slot"
        )
        assert self._has_room(job.queue)
        before = [other.id for other in self._startable() if _urgency(other) < _urgency(job)]
        assert not before, f"job {job.id} started before the more urgent {before}"
        self.slot_of[job.id] = start.slot

    # --- what holds in between ----------------------------------------------------------------------------

    def check(self, scheduler: Scheduler) -> None:
        """Hold the Scheduler's memory against what its effects have told."""
        unfinished = {job.id: job for job in self.jobs.values() if job.state not in FINAL}
        assert {job_id: scheduler.get(job_id) for job_id in unfinished} == unfinished
        assert len(scheduler) == len(unfinished), "nothing finished is kept in memory"

        active = {job_id for job_id, job in unfinished.items() if job.state in ACTIVE}
        assert {job.id for job in scheduler.active_jobs()} == set(self.slot_of) == active

        due = [job.due for job in unfinished.values() if job.due is not None]
        assert scheduler.next_timer_at() == min(due, default=None)
        assert all(instant > self.settled_at for instant in due), "a due job still waits"

        assert self.is_paused or not list(self._startable()), "a job waits beside a free slot"
        assert not [job for job in unfinished.values() if self._is_spent(job)], "not given up in time"

    def _is_spent(self, job: Job) -> bool:
        """Tell whether the latest end was the last that the job's policy allows."""
        if not self.ends[job.id]:
            return False
        *_, last = ends = self.ends[job.id]
        has_used_up = sum(outcome in USES_UP_A_RETRY for outcome in ends) > job.policy.retries
        if last not in UNSEEN:
            return (last in FAILURES and has_used_up) or last is Outcome.REFUSED
        if len(ends) >= MOST_UNSEEN and UNSEEN.issuperset(ends[-MOST_UNSEEN:]):
            return True
        if job.policy.rerun is None:
            return job.policy.retries == 0 or (last is Outcome.UNKNOWN and has_used_up)
        return not job.policy.rerun

    def _startable(self) -> Iterable[Job]:
        """Yield the queued jobs that a free slot waits for."""
        return (job for job in self.jobs.values() if job.state is State.QUEUED and self._has_room(job.queue))

    def _has_room(self, queue: str) -> bool:
        running = sum(self.jobs[job_id].queue == queue for job_id in self.slot_of)
        return len(self.slot_of) < self.slots and running < self.queue_slots.get(queue, self.slots)


def _urgency(job: Job) -> tuple[int, JobId]:
    return -job.priority, job.id
