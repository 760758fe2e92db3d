"""Job actions: submit, hold, edit, cancel, retry, remove; each is checked before the Supervisor decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from copy import copy
from functools import lru_cache, partial
from inspect import iscoroutinefunction
from operator import attrgetter
from signal import SIGCONT
from time import monotonic
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from bgd.core import conditions
from bgd.core import spec as limits
from bgd.core.filters import Filter
from bgd.core.job import FINAL, VERBS, WAITING, Job, JobId, Now, RetryPolicy, State
from bgd.core.retry import policy_of
from bgd.core.spec import NOTIFICATION_QUEUE, JobSpec, problem_with, problem_with_argv
from bgd.core.target import NOTHING_SAID, ClassPolicy, class_policy, parse_target, under_policy, with_key
from bgd.daemon.access import (
    check_dependencies,
    check_expiry,
    check_keys,
    check_may_run,
    check_resources,
    check_target,
    check_variables,
)
from bgd.daemon.batches import BatchActions
from bgd.daemon.followups import check_follow_ups, follow
from bgd.daemon.idempotency import Idempotency
from bgd.daemon.launches import check_executor
from bgd.daemon.queue_controls import check_queue_name
from bgd.daemon.retries import Retries, refusal, refused
from bgd.daemon.storage import lists, pruning, read
from bgd.daemon.storage.pruning import PrunableJob
from bgd.daemon.storage.records import StoredSpec, Submission
from bgd.daemon.storage.store import Store
from bgd.daemon.supervisor import Supervisor
from bgd.errors import NoSuchJob, Refused
from bgd.system.clock import now
from bgd.wire.class_jobs import after_previous
from bgd.wire.launching import SignalProcesses
from bgd.wire.replies import ActResult, ErrorCode, error_of
from bgd.wire.requests import ROUND, Changes

MAX_POLICIES = 1000  # of targets that are kept
MAX_DEBOUNCED = 10_000  # jobs after which those that have ended are forgotten
FIRST_ACTS = 100  # jobs in the first transaction of an action on all that match, and in the smallest
MAX_ACTS = 500
ACT_SECONDS = 0.01  # after a longer transaction the next is smaller
SLICE = 5_000  # jobs that are looked up at a time

Later = Callable[[], Awaitable[State]]
"""What to await, once the other jobs are decided."""


_on_nodes = attrgetter(*limits.ON_NODES)
_NOTHING = _on_nodes(JobSpec())


class JobActions:
    """Carries out requests about jobs; `Supervisor.saved` returns when they are on disk.

    `act`, `do` and `act_on_all` carry out the verbs of `bgd.core.job.VERBS`. The methods for single verbs get
    a job in a state that fits and return its new one. They raise Refused if the configuration forbids it.
    """

    def __init__(self, supervisor: Supervisor, store: Store) -> None:
        self._supervisor = supervisor
        self._store = store
        self.idempotency = Idempotency(supervisor, store)
        self._lock = asyncio.Lock()  # held from reading the store until acting on what was read
        self._by: str | None = None
        self._class_policy = lru_cache(MAX_POLICIES)(partial(_class_policy, supervisor))  # of a target
        supervisor.on_configured.append(self._class_policy.cache_clear)
        self._debounced: dict[JobId, float] = {}  # when jobs were first put off, on the elapsed clock
        supervisor.follow = partial(follow, supervisor, store, self.submit)
        self.batches = BatchActions(supervisor, store, self.check, self.submit)
        self.retries = Retries(supervisor, store, self.batches, self._finished)

    def asked_by(self, who: str) -> JobActions:
        """Return the same actions, with events that name the user."""
        actions = copy(self)
        actions._by = who  # noqa: SLF001 - of the same class
        return actions

    # --- new jobs -------------------------------------------------------------------------------------

    def check(self, specs: Sequence[JobSpec], lines: Sequence[int] = (), what: str = "batch") -> None:
        """Check the specs of new jobs. If there are several, the message names the invalid one.

        `check_dependencies` checks the jobs that they wait for. `lines`: their numbers in a batch, for the
        message. `what`: what the message calls them all.

        Raises:
            Refused: a spec is not valid, or the configuration does not allow it.
            Full: the disk or a limit is.
        """
        self._supervisor.space.check(specs)
        usual: JobSpec | None = None  # a checked command without its words: most lines differ in those
        for index, spec in enumerate(specs):
            try:
                options = replace(spec, argv=None)
                if options == usual:
                    self._check_words(spec)
                else:
                    self._check_spec(spec)
                    usual = None if spec.argv is None else options
                if spec.expires is not None or spec.cause is not None:
                    _check_new(spec, now())
                if spec.debounce is not None:  # it may edit a job
                    self._supervisor.check_certain()
            except Refused as error:
                if len(specs) == 1 and not lines:
                    raise
                where = f"line {lines[index] % ROUND}" if lines else f"job {index} of the {what}"
                raise type(error)(f"{where}: {error}") from error

    def _check_words(self, spec: JobSpec) -> None:
        """Check a spec that differs from one which was just checked at most in the words of its command."""
        if (problem := problem_with_argv(spec.argv or ())) is not None:
            raise Refused(problem)
        check_may_run(spec, self._supervisor.config)

    def _check_spec(self, spec: JobSpec, *, has_key: bool = False) -> None:
        """Check a spec. `has_key`: the key of its limit already has the arguments in it."""
        if (problem := problem_with(spec)) is not None:
            raise Refused(problem)
        if self._supervisor.is_draining:
            raise Refused("the daemon is shutting down and takes no jobs")
        config = self._supervisor.config
        check_may_run(spec, config)
        check_variables(spec, config)
        if spec.on_failure or spec.on_success:
            check_follow_ups(spec, config)
        if spec.target is not None:
            spec = under_policy(spec, self._class_policy(spec.target))
        if spec.limit is not None or spec.key_for is not None:
            checked = replace(spec, limit=None) if has_key else spec
            check_keys(checked, self._supervisor.scheduler.kept_keys)
        # most daemons have no executors, and submits are frequent: skip the check
        if config.executors or spec.executor or _on_nodes(spec) != _NOTHING:
            check_executor(spec, spec.queue, config)
        if spec.notify is not None:
            check_target(spec.notify, config)
        if spec.queue == NOTIFICATION_QUEUE:
            check_queue_name(spec.queue)
        if spec.resources:
            check_resources(spec, config)
        self._supervisor.dispatcher.check_limits(spec)

    def check_chain(self, specs: Sequence[JobSpec]) -> None:
        """Check the specs of a chain, in which each job waits for the previous one.

        Raises:
            Refused, Full: as `check` and `check_dependencies`.
        """
        chained = list(specs[:1])
        for index, spec in enumerate(specs[1:], start=1):
            try:
                chained.append(after_previous(spec, 1))
            except ValueError as error:
                raise Refused(f"job {index} of the chain: {error}") from error
            if len(chained[-1].after) > limits.MAX_WAITS:
                raise Refused(f"job {index} of the chain waits for more than {limits.MAX_WAITS} jobs")
        self.check(chained, what="chain")
        check_dependencies(chained, self._supervisor.scheduler.waits)

    def submit(
        self,
        specs: Iterable[JobSpec],
        uid: int,
        env: dict[str, str] | None = None,
        finished: Mapping[JobId, State] | None = None,
        at: Now | None = None,
        into: Submission | None = None,
        *,
        chain: bool = False,
    ) -> Submission:
        """Make jobs of checked specs, except where an unfinished job has the key; start what can.

        * `env`: the environment of those commands that have none of their own.
        * `finished`, `at`: what `finished_dependencies` returned for the jobs that they wait for.
        * `into`: the answer to which these jobs are added; the caller starts what can. None: a new one.
        * `chain`: each job, and the first one after those of `into`, waits for the one before.
        """
        at = at or now()
        submitted = Submission() if into is None else into
        for spec in specs:
            if chain and submitted.jobs:
                spec = after_previous(spec, submitted.jobs[-1])  # noqa: PLW2901 - with what the request says
            job_id = None if spec.key is None else self._supervisor.scheduler.holder_of(spec.key, at)
            if job_id is not None:
                self._debounce(job_id, spec, at)
                submitted.found.append(job_id)
            else:
                job_id = self._submit(spec, at, _of(spec, finished) if finished else None, uid, env)
                submitted.first = submitted.first or job_id
            submitted.jobs.append(job_id)
        if into is None:
            self._supervisor.advance(at)
        return submitted

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
            lambda scheduler, then: scheduler.submit(spec, policy, then, finished), at, self._by
        )
        self._supervisor.transaction.specs[job_id] = StoredSpec.of(spec, uid, at.wall, env)
        if spec.debounce is not None:
            self._debounced[job_id] = at.elapsed
        return job_id

    def _with_policies(self, spec: JobSpec) -> tuple[JobSpec, RetryPolicy]:
        """Return a spec with what the configuration sets for its class, and its retry policy."""
        config = self._supervisor.config
        if spec.target is None:
            return spec, policy_of(spec, config.retry_commands)
        of_class = self._class_policy(spec.target)
        spec = with_key(under_policy(spec, of_class))
        return spec, policy_of(spec, config.retry, of_class.on_exceptions or (), of_class.breaker)

    def _debounce(self, job_id: JobId, spec: JobSpec, at: Now) -> None:
        """Give a job that has never run the spec of another submit, and postpone it, but not forever.

        The limit counts from its submit, or from the start of bgd.
        """
        job = self._supervisor.get(job_id)
        if job is None or job.state not in WAITING or job.attempt > 0 or spec.debounce is None:
            return
        since = self._debounced.setdefault(job_id, at.elapsed)
        left = max(since + limits.MAX_DEBOUNCES * spec.debounce - at.elapsed, 0.0)
        batch = self._supervisor.batches.of_job(job_id)
        spec = replace(spec, batch=None if batch is None else batch.id)
        self.respecify(job_id, spec, conditions.START_OPTIONS, at, min(spec.debounce or 0.0, left))
        if len(self._debounced) > MAX_DEBOUNCED:
            is_unfinished = self._supervisor.is_unfinished
            self._debounced = {each: at for each, at in self._debounced.items() if is_unfinished(each)}

    def respecify(
        self,
        job_id: JobId,
        spec: JobSpec,
        changed: Collection[str],
        at: Now,
        debounce: float | None = None,
    ) -> None:
        """Give a waiting job that has never run another checked spec, in its place in the queue.

        `changed`: what differs of the options that say what it waits for. `debounce`: how long it waits now.
        """
        spec, policy = self._with_policies(spec)
        self._supervisor.transaction.edited[job_id] = spec
        spec = replace(spec, debounce=debounce)
        self._supervisor.decide(
            lambda scheduler, then: scheduler.edit(job_id, spec, policy, changed, then), at, self._by
        )

    def keeping_jobs(
        self, specs: Iterable[JobSpec], *, always: bool = False
    ) -> AbstractAsyncContextManager[None]:
        """Let no job be removed or retried while jobs of a batch, or that wait for others, are made."""
        return self._lock if always or any(spec.after or spec.after_any for spec in specs) else nullcontext()

    def has_kept_key(self, specs: Iterable[JobSpec]) -> bool:
        """Return whether a finished job has the key of one of these specs."""
        is_unfinished = self._supervisor.is_unfinished
        return any(not is_unfinished(each) for each in self.key_holders(specs))

    def key_holders(self, specs: Iterable[JobSpec]) -> set[JobId]:
        """Return the jobs that have keys of these specs, and stand for their jobs."""
        holder_of, at = self._supervisor.scheduler.holder_of, now()
        return {each for spec in specs if spec.key and (each := holder_of(spec.key, at)) is not None}

    async def finished_dependencies(self, job_ids: Iterable[int]) -> tuple[dict[JobId, State], Now]:
        """Return what `finished_among` returns, and an instant at which all due expiries have happened.

        Many jobs can be submitted at that instant: the first does not make a job expire that the next one
        depends on.
        """
        others = list(map(JobId, dict.fromkeys(job_ids)))
        while True:
            finished = await self.finished_among(others)
            at = now()
            self._supervisor.advance(at)
            if all(each in finished or self._supervisor.is_unfinished(each) for each in others):
                return finished, at

    async def finished_among(self, job_ids: Iterable[int]) -> dict[JobId, State]:
        """Return the final states of those jobs that have finished; the others were unfinished on return.

        Raises:
            NoSuchJob: one of the jobs does not exist.
        """
        others = set(map(JobId, job_ids))
        finished = await self._finished(others)
        if gone := [each for each in others - finished.keys() if not self._supervisor.is_unfinished(each)]:
            raise NoSuchJob(f"no job {min(gone)}")
        return {job_id: job.state for job_id, job in finished.items()}

    # --- verbs --------------------------------------------------------------------------------------------

    async def act_on_all(
        self, verb: str, wanted: Filter, after: int = 0, ids: list[JobId] | None = None, **given: Any
    ) -> AsyncGenerator[list[ActResult], None]:
        """Act on all jobs that match now, lowest ids first; yield the results once they are on disk.

        Others wait for a transaction, so it has only as many jobs as take ACT_SECONDS. While it is written,
        the next jobs are decided about. Jobs that no longer match at their turn are skipped.
        `after`: only higher ids. `ids`: only those of them that are in the wanted states.
        """
        size, earlier, results = FIRST_ACTS, None, list[ActResult]()
        async with aclosing(self._matching(wanted, after, ids)) as found:
            async for job_ids in found:
                while job_ids:
                    began, saved = monotonic(), asyncio.Event()
                    decided = await self.act(verb, job_ids[:size], among=wanted, **given)
                    del job_ids[:size]
                    if not decided:
                        continue
                    self._supervisor.when_saved(saved.set)
                    if earlier is not None:
                        await earlier.wait()
                        yield results
                        await asyncio.sleep(0)  # so that these are written while the next are decided about
                        is_long = monotonic() - began > ACT_SECONDS
                        size = max(size // 2, FIRST_ACTS) if is_long else min(2 * size, MAX_ACTS)
                    earlier, results = saved, decided
        if earlier is not None:
            await earlier.wait()
            yield results

    async def states_of_all(
        self, wanted: Filter, after: int = 0, ids: list[JobId] | None = None
    ) -> AsyncGenerator[dict[JobId, State], None]:
        """Yield the states of all jobs that `act_on_all` would act on."""
        async with aclosing(self._matching(wanted, after, ids)) as found:
            async for job_ids in found:
                states = await self._store.search(read.states, job_ids)
                yield {each: state for each, state in states.items() if state in wanted.states}

    async def _matching(
        self, wanted: Filter, after: int, ids: list[JobId] | None
    ) -> AsyncGenerator[list[JobId], None]:
        last = self._supervisor.newest_id
        rest: int | None = after
        await self._supervisor.saved()  # earlier answers to the caller are on disk
        if ids is not None:
            yield ids
            return
        while rest is not None and rest < last:
            part, rest = await self._store.search(
                lists.next_slice, wanted, rest, SLICE, SLICE, ascending=True
            )
            yield [each for each in part if each <= last]

    async def do(self, verb: str, job_id: JobId, **given: Any) -> State:
        """Act on one job; return its new state."""
        return (await self.done(verb, job_id, **given))[0]

    async def done(self, verb: str, job_id: JobId, **given: Any) -> tuple[State, ActResult]:
        """Act on one job; return its new state, and what else the result says."""
        [result] = await self.act(verb, [job_id], **given)
        if result.state is None:
            raise error_of(result.code or ErrorCode.REFUSED, result.message or "")
        return result.state, result

    async def act(
        self,
        verb: str,
        job_ids: Iterable[int],
        *,
        among: Filter | None = None,
        repeated: bool = False,
        **given: Any,
    ) -> list[ActResult]:
        """Act on each of a few jobs; a refusal for one does not affect the others.

        * `among`: skip jobs that it no longer selects.
        * `repeated`: jobs on which it was already done count as done.
        """
        asked, for_final = list(map(JobId, job_ids)), VERBS[verb].states == FINAL
        if self._supervisor.permits.unresolved:
            await self._supervisor.wait_until_certain()
        async with self._lock if for_final else nullcontext():  # from reading until acting
            # a selection of unfinished jobs leaves out those that have finished
            if verb == "retry":
                return await self.retries.retry(asked, among, self._by, **given)
            if verb == "remove":
                await self._supervisor.saved()  # jobs that were just submitted may need results
                given["needed"] = await self._store.read(read.jobs_that_need, asked)
            finished = await self._finished(asked) if among is None or for_final else {}
            done = self._act(verb, asked, finished, among, given, repeated=repeated)
            results = [
                ActResult(job_id, outcome) if isinstance(outcome, State) else await _result(job_id, outcome)
                for job_id, _, outcome in done
            ]
        if verb in {"suspend", "continue"}:
            told = [
                job
                for (_, job, _), each in zip(done, results, strict=True)
                if job and job.state is State.RUNNING and each.state
            ]
            return await self._checked(results, told, settled=verb == "suspend") if told else results
        if verb == "release":  # some may have started
            for index, each in enumerate(results):
                if each.state in WAITING:
                    job = self._supervisor.get(JobId(each.job))
                    results[index] = ActResult(each.job, State.CANCELLED if job is None else job.state)
        return results

    def _act(
        self,
        name: str,
        asked: list[JobId],
        finished: dict[JobId, Job],
        among: Filter | None,
        given: dict[str, Any],
        *,
        repeated: bool,
    ) -> list[tuple[JobId, Job | None, State | Later | Refused]]:
        """Act on jobs as a whole; return each as it was with its new state, or why it is refused."""
        done: list[tuple[JobId, Job | None, State | Later | Refused]] = []
        verb, do, at = VERBS[name], _METHODS.get(name), now()
        accepted, is_later = verb.accepted or verb.states, iscoroutinefunction(do)
        with self._supervisor.deciding(at, self._by) as scheduler:
            decide: Callable[..., Any] = do or getattr(scheduler, name)
            for job_id in asked:
                job = scheduler.get(job_id) or finished.pop(job_id, None)
                if among is not None and (job is None or not among.has(job)):
                    continue
                try:
                    if job is None or job.state not in accepted:
                        if job is None or not (repeated and job.state in verb.done_before):
                            raise refused(verb, job_id, job)
                        outcome: State | Later = job.state
                    elif is_later:
                        outcome = partial(decide, self, job, at, **given)
                    else:
                        outcome = decide(job_id, at) if do is None else decide(self, job, at, **given)
                except Refused as error:
                    done.append((job_id, None, error))
                else:
                    done.append((job_id, job, outcome))
        return done

    async def _checked(self, results: list[ActResult], told: list[Job], *, settled: bool) -> list[ActResult]:
        """Refuse commands about these jobs that the launcher has not carried out.

        `settled`: wait until their processes are stopped. A job whose attempt has ended first is held if it
        would run again. Otherwise they were continued, and some may have ended since.
        """
        await self._supervisor.saved()  # which tells the launcher
        dispatcher = self._supervisor.dispatcher
        answers = {job.id: dispatcher.ask(job, settled=settled) for job in told}
        refusals = await dispatcher.refusals(answers, may_end=not settled)
        other = {int(job_id): refusal(job_id, error) for job_id, error in refusals.items()}
        for job in filter(None, map(self._supervisor.get, refusals)):
            if job.suspended and job.state is State.HELD:
                other[job.id] = ActResult(job.id, job.state)
        return [other.get(result.job, result) for result in results]

    async def _finished(self, job_ids: Iterable[JobId]) -> dict[JobId, Job]:
        """Return those of these jobs that have finished; some may while this reads."""
        finished: dict[JobId, Job] = {}
        rest, is_unfinished = set(job_ids), self._supervisor.is_unfinished
        while others := [each for each in rest if not is_unfinished(each)]:
            await self._supervisor.saved()  # their ends may not be on disk yet
            finished |= await self._store.read(read.finished_jobs, others)
            rest.difference_update(others)
        return finished

    def suspend(self, job: Job, at: Now) -> State:
        """Stop the processes of a running job without ending them."""
        return self._supervisor.decide(lambda it, _: it.set_suspended(job.id, at, suspended=True), at)

    def continue_(self, job: Job, at: Now) -> State | Later:
        """Continue the processes of a suspended job, or release it if it is held since its attempt ended."""
        if job.state is State.HELD and not job.suspended:
            raise Refused(f"job {job.id} is held: {VERBS['continue'].refusal}")
        if job.state is State.HELD:
            return self._supervisor.decide(lambda it, now: it.release(job.id, now), at)
        if job.suspended:
            return self._supervisor.decide(lambda it, _: it.set_suspended(job.id, at, suspended=False), at)
        # bgd did not stop its processes, but another program may have; running ones ignore SIGCONT
        return partial(self.signal, job, at, SIGCONT, whole_tree=True, seen=job)

    async def signal(
        self, job: Job, at: Now, signal: int, *, whole_tree: bool, seen: Job | None = None
    ) -> State:
        """Send a signal to a running job; the launcher has sent it when this returns.

        `seen`: send nothing if anything was decided about the job since it was this one: that is newer, and
        the launcher may not have been told of it yet.
        """
        del at
        await self._supervisor.saved()  # an attempt is launched only after its start is saved
        current = self._still("signal", job.id)
        if seen is None or current is seen:  # each decision replaces it
            dispatcher = self._supervisor.dispatcher
            answer = dispatcher.ask(current)  # before the signal, which may end it
            dispatcher.tell(current, lambda key: SignalProcesses(key, signal, whole_tree))
            for refusal in (await dispatcher.refusals({current.id: answer})).values():
                raise refusal
        return current.state

    def remove(self, job: Job, at: Now, needed: Mapping[JobId, JobId]) -> State:
        """Delete a finished job; return the state it was in. Its logs go once its rows are off the disk."""
        del at
        if job.id in needed:
            raise Refused(f"job {needed[job.id]}, which has not finished, needs the result of job {job.id}")
        self._supervisor.remove(job, self._by)
        return job.state

    async def edit(self, job: Job, at: Now, changes: Changes) -> State:
        """Change a waiting job."""
        job_id = job.id
        async with self._lock:
            await self._supervisor.saved()  # its spec may not be on disk yet
            specs = await self._store.read(read.read_specs, [job_id])
            self._still("edit", job_id)
            given = {name: getattr(changes, name) for name in changes.__struct_fields__}
            given = {name: value for name, value in given.items() if value is not UNSET}
            spec, changed = conditions.edited_spec(specs[job_id].whole(), given), given.keys()
            if spec.target is not None and spec.argv is not None:
                raise Refused("a class job cannot become a command: submit the command as a new job")
            self._check_spec(spec, has_key="limit" not in changed)
            check_dependencies([spec], self._supervisor.scheduler.waits)
            others = {*(changes.after or ()), *(changes.after_any or ())}
            finished = await self.finished_among(others)
            job = self._still("edit", job_id)  # it may have started meanwhile
            if changed & conditions.START_OPTIONS:
                at = now()
                wanted = conditions.edited(job, spec, changed, at)
                check_expiry(wanted.due, wanted.conditions, at)
            circular = conditions.find_cycle(job_id, others, self._supervisor.get)
            if circular is not None:
                raise Refused(f"job {job_id} cannot wait for job {circular}, which waits for it")
            spec = under_policy(spec, self._class_policy(spec.target), among=changed)
            if "limit" in changed:
                spec = with_key(spec)
            config = self._supervisor.config
            default = config.retry if spec.target else config.retry_commands
            # keep the rules it was submitted under
            policy = policy_of(spec, default, job.policy.on_exceptions, job.policy.breaker)
            self._supervisor.transaction.edited[job_id] = spec
            return self._supervisor.decide(
                lambda scheduler, then: scheduler.edit(job_id, spec, policy, changed, then, finished),
                by=self._by,
            )

    def _still(self, verb: str, job_id: JobId) -> Job:
        """Return a job as it is now; refuse it if the verb no longer applies to it."""
        job = self._supervisor.get(job_id)
        if job is None or job.state not in VERBS[verb].states:
            change = "has finished" if job is None else f"is {job.state}"
            raise Refused(f"job {job_id} {change}: {VERBS[verb].refusal}")
        return job

    async def remove_due(self, due: list[PrunableJob]) -> list[JobId]:
        """Delete those of these jobs that were not retried meanwhile; return them once that is on disk."""
        async with self._lock:
            await self._supervisor.saved()  # a job that is retried must be so on disk, too
            gone = await self._store.read(pruning.still_finished, due)
            for job in gone:
                self._supervisor.remove(job)
        await self._supervisor.saved()
        return [job.id for job in gone]


_METHODS: dict[str, Callable[..., State | Later | Awaitable[State]]] = {
    "edit": JobActions.edit,
    "suspend": JobActions.suspend,
    "continue": JobActions.continue_,
    "signal": JobActions.signal,
    "remove": JobActions.remove,
}
"""The action on a job in a suitable state; for other verbs a method of the Scheduler decides."""


def _class_policy(supervisor: Supervisor, target: str | None) -> ClassPolicy:
    """Return what the configuration says about a target; each submit asks twice, and it is kept."""
    policies = supervisor.config.classes
    return class_policy(parse_target(target), policies) if target and policies else NOTHING_SAID


async def _result(job_id: JobId, outcome: Later | Refused) -> ActResult:
    try:
        if isinstance(outcome, Refused):
            raise outcome
        return ActResult(job_id, await outcome())
    except Refused as error:
        return refusal(job_id, error)


def _check_new(spec: JobSpec, at: Now) -> None:
    if spec.cause is not None:
        raise Refused("cause cannot be set: bgd sets it for a job that follows another")
    check_expiry(conditions.due_of(spec, at), conditions.conditions_of(spec, at), at)


def _of(spec: JobSpec, finished: Mapping[JobId, State]) -> dict[JobId, State]:
    """Return those of the finished jobs that this one waits for."""
    others = map(JobId, (*spec.after, *spec.after_any))
    return {other: finished[other] for other in others if other in finished}
