"""What people do to jobs, judged here before the Supervisor decides."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from signal import SIGCONT

from msgspec import UNSET
from msgspec.structs import replace

from bgd.clock import now
from bgd.core import conditions
from bgd.core import spec as limits
from bgd.core.classes import NOTHING_SAID, ClassPolicy, class_policy, under_policy
from bgd.core.decision import Rules
from bgd.core.job import ACTIVE, FINAL, WAITING, Job, JobId, Now, RetryPolicy, State, Terms
from bgd.core.retry import policy_of, with_policy
from bgd.core.spec import JobSpec, problem_with
from bgd.core.target import parse_target
from bgd.daemon.access import check_may_run, check_variables
from bgd.daemon.idempotency import IdempotencyTokens
from bgd.daemon.storage.read import PrunableJob
from bgd.daemon.storage.records import StoredSpec
from bgd.daemon.storage.store import Store
from bgd.daemon.supervisor import Supervisor
from bgd.errors import Full, NoSuchJob, Refused
from bgd.wire.launching import Signal, Suspend
from bgd.wire.requests import Changes

# --- Edits: a spec as it becomes under a person's changes.


# Of two that exclude each other, the one that is asked for puts the other one out of force
_RIVALS: dict[str, tuple[str, object]] = {
    "at": ("delay", 0.0),
    "delay": ("at", None),
    "retry_on": ("no_retry_on", None),
    "no_retry_on": ("retry_on", None),
    "stdin": ("input", None),
}


def changes_in(changes: Changes) -> set[str]:
    """Return the names of what is to become other."""
    return {name for name in changes.__struct_fields__ if getattr(changes, name) is not UNSET}


def edited(spec: JobSpec, changes: Changes) -> JobSpec:
    """Return the spec under changes; `env` adds to the variables there are.

    Raises:
        Refused: a class job was to become a command.
    """
    if spec.target is not None and changes.argv is not UNSET:
        raise Refused("a class job cannot become a command: submit that as a job of its own")
    wanted = {name: getattr(changes, name) for name in changes_in(changes)}
    for name in wanted.keys() & _RIVALS.keys():
        rival, none = _RIVALS[name]
        wanted.setdefault(rival, none)
    if "env" in wanted:
        wanted["env"] = {**(spec.env or {}), **wanted["env"]}
    # only what is added now was chosen now: a variable that the lists allowed earlier blocks no edit
    return replace(spec, **wanted, explicit_env=tuple(changes.env or ()))


# --- JobActions: what people have done to jobs, judged here before the Supervisor decides.


_START = {"delay", "at", "expires"}  # what says when a job may start, and when no more


class JobActions:
    """Everything that may be asked to be done to jobs; each is on disk once `Supervisor.saved` says so."""

    def __init__(self, supervisor: Supervisor, store: Store) -> None:
        self._supervisor = supervisor
        self._store = store
        self.idempotency = IdempotencyTokens(supervisor, store)  # what was asked for before
        self._looking = asyncio.Lock()  # of who looks at the store, and then acts on what it said

    # --- new jobs -------------------------------------------------------------------------------------

    def check(self, spec: JobSpec) -> None:
        """Judge the spec of a new job before anything is done with it.

        Raises:
            Refused: it cannot be a job, or the configuration does not allow it.
        """
        self._supervisor.space.check([spec])
        self._check_spec(spec)
        if spec.expires is not None:
            at = now()
            _check_expiry(conditions.due_of(spec, at), conditions.terms_of(spec, at), at)

    def _check_spec(self, spec: JobSpec) -> None:
        problem = problem_with(spec)
        if problem is not None:
            raise Refused(problem)
        if self._supervisor.is_draining:
            raise Refused("the daemon is shutting down and takes no jobs")
        self.check_dependency_limit([spec])
        check_may_run(spec, self._supervisor.config)
        check_variables(spec, self._supervisor.config)
        self._supervisor.dispatcher.check_limits(under_policy(spec, self._class_policy(spec)))

    def check_dependency_limit(self, specs: Iterable[JobSpec]) -> None:
        """See whether jobs of these specs may wait for others as they want to.

        Raises:
            Full: too many already do.
        """
        wanted = sum(len({*spec.after, *spec.after_any}) for spec in specs)
        if wanted and self._supervisor.waits + wanted > limits.MAX_ALL_WAITS:
            raise Full(
                f"jobs may wait for others {limits.MAX_ALL_WAITS} times in all, and do so "
                f"{self._supervisor.waits} times: try again when some have ended"
            )

    def submit(
        self,
        spec: JobSpec,
        uid: int,
        finished: dict[JobId, State] | None = None,
        at: Now | None = None,
    ) -> tuple[JobId, bool]:
        """Take a checked spec as a new job, unless an unfinished one has its key.

        `finished`, `at`: what `finished_dependencies` says of the jobs it is to wait for. Returns its id, and
        whether the job is new.
        """
        holder = None if spec.key is None else self._supervisor.holder_of(spec.key)
        if holder is not None:
            return holder, False
        said = self._class_policy(spec)
        spec = under_policy(spec, said)
        policy = self._policy_of(spec, said.on_exceptions or ())
        job_id = self._supervisor.decide(
            lambda scheduler, then: scheduler.submit(spec, policy, then, finished), at
        )
        stored = StoredSpec(with_policy(spec, policy), uid, now().wall)
        self._supervisor.pending.specs[job_id] = stored
        return job_id, True

    async def finished_dependencies(self, job_ids: Iterable[int]) -> tuple[dict[JobId, State], Now]:
        """Return what `finished_among` does, and the instant at which it is so: no job expires then any more.

        So the first of many jobs that are submitted at it does not end what the next one would wait for.
        """
        others = _others(job_ids)
        while True:
            finished = await self.finished_among(others)
            at = now()
            self._supervisor.decide(lambda scheduler, then: scheduler.advance(then), at)
            if all(each in finished or self._supervisor.is_unfinished(each) for each in others):
                return finished, at

    async def finished_among(self, job_ids: Iterable[int]) -> dict[JobId, State]:
        """Tell which of these jobs have finished, and how; the others had not when this returned.

        Raises:
            NoSuchJob: one of them does not exist.
        """
        finished: dict[JobId, State] = {}
        while unknown := [each for each in _others(job_ids) if self._is_over(each) and each not in finished]:
            await self._supervisor.saved()  # their ends may still be on their way to the disk
            states = await self._store.states(unknown)
            for job_id in unknown:
                if job_id not in states:
                    raise NoSuchJob(f"no job {job_id}")
            finished |= {job_id: state for job_id, state in states.items() if state in FINAL}
        return finished

    # --- jobs that wait -------------------------------------------------------------------------------

    async def hold(self, job_id: JobId) -> State:
        job = await self._unfinished(job_id)
        if job.state not in WAITING:
            raise Refused(
                f"job {job_id} is {job.state}: only what waits can be held (suspend stops what runs)"
            )
        return self._supervisor.decide(lambda scheduler, at: scheduler.hold(job_id, at))

    async def release(self, job_id: JobId) -> State:
        job = await self._unfinished(job_id)
        if job.state is not State.HELD:
            raise Refused(f"job {job_id} is {job.state}: it is not held")
        return self._supervisor.decide(lambda scheduler, at: scheduler.release(job_id, at))

    async def edit(self, job_id: JobId, changes: Changes) -> State:
        """Change a waiting job.

        Raises:
            Refused: it does not wait, or cannot be as it is wanted; NoSuchJob likewise of one it waits for.
        """
        async with self._looking:
            self._check_waiting(await self._unfinished(job_id))
            await self._supervisor.saved()  # its spec may still be on its way to the disk
            stored = await self._store.spec(job_id)
            if stored is None:
                raise NoSuchJob(f"no job {job_id}")
            spec, changed = edited(stored.spec, changes), changes_in(changes)
            self._check_spec(spec)
            others = {*(changes.after or ()), *(changes.after_any or ())}
            finished = await self.finished_among(others)
            job = await self._unfinished(job_id)
            self._check_waiting(job)  # it may have started meanwhile
            if changed & _START:
                at = now()
                wanted = conditions.edited(job, spec, changed, at)
                _check_expiry(wanted.due, wanted.terms, at)
            circular = self._supervisor.decide(lambda scheduler, _: scheduler.waits_for(job_id, others))
            if circular is not None:
                raise Refused(f"job {job_id} cannot wait for job {circular}, which waits for it")
            return self._edit(job, spec, changed, finished)

    # --- jobs that run --------------------------------------------------------------------------------

    async def suspend(self, job_id: JobId) -> State:
        self._supervisor.dispatcher.check_supported(await self._running(job_id, "suspended"), Suspend)
        self._supervisor.decide(lambda scheduler, at: scheduler.stand_still(job_id, at, suspended=True))
        return State.RUNNING

    async def continue_(self, job_id: JobId) -> State:
        job = await self._running(job_id, "continued")
        if job.suspended:
            self._supervisor.decide(lambda scheduler, at: scheduler.stand_still(job_id, at, suspended=False))
            return State.RUNNING
        # its processes may have stopped without us; to those that run SIGCONT does nothing
        return await self.signal(job_id, SIGCONT, whole_tree=True)

    async def signal(self, job_id: JobId, number: int, *, whole_tree: bool) -> State:
        """Send a signal to what runs; it is on its way when this returns."""
        await self._supervisor.saved()  # the launcher knows no attempt whose start is still being saved
        job = await self._unfinished(job_id)
        if job.state not in ACTIVE:
            raise Refused(f"job {job_id} is {job.state}: only what runs can be sent a signal")
        self._supervisor.dispatcher.tell(job, lambda key: Signal(key, number, whole_tree))
        return job.state

    async def cancel(self, job_id: JobId) -> State:
        """Cancel an unfinished job; return its state, cancelled or stopping."""
        await self._unfinished(job_id)
        return self._supervisor.decide(lambda scheduler, at: scheduler.cancel(job_id, at))

    # --- jobs that have finished ----------------------------------------------------------------------

    async def revive(self, job_id: JobId) -> State:
        """Queue a finished job again.

        Raises:
            Refused: it cannot be, or the configuration allows it no longer; NoSuchJob: there is none.
        """
        async with self._looking:  # or two of them could both find it finished
            job = await self._finished(job_id, "there is nothing to retry")
            stored = await self._store.spec(job_id)
            if stored is None:
                raise NoSuchJob(f"no job {job_id}")
            check_may_run(stored.spec, self._supervisor.config)
            holder = None if job.terms.key is None else self._supervisor.holder_of(job.terms.key)
            if holder is not None:
                raise Refused(f"job {job_id} has the key of job {holder}, which has not finished")
            self._supervisor.decide(lambda scheduler, at: scheduler.revive(job, at))
            return State.QUEUED

    async def remove(self, job_id: JobId) -> State:
        """Delete a finished job; return the state it was in. Its logs go once it is off the disk."""
        async with self._looking:
            job = await self._finished(job_id, "cancel it first")
            self._supervisor.remove(job)
            return job.state

    async def remove_due(self, due: list[PrunableJob]) -> list[JobId]:
        """Delete those of these jobs that have not been run again; return them once they are off the disk."""
        async with self._looking:
            await self._supervisor.saved()  # who was run again is so on the disk, too
            gone = await self._store.still_finished(due)
            for job in gone:
                self._supervisor.remove(job)
        await self._supervisor.saved()
        return [job.id for job in gone]

    # --- finding them ---------------------------------------------------------------------------------

    async def state(self, job_id: JobId) -> State | None:
        """Return the state of a job, None: there is no such job."""
        job = self._supervisor.get(job_id)
        if job is not None:
            return job.state
        await self._supervisor.saved()  # its end may still be on its way to the disk
        return (await self._store.states([job_id])).get(job_id)

    async def _unfinished(self, job_id: JobId) -> Job:
        job = self._supervisor.get(job_id)
        if job is not None:
            return job
        await self._supervisor.saved()
        states = await self._store.states([job_id])
        job = self._supervisor.get(job_id)  # it may have been revived meanwhile
        if job is not None:
            return job
        if job_id not in states:
            raise NoSuchJob(f"no job {job_id}")
        raise Refused(f"job {job_id} has already finished: it is {states[job_id]}")

    async def _running(self, job_id: JobId, wanted: str) -> Job:
        job = await self._unfinished(job_id)
        if job.state is not State.RUNNING:
            raise Refused(f"job {job_id} is {job.state}: only what runs can be {wanted}")
        return job

    async def _finished(self, job_id: JobId, otherwise: str) -> Job:
        if self._supervisor.is_unfinished(job_id):
            raise Refused(f"job {job_id} has not finished: {otherwise}")
        await self._supervisor.saved()  # its end may still be on its way to the disk
        job = await self._store.finished(job_id)
        if job is None:
            raise NoSuchJob(f"no job {job_id}")
        return job

    def _check_waiting(self, job: Job) -> None:
        if job.state not in WAITING:
            raise Refused(f"job {job.id} is {job.state}: only what waits can be edited")

    def _is_over(self, job_id: JobId) -> bool:
        return not self._supervisor.is_unfinished(job_id)

    def _policy_of(self, spec: JobSpec, on_exceptions: Rules) -> RetryPolicy:
        config = self._supervisor.config
        return policy_of(spec, config.retry if spec.target else config.retry_commands, on_exceptions)

    def _class_policy(self, spec: JobSpec) -> ClassPolicy:
        policies = self._supervisor.config.classes
        return class_policy(parse_target(spec.target), policies) if spec.target and policies else NOTHING_SAID

    def _edit(self, job: Job, spec: JobSpec, changed: Collection[str], finished: dict[JobId, State]) -> State:
        spec = under_policy(spec, self._class_policy(spec), among=changed)
        policy = self._policy_of(spec, job.policy.on_exceptions)  # those it was submitted under
        self._supervisor.pending.edited[job.id] = with_policy(spec, policy)
        return self._supervisor.decide(
            lambda scheduler, at: scheduler.edit(job.id, spec, policy, changed, at, finished)
        )


def _check_expiry(due: float | None, wanted: Terms, at: Now) -> None:
    if conditions.expires_first(due, wanted, at):
        raise Refused("it would expire before it may start: expires counts from now, too")


def _others(job_ids: Iterable[int]) -> list[JobId]:
    return list(map(JobId, dict.fromkeys(job_ids)))
