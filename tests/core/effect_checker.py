"""Follow the effects of a Scheduler one by one, and fail at whatever must never happen."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from math import inf

from msgspec import Struct

from bgd.core.explain import Cause
from bgd.core.job import (
    ACTIVE,
    EXPIRED,
    FINAL,
    MAY_BE_SUSPENDED,
    MOVES,
    UNSEEN,
    WAITING,
    Job,
    JobId,
    Move,
    NextStep,
    Now,
    Outcome,
    State,
)
from bgd.core.limits import NO_TOKENS, QueueRule, Resources
from bgd.core.retry import MOST_UNSEEN, SHORTEST_SNOOZE
from bgd.core.scheduler import (
    AFTER_NEW,
    NOTE,
    SKIPPED,
    SUBMIT,
    SUSPENDED_AT_END,
    CommandAttempt,
    Effect,
    SaveJob,
    Scheduler,
    StartAttempt,
)
from bgd.core.spec import JobSpec, KeyUntil
from tests.core.dependency_model import DependencyModel
from tests.core.fakes import End
from tests.core.slot_model import SlotModel, skips

AFTER_ALL = Now(inf, inf)  # when no finished job has a key any more
FAILURES = frozenset(
    {
        Outcome.EXIT,
        Outcome.SIGNAL,
        Outcome.TIMEOUT,
        Outcome.NOT_STARTED,
        Outcome.OOM,
        Outcome.LOG_LIMIT,
        Outcome.ERROR,
    }
)
USES_UP_A_RETRY = FAILURES | {Outcome.UNKNOWN}
WAITS_FOR_MORE_THAN_A_SLOT = WAITING - {State.QUEUED}


class Request(Struct, frozen=True, kw_only=True):
    """What a person asked for a job: `what` names the method; a submit and an edit have a spec."""

    job_id: JobId
    what: str
    spec: JobSpec | None = None
    changed: frozenset[str] = frozenset()


class EffectChecker:
    """Knows every job there ever was, from effects alone, and compares the Scheduler's memory with that."""

    def __init__(self, slots: int, rules: Mapping[str, QueueRule], resources: Resources = NO_TOKENS) -> None:
        self.slots = SlotModel(slots, rules, resources)
        self.pauses: set[Cause] = set()
        self.settled: Now | None = None  # the last instant at which everything due was dealt with
        self.jobs: dict[JobId, Job] = {}
        self.specs: dict[JobId, JobSpec] = {}
        self.dependencies = DependencyModel()
        # since the job was submitted or revived
        self.ends: defaultdict[JobId, tuple[End, ...]] = defaultdict(tuple)

    def copy(self) -> EffectChecker:
        """Return another checker that knows the same; later facts do not change it."""
        twin = copy.copy(self)
        for name, value in vars(self).items():
            setattr(twin, name, copy.copy(value))
        return twin

    def unfinished(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.state not in FINAL]

    # --- what happens -------------------------------------------------------------------------------------

    def saw_end(self, job_id: JobId, end: End) -> None:
        self.ends[job_id] += (end,)

    def follow(self, effects: Iterable[Effect], now: Now, asked: Request | None = None) -> None:
        """Take the effects of one fact; `asked`: the request, if the fact was one."""
        wanted: Counter[tuple[JobId, type[Effect]]] = Counter()
        ordered: Counter[tuple[JobId, type[Effect]]] = Counter()
        for effect in effects:
            if isinstance(effect, SaveJob):
                is_asked = asked is not None and asked.job_id == effect.job.id
                wanted.update(self._saw_save(effect, now, asked if is_asked else None))
                asked = None if is_asked else asked  # what follows was not asked for
                continue
            assert effect.job == self.jobs[effect.job.id]
            ordered[effect.job.id, type(effect)] += 1
            if isinstance(effect, StartAttempt):
                self._saw_start(effect, now)
        assert ordered == wanted, "one effect for each move that needs one"

    def _saw_save(
        self, save: SaveJob, now: Now, asked: Request | None
    ) -> Iterable[tuple[JobId, type[Effect]]]:
        """Return the effects that have to come with it."""
        old, new = self.jobs.get(save.job.id), save.job
        self._check_step(save, old, asked)
        if asked is not None and asked.spec is not None:
            self.specs[new.id] = asked.spec
        self._check_time(old, new, now, asked)
        self._check_what_it_asks(old, new, asked)
        self._check_who_may(save, old, now, asked)
        if new.state not in ACTIVE:
            self.slots.leave(new.id)
        if old is not None and old.state in FINAL:
            self.ends[new.id] = ()
        self.jobs[new.id] = new
        self._follow_dependencies(old, new, asked)
        return _orders(old, new)

    def _check_step(self, save: SaveJob, old: Job | None, asked: Request | None) -> None:
        new = save.job
        assert (save.what == SUBMIT) is (old is None)
        if old is None:
            assert new.id > max(self.jobs, default=0), "ids grow"
            assert (new.state in WAITING, new.attempt) == (True, 0)
            return
        if save.what == NOTE:
            assert new.state is old.state
        else:
            assert MOVES[old.state][Move(save.what)] is new.state
        assert new.attempt == old.attempt + (save.what == Move.START), "attempts are counted one by one"
        if asked is None or asked.what != "edit":
            makes_way = save.what == Move.RETRY and old.conditions.target is not None
            priority = AFTER_NEW if makes_way else old.priority
            assert (new.queue, new.priority, new.policy) == (old.queue, priority, old.policy)
        assert new.state is State.STOPPING or not new.making_way
        assert new.state in MAY_BE_SUSPENDED or not new.suspended

    def _check_time(self, old: Job | None, new: Job, now: Now, asked: Request | None) -> None:
        """Compare the times of a job with its spec, or with those it had before."""
        spec, changed = self.specs[new.id], frozenset[str]() if asked is None else asked.changed
        is_revived = old is not None and old.state in FINAL
        if is_revived:
            due, date = None, spec.at
        elif old is None or changed & {"delay", "at"}:
            due, date = (now.elapsed + spec.delay if spec.delay else None), spec.at
        elif old.state in ACTIVE and new.state is State.SCHEDULED:
            due, date = self._time_after_end(new, now)
        else:
            due, date = old.due, old.conditions.at
        has_come = (due is None or due <= now.elapsed) and (date is None or date <= now.wall)
        assert has_come or new.state is not State.QUEUED, "queued before its time"
        is_kept = new.state in WAITS_FOR_MORE_THAN_A_SLOT
        assert (new.due, new.conditions.at) == ((due, date) if is_kept else (None, None))

        expires = None if old is None else old.conditions.expires
        if old is None or (("expires" in changed or is_revived) and new.attempt == 0):
            expires = None if spec.expires is None else now.elapsed + spec.expires
        assert new.conditions.expires == (expires if new.state in WAITING else None)

    def _check_what_it_asks(self, old: Job | None, new: Job, asked: Request | None) -> None:
        spec = self.specs[new.id]
        assert new.queue == spec.queue
        if old is None or (asked is not None and asked.spec is not None):
            assert new.priority == spec.priority
        is_free = spec.key_until is KeyUntil.START and new.attempt > 0
        assert (new.conditions.key, new.conditions.slots) == (None if is_free else spec.key, spec.slots)
        assert dict(new.conditions.resources) == (spec.resources or {})
        limit = new.conditions.limit
        assert (limit and (limit.key, limit.places)) == spec.limit
        if old is not None and old.state in ACTIVE and new.state not in ACTIVE:
            (last, _, _) = self.ends[new.id][-1]
            was_killed_unasked = old.state is State.RUNNING and last is Outcome.CANCELLED
            if new.state is State.FAILED:
                assert was_killed_unasked or self._is_spent(old), "given up too early"
            elif new.state in WAITING:
                assert not was_killed_unasked
                assert not self._is_spent(old), "not given up in time"
        assert asked is None or asked.what != "edit" or new.state in WAITING

    def _check_who_may(self, save: SaveJob, old: Job | None, now: Now, asked: Request | None) -> None:
        """Refuse what only a person may do, and what neither time nor other jobs may do."""
        new, what = save.job, None if asked is None else asked.what
        if old is None or old.state is new.state:
            return
        if old.state in FINAL:
            assert what == "revive"
        elif new.state is State.HELD:
            assert what == "hold" or (save.reason == SUSPENDED_AT_END and new.suspended)
        elif new.state is State.CANCELLED and old.state in WAITING:
            has_expired = old.conditions.expires is not None and old.conditions.expires <= now.elapsed
            assert (save.reason == EXPIRED) <= has_expired
            is_skipped = str(save.reason).startswith(SKIPPED)
            if is_skipped:
                self._check_turn(old, now)
                assert skips(old)
                assert self.slots.is_full(old)
            assert what == "cancel" or has_expired or is_skipped or new.id in self.dependencies.doomed
        elif old.state is State.HELD:
            assert what == "release"
        elif new.state is State.STOPPING:
            assert what in {"cancel", "requeue"}
        elif new.state is State.RUNNING:
            assert old.conditions.expires is None or old.conditions.expires > now.elapsed, "started too late"

    def _follow_dependencies(self, old: Job | None, new: Job, asked: Request | None) -> None:
        is_new = old is None or old.state in FINAL
        changed = {"after", "after_any"} if is_new else set() if asked is None else asked.changed
        self.dependencies.ask(new.id, self.specs[new.id], changed, self.jobs)
        if new.state in FINAL:
            self.dependencies.saw_finish(new.id, new.state)

    def _saw_start(self, start: StartAttempt, now: Now) -> None:
        job = start.job
        assert job.state is State.RUNNING
        assert self.pauses <= {Cause.PAUSE, Cause.LOAD}
        assert not self.dependencies.of(job.id), "started before the jobs it waits for"
        self._check_turn(job, now)
        self.slots.take(job, start.slot, start.tokens, now.elapsed)

    def _check_turn(self, job: Job, now: Now) -> None:
        queued = [other for other in self.jobs.values() if other.state is State.QUEUED]
        before = self.slots.next_up([job, *queued], now.elapsed, is_paused=bool(self.pauses))
        assert before == job, f"it was not the turn of job {job.id}, but of {before}"

    # --- what always holds --------------------------------------------------------------------------------

    def check(self, scheduler: Scheduler) -> None:
        """Compare the Scheduler's memory with what its effects said."""
        unfinished = {job.id: job for job in self.unfinished()}
        assert {job_id: scheduler.get(job_id) for job_id in unfinished} == unfinished
        assert len(scheduler) == len(unfinished), "nothing finished is kept in memory"
        others = ({*job.conditions.after, *job.conditions.after_any} for job in unfinished.values())
        assert scheduler.waits == sum(map(len, others)), (
            "a finished job is still waited for, or a wait is lost"
        )

        active = {job_id for job_id, job in unfinished.items() if job.state in ACTIVE}
        assert {job.id for job in scheduler.active_jobs()} == set(self.slots.taken) == active
        assert (scheduler.running, scheduler.taken) == (len(active), self.slots.taken_slots)

        holders = {
            job.conditions.key: job.id for job in unfinished.values() if job.conditions.key is not None
        }
        keys = {spec.key for spec in self.specs.values() if spec.key is not None}
        assert {key: scheduler.holder_of(key, AFTER_ALL) for key in keys} == {
            key: holders.get(key) for key in keys
        }

        self._check_waiting(scheduler)
        queued = [job for job in unfinished.values() if job.state is State.QUEUED]
        if self.pauses <= {Cause.PAUSE, Cause.LOAD} and self.settled is not None:
            next_up = self.slots.next_up(queued, self.settled.elapsed, is_paused=bool(self.pauses))
            assert next_up is None, "a job waits although its slots are free"

    def resources(self) -> dict[str, list[int]]:
        """Return of each resource how many tokens there are and are held, and how many queued jobs ask."""
        there = self.slots.resources
        held = [
            name for seat in self.slots.taken.values() for name, each in seat.tokens.items() for _ in each
        ]
        wanting = [
            name
            for job in self.jobs.values()
            if job.state is State.QUEUED
            for name, _ in job.conditions.resources
        ]
        return {
            name: [len(there.get(name, ())), held.count(name), wanting.count(name)]
            for name in {*there, *held}
        }

    def _check_waiting(self, scheduler: Scheduler) -> None:
        waiting = [job for job in self.jobs.values() if job.state in WAITING]
        scheduled = [job for job in waiting if job.state is State.SCHEDULED]
        times = [job.due for job in scheduled if job.due is not None]
        times += [job.conditions.expires for job in waiting if job.conditions.expires is not None]
        dates = [job.conditions.at for job in scheduled if job.conditions.at is not None]
        openings = list(self._openings())
        assert scheduler.next_timer_at() == min([*times, *openings], default=None)
        assert scheduler.table.waiting.next_wall_at() == min(dates, default=None)
        if self.settled is not None:
            assert all(time > self.settled.elapsed for time in times), "a time has come and was not noticed"
            assert all(date > self.settled.wall for date in dates), "a date has come and was not noticed"
        for job in waiting:
            assert job.id not in self.dependencies.doomed, "it waits for something that cannot happen"
            assert {*job.conditions.after, *job.conditions.after_any} == self.dependencies.of(job.id)
            assert not self.dependencies.of(job.id) or job.state in {State.HELD, State.BLOCKED}
            assert self.dependencies.of(job.id) or job.state is not State.BLOCKED

    def _openings(self) -> Iterator[float]:
        """Yield when the rates of queues let jobs start that wait for that."""
        waiting = {job.queue for job in self.jobs.values() if job.state is State.QUEUED}
        if self.settled is None:
            return
        for queue in waiting:
            at = self.slots.opens_at(queue, self.settled.elapsed)
            if at is not None and not self.slots.rules[queue].paused:
                yield at

    def _time_after_end(self, job: Job, now: Now) -> tuple[float | None, float | None]:
        """Return when a job that has just run is due, on either clock, and check how that was chosen."""
        last, _, decision = self.ends[job.id][-1]
        after = None if decision is None else decision.after
        if last is not Outcome.SNOOZED and after is not None:
            return now.elapsed + after, None
        if last is not Outcome.SNOOZED:
            assert job.due is not None
            assert now.elapsed <= job.due <= now.elapsed + job.policy.max_delay
            return job.due, None
        if decision is not None and decision.until is not None:
            return None, max(decision.until, now.wall + SHORTEST_SNOOZE)
        return now.elapsed + max(after or 0.0, SHORTEST_SNOOZE), None

    def _is_spent(self, job: Job) -> bool:
        """Tell whether the policy allows no attempt after the latest end."""
        ends = [outcome for outcome, _, _ in self.ends[job.id]]
        last, code, decision = self.ends[job.id][-1]
        has_used_up = sum(outcome in USES_UP_A_RETRY for outcome in ends) > job.policy.retries
        if last is Outcome.SNOOZED:
            return False
        if last in FAILURES and decision is not None:
            return has_used_up or decision.step is NextStep.FAIL
        if last not in UNSEEN:
            is_not_worth_it = (job.policy.retry_on is not None and code not in job.policy.retry_on) or (
                job.policy.no_retry_on is not None and code in job.policy.no_retry_on
            )
            return (last in FAILURES and (has_used_up or is_not_worth_it)) or last is Outcome.REFUSED
        if len(ends) >= MOST_UNSEEN and UNSEEN.issuperset(ends[-MOST_UNSEEN:]):
            return True
        if job.policy.rerun is None:
            return job.policy.retries == 0 or (last is Outcome.UNKNOWN and has_used_up)
        return not job.policy.rerun


def _orders(old: Job | None, new: Job) -> list[tuple[JobId, type[Effect]]]:
    if old is None:
        return []
    if new.state in ACTIVE and new.state is not old.state:
        return [(new.id, StartAttempt if new.state is State.RUNNING else CommandAttempt)]
    if new.state is old.state is not State.HELD and new.suspended is not old.suspended:
        return [(new.id, CommandAttempt)]
    return []
