"""Retries that people ask for: which finished jobs are queued again, and what they wait for then.

All jobs of a request are read first, then decided about as a whole: a job that waits for another one of them
waits for its new end, and one that waits for a job that did not succeed is refused. Jobs that were cancelled
because one of these did not succeed come along.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from msgspec import Struct

from bgd.core import conditions
from bgd.core.filters import Filter
from bgd.core.job import FINAL, VERBS, Job, JobId, Now, State, Verb
from bgd.core.spec import JobSpec
from bgd.daemon.access import check_dependencies, check_may_run
from bgd.daemon.batches import BatchActions
from bgd.daemon.storage import read
from bgd.daemon.storage.store import Store
from bgd.daemon.storage.submissions import superseded
from bgd.daemon.supervisor import Supervisor
from bgd.errors import NoSuchJob, Refused
from bgd.system.clock import now
from bgd.wire.replies import ActResult, code_of

MAX_ALONG = 2_000  # jobs that come along with those of one transaction: the others stay cancelled

RETRY = VERBS["retry"]


class Facts(Struct):
    """What a retry has read: the finished jobs, their specs and schedules, and the ends of other jobs.

    `causes`: jobs that come along, each with the one because of which it was cancelled. `held`: those of them
    that were held until then.
    """

    jobs: dict[JobId, Job]
    specs: dict[JobId, JobSpec]
    schedules: dict[JobId, str]
    ends: dict[JobId, State]
    causes: dict[JobId, JobId]
    held: set[JobId]


class Retries:
    """Queues finished jobs again.

    Args:
        finished: returns those of these jobs that have finished.

    Attributes:
        overlap: returns which jobs of its schedule a retried job has to wait for; raises Refused if its
            schedule does not let it run now.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        store: Store,
        batches: BatchActions,
        finished: Callable[[Iterable[JobId]], Awaitable[dict[JobId, Job]]],
    ) -> None:
        self._supervisor = supervisor
        self._store = store
        self._batches = batches
        self._finished = finished
        self.overlap: Callable[[str, JobId], tuple[JobId, ...]] = lambda *_: ()

    async def retry(
        self, asked: list[JobId], among: Filter | None, by: str | None, *, alone: bool = False
    ) -> list[ActResult]:
        """Retry jobs; the caller lets no finished job change meanwhile.

        Raises:
            Full: they wait for too many other jobs.
        """
        jobs = await self._finished(asked)
        results = {  # now: those that have not finished may while the rest is read
            job_id: refusal(job_id, refused(RETRY, job_id, self._supervisor.get(job_id)))
            for job_id in asked
            if job_id not in jobs and among is None
        }
        jobs = {job_id: job for job_id, job in jobs.items() if among is None or among.has(job)}
        facts = await self._read(jobs, alone=alone)
        check_dependencies(facts.specs.values(), self._supervisor.scheduler.waits)
        at = now()
        with self._supervisor.deciding(at, by):
            results |= self._decide(dict(sorted(facts.jobs.items())), facts, at)
        for job_id, cause in facts.causes.items():
            has_come = results[job_id].state is not None
            (results[cause].along if has_come else results[cause].left).append(job_id)
        return [results[job_id] for job_id in asked if job_id in results]

    async def _read(self, jobs: dict[JobId, Job], *, alone: bool) -> Facts:
        """Read what else a retry of these finished jobs needs."""
        failed = [] if alone else [job_id for job_id, job in jobs.items() if job.state is not State.SUCCEEDED]
        causes, held = await self._store.read(read.cancelled_with, failed, MAX_ALONG)
        for job_id in await self._store.read(superseded, list(causes)):  # or its line would run twice
            del causes[job_id]
        jobs |= await self._finished(causes)
        specs = await self._store.read(read.plain_specs, list(jobs))
        schedules = await self._store.read(read.schedules_of, list(jobs))
        others = {JobId(other) for spec in specs.values() for other in (*spec.after, *spec.after_any)}
        is_unfinished = self._supervisor.is_unfinished
        while True:
            ends = {each: job.state for each, job in (await self._finished(others)).items()}
            awaited = {each for each in others if is_unfinished(each)}
            await self._batches.recall(specs)
            if all(map(is_unfinished, awaited)):  # none has ended meanwhile
                return Facts(jobs, specs, schedules, ends, causes, held)

    def _decide(self, rest: dict[JobId, Job], facts: Facts, at: Now) -> dict[JobId, ActResult]:
        """Retry each job after those of `rest` that it waits for."""
        results: dict[JobId, ActResult] = {}
        while rest:
            before = len(rest)
            for job_id, job in list(rest.items()):
                spec = facts.specs[job_id]
                if not any(other in rest for other in (*spec.after, *spec.after_any)):
                    del rest[job_id]
                    try:
                        results[job_id] = ActResult(job_id, self._revive(job, facts, at))
                    except Refused as error:
                        results[job_id] = refusal(job_id, error)
            if len(rest) == before:  # edits can make finished jobs wait for each other
                job_id = next(iter(rest))
                del rest[job_id]
                problem = f"job {job_id} waits for jobs that wait for it: retry them one after the other"
                results[job_id] = refusal(job_id, Refused(problem))
        return results

    def _revive(self, job: Job, facts: Facts, at: Now) -> State:
        spec, scheduler = facts.specs[job.id], self._supervisor.scheduler
        check_may_run(spec, self._supervisor.config)
        holder = None if job.conditions.key is None else scheduler.holder_of(job.conditions.key, at)
        if holder not in {None, job.id}:
            raise Refused(f"job {job.id} has the key of job {holder}, which still has it")
        others = map(JobId, dict.fromkeys((*spec.after, *spec.after_any)))
        awaited = tuple(other for other in others if self._supervisor.is_unfinished(other))
        if (problem := conditions.unmet(job, spec, facts.ends, awaited)) is not None:
            raise Refused(problem)
        if (schedule := facts.schedules.get(job.id)) is not None:
            awaited += self.overlap(schedule, job.id)
        revived = conditions.revived(job, spec, at, awaited)
        state = scheduler.revive(revived, at)
        return scheduler.hold(job.id, at) if job.id in facts.held else state


def refusal(job_id: JobId, error: Refused) -> ActResult:
    """Return the entry of a job for which an action was refused."""
    return ActResult(job_id, code=code_of(error), message=str(error))


def refused(verb: Verb, job_id: JobId, job: Job | None) -> Refused:
    """Return why a verb does not apply to a job; `job` None: it does not exist."""
    if job is None:
        return NoSuchJob(f"no job {job_id}")
    if job.state in FINAL:
        return Refused(f"job {job_id} has already finished ({job.state})")
    is_state = "has not finished" if verb.states == FINAL else f"is {job.state}"
    return Refused(f"job {job_id} {is_state}: {verb.refusal}")
