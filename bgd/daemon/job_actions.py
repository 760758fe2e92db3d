"""Job actions: submit, hold, edit, cancel, retry, remove; each is checked before the Supervisor decides."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from signal import SIGCONT

from msgspec import UNSET
from msgspec.structs import replace

from bgd.clock import now
from bgd.core import conditions
from bgd.core import spec as limits
from bgd.core.job import (
    ACTIVE,
    FINAL,
    WAITING,
    Conditions,
    ExceptionRules,
    Job,
    JobId,
    Now,
    RetryPolicy,
    State,
)
from bgd.core.retry import policy_of
from bgd.core.spec import NOTIFICATION_QUEUE, JobSpec, problem_with
from bgd.core.target import NOTHING_SAID, ClassPolicy, class_policy, parse_target, under_policy
from bgd.daemon.access import check_may_run, check_resources, check_target, check_variables
from bgd.daemon.idempotency import IdempotencyTokens, OpenBatches, SubmittedJobs
from bgd.daemon.launches import check_executor
from bgd.daemon.queue_controls import check_queue_name
from bgd.daemon.storage import pruning, read, write
from bgd.daemon.storage.pruning import PrunableJob
from bgd.daemon.storage.records import StoredSpec
from bgd.daemon.storage.store import Store
from bgd.daemon.supervisor import Supervisor
from bgd.errors import Full, NoSuchJob, Refused
from bgd.wire.launching import SignalProcesses, SuspendProcesses
from bgd.wire.requests import ROUND, Changes

MAX_DEBOUNCED = 10_000  # jobs after which those that have ended are forgotten


class JobActions:
    """Does to jobs what people ask for; `Supervisor.saved` tells when it is on disk.

    Actions that return a State return the job's new one. They raise NoSuchJob for a job that does not exist,
    and Refused if the job's state or the configuration does not allow the action.
    """

    def __init__(self, supervisor: Supervisor, store: Store) -> None:
        self._supervisor = supervisor
        self._store = store
        self.idempotency = IdempotencyTokens(supervisor, store)
        self.batches = OpenBatches(supervisor, store)
        self._lock = asyncio.Lock()  # held from reading the store until acting on what was read
        self._by: str | None = None
        self._debounced: dict[JobId, float] = {}  # when jobs were first put off, on the elapsed clock

    def asked_by(self, who: str) -> JobActions:
        """Return the same actions, whose events say who asked for them."""
        actions = copy(self)
        actions._by = who  # noqa: SLF001 - of the same class
        return actions

    # --- new jobs -------------------------------------------------------------------------------------

    def check(self, specs: Sequence[JobSpec], lines: Sequence[int] = ()) -> None:
        """Check the specs of new jobs; of several, the message says which one cannot be a job.

        If they wait for others, `check_dependency_limit` is for that. `lines`: their numbers in a batch, for
        the message.

        Raises:
            Refused: a spec is not valid, or the configuration does not allow it.
            Full: the disk or a limit is.
        """
        self._supervisor.space.check(specs)
        for index, spec in enumerate(specs):
            try:
                self._check_spec(spec)
                if spec.expires is not None:
                    at = now()
                    _check_expiry(conditions.due_of(spec, at), conditions.conditions_of(spec, at), at)
            except Refused as error:
                if lines:
                    raise type(error)(f"line {lines[index] % ROUND}: {error}") from error
                if len(specs) == 1:
                    raise
                raise type(error)(f"job {index} of the batch: {error}") from error

    def _check_spec(self, spec: JobSpec) -> None:
        problem = problem_with(spec)
        if problem is not None:
            raise Refused(problem)
        if self._supervisor.is_draining:
            raise Refused("the daemon is shutting down and takes no jobs")
        check_may_run(spec, self._supervisor.config)
        check_variables(spec, self._supervisor.config)
        if spec.target is not None:
            spec = under_policy(spec, self._class_policy(spec))
        config = self._supervisor.config
        # most daemons know no executor, and a submit is too frequent to ask in vain
        if config.executors or spec.executor or spec.cpus or spec.memory or spec.nodes or spec.gpus:
            check_executor(spec, spec.queue, config)
        if spec.notify is not None:
            check_target(spec.notify, self._supervisor.config)
        if spec.queue == NOTIFICATION_QUEUE:
            check_queue_name(spec.queue)
        if spec.resources:
            check_resources(spec, self._supervisor.config)
        self._supervisor.dispatcher.check_limits(spec)

    def check_dependency_limit(self, specs: Iterable[JobSpec]) -> None:
        """Check that there is room for the dependencies of these specs.

        Raises:
            Full: all jobs together would have too many.
        """
        wanted = sum(len({*spec.after, *spec.after_any}) for spec in specs if spec.after or spec.after_any)
        if wanted and self._supervisor.waits + wanted > limits.MAX_ALL_WAITS:
            raise Full(
                f"all jobs together may have {limits.MAX_ALL_WAITS} dependencies, and have "
                f"{self._supervisor.waits}: try again when some jobs have ended"
            )

    def submit(
        self,
        specs: Iterable[JobSpec],
        uid: int,
        env: dict[str, str] | None = None,
        finished: Mapping[JobId, State] | None = None,
        at: Now | None = None,
    ) -> SubmittedJobs:
        """Make jobs of checked specs, except where an unfinished job has the key; then start what can.

        * `env`: the environment of those commands that have none of their own.
        * `finished`, `at`: what `finished_dependencies` returned for the jobs that they wait for.
        """
        at = at or now()
        jobs: list[int] = []
        found: list[int] = []
        first: JobId | None = None
        for spec in specs:
            job_id = None if spec.key is None else self._supervisor.holder_of(spec.key)
            if job_id is not None:
                self._debounce(job_id, spec, at)
                found.append(job_id)
            else:
                job_id = self._submit(spec, at, _of(spec, finished) if finished else None, uid, env)
                first = first or job_id
            jobs.append(job_id)
        self._supervisor.decide(lambda scheduler, then: scheduler.advance(then), at)
        return SubmittedJobs(jobs, found, first)

    def _submit(
        self,
        spec: JobSpec,
        at: Now,
        finished: Mapping[JobId, State] | None,
        uid: int,
        env: dict[str, str] | None,
    ) -> JobId:
        spec, policy = self._with_policies(spec)
        job_id = self._supervisor.decide(
            lambda scheduler, then: scheduler.submit(spec, policy, then, finished), at
        )
        self._supervisor.transaction.specs[job_id] = StoredSpec.of(spec, uid, at.wall, env)
        if spec.debounce is not None:
            self._debounced[job_id] = at.elapsed
        return job_id

    def _with_policies(self, spec: JobSpec) -> tuple[JobSpec, RetryPolicy]:
        """Return a spec with what the configuration sets for its class, and its retry policy."""
        if spec.target is None:
            return spec, self._policy_of(spec, ())
        of_class = self._class_policy(spec)
        spec = under_policy(spec, of_class)
        return spec, self._policy_of(spec, of_class.on_exceptions or ())

    def _debounce(self, job_id: JobId, spec: JobSpec, at: Now) -> None:
        """Give a job that has never run the spec of another submit, and put it off, but not for ever.

        For how long it was put off is known since it was submitted, or since bgd was started.
        """
        job = self._supervisor.get(job_id)
        if job is None or job.state not in WAITING or job.attempt > 0 or spec.debounce is None:
            return
        since = self._debounced.setdefault(job_id, at.elapsed)
        left = since + limits.MAX_DEBOUNCES * spec.debounce - at.elapsed
        spec, policy = self._with_policies(spec)
        self._supervisor.transaction.edited[job_id] = spec
        put_off = replace(spec, debounce=max(min(spec.debounce or 0.0, left), 0.0))
        self._supervisor.decide(
            lambda scheduler, then: scheduler.edit(job_id, put_off, policy, _START_OPTIONS, then), at
        )
        if len(self._debounced) > MAX_DEBOUNCED:
            is_unfinished = self._supervisor.is_unfinished
            self._debounced = {each: at for each, at in self._debounced.items() if is_unfinished(each)}

    async def finished_dependencies(self, job_ids: Iterable[int]) -> tuple[dict[JobId, State], Now]:
        """Return what `finished_among` returns, and an instant at which all due expiries have happened.

        Many jobs can be submitted at that instant: the first does not make a job expire that the next one
        depends on.
        """
        others = _unique(job_ids)
        while True:
            finished = await self.finished_among(others)
            at = now()
            self._supervisor.decide(lambda scheduler, then: scheduler.advance(then), at)
            if all(each in finished or self._supervisor.is_unfinished(each) for each in others):
                return finished, at

    async def finished_among(self, job_ids: Iterable[int]) -> dict[JobId, State]:
        """Return the final states of those jobs that have finished; the others were unfinished on return.

        Raises:
            NoSuchJob: one of the jobs does not exist.
        """
        finished: dict[JobId, State] = {}
        others = _unique(job_ids)
        is_unfinished = self._supervisor.is_unfinished
        while unknown := [each for each in others if each not in finished and not is_unfinished(each)]:
            await self._supervisor.saved()  # their ends may not be on disk yet
            states = await self._store.read(read.states, unknown)
            for job_id in unknown:
                if job_id not in states:
                    raise NoSuchJob(f"no job {job_id}")
            finished |= {job_id: state for job_id, state in states.items() if state in FINAL}
        return finished

    # --- jobs that wait -------------------------------------------------------------------------------

    async def hold(self, job_id: JobId) -> State:
        """Keep a waiting job from starting until it is released."""
        job = await self._unfinished(job_id)
        if job.state not in WAITING:
            raise Refused(
                f"job {job_id} is {job.state}: only a waiting job can be held (suspend stops a running one)"
            )
        return self._supervisor.decide(lambda scheduler, at: scheduler.hold(job_id, at), by=self._by)

    async def release(self, job_id: JobId) -> State:
        """Let a held job start when it is its turn."""
        job = await self._unfinished(job_id)
        if job.state is not State.HELD:
            raise Refused(f"job {job_id} is {job.state}: it is not held")
        return self._supervisor.decide(lambda scheduler, at: scheduler.release(job_id, at), by=self._by)

    async def edit(self, job_id: JobId, changes: Changes) -> State:
        """Change a waiting job.

        Raises:
            Refused: it does not wait, or the changed spec is not valid.
            NoSuchJob: the job, or one it is to wait for, does not exist.
        """
        async with self._lock:
            self._check_waiting(await self._unfinished(job_id))
            await self._supervisor.saved()  # its spec may not be on disk yet
            stored = await self._store.read(write.read_spec, job_id)
            if stored is None:
                raise NoSuchJob(f"no job {job_id}")
            spec, changed = edited(stored.whole(), changes), changes_in(changes)
            self._check_spec(spec)
            self.check_dependency_limit([spec])
            others = {*(changes.after or ()), *(changes.after_any or ())}
            finished = await self.finished_among(others)
            job = await self._unfinished(job_id)
            self._check_waiting(job)  # it may have started meanwhile
            if changed & _START_OPTIONS:
                at = now()
                wanted = conditions.edited(job, spec, changed, at)
                _check_expiry(wanted.due, wanted.conditions, at)
            circular = self._supervisor.decide(lambda scheduler, _: scheduler.find_cycle(job_id, others))
            if circular is not None:
                raise Refused(f"job {job_id} cannot wait for job {circular}, which waits for it")
            return self._edit(job, spec, changed, finished)

    # --- jobs that run --------------------------------------------------------------------------------

    async def suspend(self, job_id: JobId) -> State:
        """Stop the processes of a running job without ending them."""
        self._supervisor.dispatcher.check_supported(
            await self._running(job_id, "suspended"), SuspendProcesses
        )
        self._supervisor.decide(
            lambda scheduler, at: scheduler.set_suspended(job_id, at, suspended=True), by=self._by
        )
        return State.RUNNING

    async def continue_(self, job_id: JobId) -> State:
        """Let the processes of a suspended job run again."""
        job = await self._running(job_id, "continued")
        if job.suspended:
            self._supervisor.decide(
                lambda scheduler, at: scheduler.set_suspended(job_id, at, suspended=False), by=self._by
            )
            return State.RUNNING
        # bgd did not stop its processes, but somebody else may have; running ones ignore SIGCONT
        return await self.signal(job_id, SIGCONT, whole_tree=True, seen=job)

    async def signal(self, job_id: JobId, number: int, *, whole_tree: bool, seen: Job | None = None) -> State:
        """Send a signal to a running job; the launcher has been told when this returns.

        `seen`: send nothing if anything was decided about the job since it was this one: that is newer, and
        the launcher may not have been told of it yet.
        """
        await self._supervisor.saved()  # an attempt is launched only after its start is saved
        job = await self._unfinished(job_id)
        if job.state not in ACTIVE:
            raise Refused(f"job {job_id} is {job.state}: only a running job can be sent a signal")
        if seen is None or job is seen:  # each decision replaces it
            self._supervisor.dispatcher.tell(job, lambda key: SignalProcesses(key, number, whole_tree))
        return job.state

    async def cancel(self, job_id: JobId) -> State:
        """Cancel an unfinished job; it is then cancelled or, if it runs, stopping."""
        await self._unfinished(job_id)
        return self._supervisor.decide(lambda scheduler, at: scheduler.cancel(job_id, at), by=self._by)

    # --- jobs that have finished ----------------------------------------------------------------------

    async def revive(self, job_id: JobId) -> State:
        """Queue a finished job again."""
        async with self._lock:  # or two requests could both find it finished
            job = await self._finished(job_id, "there is nothing to retry")
            stored = await self._store.read(write.read_spec, job_id)
            if stored is None:
                raise NoSuchJob(f"no job {job_id}")
            check_may_run(stored.whole(), self._supervisor.config)
            holder = None if job.conditions.key is None else self._supervisor.holder_of(job.conditions.key)
            if holder is not None:
                raise Refused(f"job {job_id} has the key of job {holder}, which has not finished")
            self._supervisor.decide(lambda scheduler, at: scheduler.revive(job, at), by=self._by)
            return State.QUEUED

    async def remove(self, job_id: JobId) -> State:
        """Delete a finished job; return the state it was in. Its logs go once its rows are off the disk."""
        async with self._lock:
            job = await self._finished(job_id, "cancel it first")
            self._supervisor.remove(job, self._by)
            return job.state

    async def remove_due(self, due: list[PrunableJob]) -> list[JobId]:
        """Delete those of these jobs that were not retried meanwhile; return them once that is on disk."""
        async with self._lock:
            await self._supervisor.saved()  # a job that is retried must be so on disk, too
            gone = await self._store.read(pruning.still_finished, due)
            for job in gone:
                self._supervisor.remove(job)
        await self._supervisor.saved()
        return [job.id for job in gone]

    # --- finding them ---------------------------------------------------------------------------------

    async def state(self, job_id: JobId) -> State | None:
        """Return the state of a job, or None if it does not exist."""
        job = self._supervisor.get(job_id)
        if job is not None:
            return job.state
        await self._supervisor.saved()  # its end may not be on disk yet
        return (await self._store.read(read.states, [job_id])).get(job_id)

    async def _unfinished(self, job_id: JobId) -> Job:
        job = self._supervisor.get(job_id)
        if job is not None:
            return job
        await self._supervisor.saved()
        states = await self._store.read(read.states, [job_id])
        job = self._supervisor.get(job_id)  # it may have been retried meanwhile
        if job is not None:
            return job
        if job_id not in states:
            raise NoSuchJob(f"no job {job_id}")
        raise Refused(f"job {job_id} has already finished ({states[job_id]})")

    async def _running(self, job_id: JobId, wanted: str) -> Job:
        job = await self._unfinished(job_id)
        if job.state is not State.RUNNING:
            raise Refused(f"job {job_id} is {job.state}: only a running job can be {wanted}")
        return job

    async def _finished(self, job_id: JobId, remedy: str) -> Job:
        if self._supervisor.is_unfinished(job_id):
            raise Refused(f"job {job_id} has not finished: {remedy}")
        await self._supervisor.saved()  # its end may not be on disk yet
        job = await self._store.read(read.finished_job, job_id)
        if job is None:
            raise NoSuchJob(f"no job {job_id}")
        return job

    def _check_waiting(self, job: Job) -> None:
        if job.state not in WAITING:
            raise Refused(f"job {job.id} is {job.state}: only a waiting job can be edited")

    def _policy_of(self, spec: JobSpec, on_exceptions: ExceptionRules) -> RetryPolicy:
        config = self._supervisor.config
        return policy_of(spec, config.retry if spec.target else config.retry_commands, on_exceptions)

    def _class_policy(self, spec: JobSpec) -> ClassPolicy:
        policies = self._supervisor.config.classes
        return class_policy(parse_target(spec.target), policies) if spec.target and policies else NOTHING_SAID

    def _edit(self, job: Job, spec: JobSpec, changed: Collection[str], finished: dict[JobId, State]) -> State:
        spec = under_policy(spec, self._class_policy(spec), among=changed)
        policy = self._policy_of(spec, job.policy.on_exceptions)  # keep the rules it was submitted under
        self._supervisor.transaction.edited[job.id] = spec
        return self._supervisor.decide(
            lambda scheduler, at: scheduler.edit(job.id, spec, policy, changed, at, finished), by=self._by
        )


def _check_expiry(due: float | None, wanted: Conditions, at: Now) -> None:
    if conditions.expires_first(due, wanted, at):
        raise Refused("it would expire before it may start: expires counts from now, too")


def _of(spec: JobSpec, finished: Mapping[JobId, State]) -> dict[JobId, State]:
    """Return those of the finished jobs that this one waits for."""
    others = map(JobId, (*spec.after, *spec.after_any))
    return {other: finished[other] for other in others if other in finished}


def _unique(job_ids: Iterable[int]) -> list[JobId]:
    return list(map(JobId, dict.fromkeys(job_ids)))


# --- Edits: apply changes to a spec.


def changes_in(changes: Changes) -> set[str]:
    """Return the names of the options to change."""
    return {name for name in changes.__struct_fields__ if getattr(changes, name) is not UNSET}


def edited(spec: JobSpec, changes: Changes) -> JobSpec:
    """Return the spec with the changes applied; variables in `env` are added to those of the spec.

    Raises:
        Refused: a class job would become a command.
    """
    if spec.target is not None and changes.argv is not UNSET:
        raise Refused("a class job cannot become a command: submit the command as a new job")
    wanted = {name: getattr(changes, name) for name in changes_in(changes)}
    for name in wanted.keys() & _EXCLUDED_BY.keys():
        other, unset = _EXCLUDED_BY[name]
        wanted.setdefault(other, unset)
    if "env" in wanted:
        wanted["env"] = {**(spec.env or {}), **wanted["env"]}
    # check only variables that are added now: one that the lists allowed earlier must not block an edit
    return replace(spec, **wanted, explicit_env=tuple(changes.env or ()))


# Of two options that exclude each other, setting one unsets the other: its name and its unset value
_EXCLUDED_BY: dict[str, tuple[str, object]] = {
    "at": ("delay", 0.0),
    "delay": ("at", None),
    "retry_on": ("no_retry_on", None),
    "no_retry_on": ("retry_on", None),
    "stdin": ("input", None),
}

_START_OPTIONS = {"delay", "at", "expires"}  # options that say when a job may start
