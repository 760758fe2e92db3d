"""Conditions: what a job waits for besides its turn: a delay, a date, other jobs or a release."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

from msgspec.structs import replace

from bgd.core.explain import MAX_NAMED, Cause, Reason
from bgd.core.heaps import DueHeap
from bgd.core.job import NO_CONDITIONS, WAITING, Conditions, Job, JobId, KeyLimit, Now, State
from bgd.core.spec import DEFAULT_QUEUE, NOTIFICATION_QUEUE, JobSpec, KeyUntil, OnLimit

_MAX_CACHED = 1024  # conditions that jobs share

# --- the conditions of one job ----------------------------------------------------------------------------


def conditions_of(spec: JobSpec, now: Now) -> Conditions:
    """Return the conditions of a new job. All jobs without any share one object."""
    return _shared(
        Conditions(
            at=spec.at,
            expires=None if spec.expires is None else now.elapsed + spec.expires,
            after=_unique(spec.after) if spec.after else (),
            after_any=_unique(spec.after_any) if spec.after_any else (),
            key=spec.key,
            slots=spec.slots,
            resources=tuple(sorted(spec.resources.items())) if spec.resources else (),
            target=spec.name if spec.queue == NOTIFICATION_QUEUE else None,
            limit=None if spec.limit is None else KeyLimit(*spec.limit, spec.on_limit is OnLimit.SKIP),
            frees_key_at_start=spec.key is not None and spec.key_until is KeyUntil.START,
            key_for=None if spec.key is None else spec.key_for,
        )
    )


def due_of(spec: JobSpec, now: Now) -> float | None:
    """Return when the delay or debounce of a new job ends, on the elapsed clock; None: it has none."""
    delay = spec.delay if spec.debounce is None else spec.debounce
    return now.elapsed + delay if delay > 0 else None


def edited(job: Job, spec: JobSpec, changed: Collection[str], now: Now) -> Job:
    """Return a waiting job with an edited spec, in its old state; `changed`: the changed fields.

    A changed delay or expiry counts from now. A job that has run cannot expire.
    """
    fresh, due = conditions_of(spec, now), job.due
    kept = {"at", "expires", "after", "after_any"}.difference(changed)
    if "delay" in changed or "at" in changed:  # each replaces the other
        due = due_of(spec, now)
        kept.discard("at")
    if job.attempt > 0:
        kept.add("expires")
    old = {name: getattr(job.conditions, name) for name in kept}
    conditions = _shared(replace(fresh, key=job.conditions.key, **old))
    queue, priority = spec.queue or DEFAULT_QUEUE, spec.priority or 0
    return replace(job, queue=queue, priority=priority, due=due, conditions=conditions)


def revived(job: Job, spec: JobSpec, now: Now, awaited: Collection[JobId]) -> Job:
    """Return a finished job with everything that its spec says it waits for, except its delay and a hold.

    Of other jobs it waits for `awaited`, the unfinished ones; the caller has checked the ends of the rest. An
    expiry counts from now. A job that has run cannot expire.
    """
    fresh = conditions_of(spec, now)
    conditions = replace(
        job.conditions,
        at=spec.at,
        expires=None if job.attempt else fresh.expires,
        after=tuple(other for other in fresh.after if other in awaited),
        after_any=tuple(other for other in awaited if other not in fresh.after),
    )
    return replace(job, due=None, conditions=_shared(conditions))


def unmet(job: Job, spec: JobSpec, finished: Mapping[JobId, State], awaited: Collection[JobId]) -> str | None:
    """Return why a finished job cannot wait for the jobs of its spec again; None: it can.

    `finished`: the final states of other jobs; `awaited`: the unfinished ones. Those in neither were removed:
    a job that has run waited for them then.
    """
    needed = {each.job for each in spec.references}
    for other in map(JobId, spec.after):
        if other in awaited or finished.get(other) is State.SUCCEEDED:
            continue
        if other in finished:
            return f"job {job.id} waits for job {other}, which {ENDS[finished[other]]}: retry it, too"
        if job.attempt == 0 or other in needed:
            return f"job {job.id} waits for job {other}, which was removed: submit it again"
    return None


ENDS = {State.SUCCEEDED: "succeeded", State.FAILED: "failed", State.CANCELLED: "was cancelled"}
BECAUSE_OF = "job {}, which had to succeed first, {}"
"""The reason of a job that is cancelled because another one did not succeed, and how that one ended."""
WHILE_HELD = " while this one was held"
"""The end of such a reason if a person held the job: it is held again if it comes along with a retry."""


START_OPTIONS = {"delay", "at", "expires"}  # options that say when a job may start


def edited_spec(spec: JobSpec, changes: Mapping[str, Any]) -> JobSpec:
    """Return the spec with other values of options; variables in `env` are added to those of the spec."""
    wanted = dict(changes)
    for name in wanted.keys() & _EXCLUDED_BY.keys():
        other, unset = _EXCLUDED_BY[name]
        wanted.setdefault(other, unset)
    own = wanted.get("env", {})
    if "env" in wanted:
        wanted["env"] = {**(spec.env or {}), **own}
    # check only variables that are added now: one that the lists allowed earlier must not block an edit
    return replace(spec, **wanted, explicit_env=tuple(own))


# Of two options that cannot be combined, setting one unsets the other: its name and its unset value
_EXCLUDED_BY: dict[str, tuple[str, object]] = {
    "at": ("delay", 0.0),
    "delay": ("at", None),
    "retry_on": ("no_retry_on", None),
    "no_retry_on": ("retry_on", None),
    "stdin": ("input", None),
}


def with_last_retry(job: Job, now: Now) -> Job:
    """Return a job that has run, whose next attempt must start while its policy lets it retry."""
    ends_at = job.policy.ends_at
    expires = None if ends_at is None else now.elapsed + ends_at - now.wall
    return replace(job, conditions=_shared(replace(job.conditions, expires=expires)))


def waiting_state(due: float | None, conditions: Conditions, now: Now) -> State:
    """Return the state in which a job waits unless it is held; `due` as in Job."""
    if conditions.after or conditions.after_any:
        return State.BLOCKED
    if due is not None and due > now.elapsed:
        return State.SCHEDULED
    if conditions.at is not None and conditions.at > now.wall:
        return State.SCHEDULED
    return State.QUEUED


def expires_first(due: float | None, conditions: Conditions, now: Now) -> bool:
    """Return whether a job expires before it may start; `due` as in Job."""
    if conditions.expires is None:
        return False
    until_due = 0.0 if due is None else due - now.elapsed
    until_date = 0.0 if conditions.at is None else conditions.at - now.wall
    return max(until_due, until_date) >= conditions.expires - now.elapsed


def without_met_conditions(job: Job) -> Job:
    """Return a job without the conditions that, by its state, are met."""
    if (job.conditions is NO_CONDITIONS and job.due is None) or job.state in _HAS_CONDITIONS:
        return job
    expires = job.conditions.expires if job.state is State.QUEUED else None
    key = None if job.conditions.frees_key_at_start and job.attempt else job.conditions.key
    kept = replace(job.conditions, at=None, expires=expires, after=(), after_any=(), key=key)
    return replace(job, due=None, conditions=_shared(kept))


_HAS_CONDITIONS = frozenset({State.HELD, State.BLOCKED, State.SCHEDULED})


def key_kept_until(job: Job, now: Now) -> float | None:
    """Return until when a job that just finished keeps its key, on the elapsed clock; None: not at all."""
    seconds = job.conditions.key_for
    return None if seconds is None or job.state is State.CANCELLED else now.elapsed + seconds


def without_dependency(job: Job, other: JobId) -> Job:
    """Return a job that no longer waits for another one."""
    conditions = replace(
        job.conditions,
        after=tuple(each for each in job.conditions.after if each != other),
        after_any=tuple(each for each in job.conditions.after_any if each != other),
    )
    return replace(job, conditions=_shared(conditions))


def find_cycle(job_id: JobId, others: Iterable[int], job_of: Callable[[JobId], Job | None]) -> JobId | None:
    """Return one of `others` that itself waits for the job, directly or not; None if none does.

    Visits each job that they wait for once.
    """
    seen: set[JobId] = set()
    for other in map(JobId, others):
        ahead = [other]
        while ahead:
            current = ahead.pop()
            if current == job_id:
                return other
            job = job_of(current)
            if job is not None and current not in seen:
                seen.add(current)
                ahead += (*job.conditions.after, *job.conditions.after_any)
    return None


def reasons_before_queued(job: Job, now: Now) -> Iterator[Reason]:
    """Yield what a waiting job waits for before it is queued."""
    if job.state is State.HELD:
        yield Reason(cause=Cause.HOLD, subject=str(job.id))
    is_early = job.due is not None and job.due > now.elapsed
    if is_early or (job.conditions.at is not None and job.conditions.at > now.wall):
        yield Reason(cause=Cause.TIME)
    others = tuple(dict.fromkeys((*job.conditions.after, *job.conditions.after_any)))
    if others:
        yield Reason(cause=Cause.JOBS, jobs=others[:MAX_NAMED], more=len(others[MAX_NAMED:]))


def _unique(numbers: Collection[int]) -> tuple[JobId, ...]:
    return tuple(map(JobId, dict.fromkeys(numbers))) if numbers else ()


def _shared(conditions: Conditions) -> Conditions:
    """Return a shared object for jobs without conditions, and mostly for those with equal ones."""
    if conditions == NO_CONDITIONS:
        return NO_CONDITIONS
    is_common = conditions.expires is None and bool(
        conditions.resources or conditions.target or conditions.limit
    )
    return _same(conditions) if is_common else conditions


@lru_cache(_MAX_CACHED)
def _same(conditions: Conditions) -> Conditions:
    return conditions


# --- the conditions of all jobs ---------------------------------------------------------------------------


class WaitingJobs:
    """Finds jobs that are due, that have expired, or that waited for a job that has ended.

    Args:
        job_of: returns the unfinished job with an id, None if there is none.

    Attributes:
        waits: number of dependencies of all jobs.
    """

    def __init__(self, job_of: Callable[[JobId], Job | None]) -> None:
        self._job_of = job_of
        self._delayed = DueHeap(self._is_delayed_until)  # on the elapsed clock
        self._dated = DueHeap(self._is_dated)  # on the wall clock
        self._expiring = DueHeap(self._is_expiring)  # on the elapsed clock
        self._dependents: dict[JobId, set[JobId]] = {}
        self.waits = 0

    def begin(self, job: Job) -> None:
        """Add a new or edited waiting job, with everything that it waits for."""
        if job.conditions.expires is not None:
            self._expiring.push(job.id, job.conditions.expires)
        for other in {*job.conditions.after, *job.conditions.after_any}:
            self._dependents.setdefault(other, set()).add(job.id)
            self.waits += 1

    def end(self, job: Job) -> None:
        """Forget a job that starts, is cancelled or is about to be edited."""
        if job.conditions.expires is not None:
            self._expiring.forget()
        for other in {*job.conditions.after, *job.conditions.after_any}:
            self.end_wait(job.id, other)

    def schedule(self, job: Job) -> None:
        """Add a job that is scheduled from now on.

        Raises:
            ValueError: it has neither a delay nor a date.
        """
        if job.due is not None:
            self._delayed.push(job.id, job.due)
        elif job.conditions.at is not None:
            self._dated.push(job.id, job.conditions.at)
        else:
            raise ValueError(f"job {job.id} is scheduled for no time")

    def unschedule(self, job: Job) -> None:
        """Note that a scheduled job no longer waits for its time."""
        (self._dated if job.due is None else self._delayed).forget()

    def take_due(self, now: Now) -> JobId | None:
        """Remove and return a scheduled job that is due; None if there is none."""
        job_id = self._delayed.pop_due(now.elapsed)
        return self._dated.pop_due(now.wall) if job_id is None else job_id

    def take_expired(self, now: Now) -> JobId | None:
        """Remove and return a waiting job that has expired; None if there is none."""
        return self._expiring.pop_due(now.elapsed)

    def dependents_of(self, job_id: JobId) -> list[JobId]:
        """Return the jobs that wait for this one, in the order of their ids."""
        dependents = self._dependents.get(job_id)
        return [] if dependents is None else sorted(dependents)

    def some_dependents_of(self, job_id: JobId, limit: int) -> tuple[int, list[JobId]]:
        """Return how many jobs wait for this one, and up to `limit` of them, in the order of their ids."""
        dependents = self._dependents.get(job_id, ())
        return len(dependents), sorted(islice(dependents, limit))

    def end_wait(self, job_id: JobId, other: JobId) -> None:
        """Forget that a job waits for another one."""
        dependents = self._dependents.get(other)
        if dependents is None or job_id not in dependents:
            return
        dependents.discard(job_id)
        self.waits -= 1
        if not dependents:
            del self._dependents[other]

    def next_at(self) -> float | None:
        """Return when the next job is due or expires, on the elapsed clock; None: none does."""
        due, expires = self._delayed.next_at(), self._expiring.next_at()
        if due is None or expires is None:
            return expires if due is None else due
        return min(due, expires)

    def next_wall_at(self) -> float | None:
        """Return when the next job is due on the wall clock; None: none is."""
        return self._dated.next_at()

    def __len__(self) -> int:
        """Return how many entries there are, including dead ones that are not swept yet."""
        entries = len(self._delayed) + len(self._dated) + len(self._expiring)
        return entries + self.waits

    def _is_delayed_until(self, job_id: JobId, due: float) -> bool:
        job = self._job_of(job_id)
        return job is not None and job.state is State.SCHEDULED and job.due == due

    def _is_dated(self, job_id: JobId, at: float) -> bool:
        job = self._job_of(job_id)
        if job is None or job.state is not State.SCHEDULED:
            return False
        return job.due is None and job.conditions.at == at

    def _is_expiring(self, job_id: JobId, expires: float) -> bool:
        job = self._job_of(job_id)
        return job is not None and job.state in WAITING and job.conditions.expires == expires
