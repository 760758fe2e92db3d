"""Terms: what a job waits for besides its turn, and where that puts it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from msgspec.structs import replace

from bgd.core.job import USUAL_TERMS, Job, JobId, Move, Now, State, Terms
from bgd.core.spec import DEFAULT_QUEUE, JobSpec

_MAY_STILL_WAIT = frozenset({State.HELD, State.BLOCKED, State.SCHEDULED})
_TO_THE_QUEUE = {State.HELD: Move.RELEASE, State.BLOCKED: Move.UNBLOCK, State.SCHEDULED: Move.COME_DUE}


def terms_of(spec: JobSpec, now: Now) -> Terms:
    """Return the terms of a new job; all jobs that ask for nothing share one object."""
    return _shared(
        Terms(
            at=spec.at,
            expires=None if spec.expires is None else now.elapsed + spec.expires,
            after=_unique(spec.after),
            after_any=_unique(spec.after_any),
            key=spec.key,
            slots=spec.slots,
        )
    )


def due_of(spec: JobSpec, now: Now) -> float | None:
    """Return when the delay of a new job is over, on the elapsed clock; None: it has none."""
    return now.elapsed + spec.delay if spec.delay > 0 else None


def edited(job: Job, spec: JobSpec, changed: Collection[str], now: Now) -> Job:
    """Return a waiting job as an edited spec has it, in its old state; `changed`: names of its new fields.

    A delay and an expiry count from now, if they are among them. A job that has run cannot expire.
    """
    fresh, due = terms_of(spec, now), job.due
    kept = {"at", "expires", "after", "after_any"}.difference(changed)
    if "delay" in changed or "at" in changed:  # one takes the other's place
        due = due_of(spec, now)
        kept.discard("at")
    if job.attempt > 0:
        kept.add("expires")
    terms = _shared(replace(fresh, key=job.terms.key, **{name: getattr(job.terms, name) for name in kept}))
    queue, priority = spec.queue or DEFAULT_QUEUE, spec.priority or 0
    return replace(job, queue=queue, priority=priority, due=due, terms=terms)


def place_of(due: float | None, terms: Terms, now: Now) -> State:
    """Return the state in which a job waits that nobody holds back; `due` as of Job."""
    if terms.after or terms.after_any:
        return State.BLOCKED
    if due is not None and due > now.elapsed:
        return State.SCHEDULED
    if terms.at is not None and terms.at > now.wall:
        return State.SCHEDULED
    return State.QUEUED


def expires_first(due: float | None, terms: Terms, now: Now) -> bool:
    """Tell whether a job will have expired when it may start; `due` as of Job."""
    if terms.expires is None:
        return False
    until_due = 0.0 if due is None else due - now.elapsed
    until_date = 0.0 if terms.at is None else terms.at - now.wall
    return max(until_due, until_date) >= terms.expires - now.elapsed


def move_to(place: State, job: Job) -> Move:
    """Return the move that brings a waiting job to another place, as `place_of` gave it."""
    match place:
        case State.BLOCKED:
            return Move.BLOCK
        case State.SCHEDULED:
            return Move.DEFER
        case _:
            return _TO_THE_QUEUE[job.state]


def without(job: Job, other: JobId) -> Job:
    """Return a job that no longer waits for another one."""
    terms = replace(
        job.terms,
        after=tuple(each for each in job.terms.after if each != other),
        after_any=tuple(each for each in job.terms.after_any if each != other),
    )
    return replace(job, terms=_shared(terms))


def settled(job: Job) -> Job:
    """Return a job without those of its terms that its state has made good."""
    if (job.terms is USUAL_TERMS and job.due is None) or job.state in _MAY_STILL_WAIT:
        return job
    expires = job.terms.expires if job.state is State.QUEUED else None
    terms = Terms(expires=expires, key=job.terms.key, slots=job.terms.slots)
    return replace(job, due=None, terms=_shared(terms))


def waits_for(job_id: JobId, others: Iterable[int], job_of: Callable[[JobId], Job | None]) -> JobId | None:
    """Return one of the others that itself waits for the job, directly or not; None if none does.

    Looks once at each job that they wait for, so it takes as long as there are such.
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
                ahead += (*job.terms.after, *job.terms.after_any)
    return None


def _unique(numbers: Collection[int]) -> tuple[JobId, ...]:
    return tuple(map(JobId, dict.fromkeys(numbers))) if numbers else ()


def _shared(terms: Terms) -> Terms:
    """Return the one object for all jobs that ask for nothing."""
    return USUAL_TERMS if terms == USUAL_TERMS else terms
