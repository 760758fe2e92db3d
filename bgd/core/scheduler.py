"""The scheduler decides about every unfinished job: facts go in, effects come out. It has no side effects."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from math import ceil

from msgspec import Struct
from msgspec.structs import replace

from bgd.core import conditions
from bgd.core.batches import Batches, BatchId
from bgd.core.explain import MAX_HOLDERS, OF_MACHINE, Cause, Reason, holders_in_words, jobs_in_deadlock
from bgd.core.job import (
    ACTIVE,
    CANCELLED_BEFORE_START,
    EXPIRED,
    FINAL,
    MAY_BE_SUSPENDED,
    MOVES,
    UNSEEN,
    WAITING,
    Conditions,
    Decision,
    Job,
    JobId,
    Move,
    Now,
    Outcome,
    RetryPolicy,
    State,
)
from bgd.core.job_table import JobTable
from bgd.core.limits import NO_TOKENS, QueueRule, Resources, Tokens
from bgd.core.retry import TOO_LATE, move_after_end, wait_after, with_end
from bgd.core.spec import DEFAULT_QUEUE, JobSpec

SUBMIT = "submit"
NOTE = "note"
AFTER_NEW = -1  # priority of a retried notification: new ones for its target come first

CANCELLED_BEFORE_NEXT_ATTEMPT = "cancelled before it ran again"
SUSPENDED_AT_END = "it was suspended when its attempt ended"
SKIPPED = "skipped: "
REASONS_OF_CANCEL = frozenset({None, CANCELLED_BEFORE_START, CANCELLED_BEFORE_NEXT_ATTEMPT})  # of `cancel`

# --- effects: what the daemon does next -------------------------------------------------------------------


class SaveJob(Struct, frozen=True, gc=False):
    """Save the job. `at` is epoch time; `reason` says why, if the outcome does not.

    `what` happened: SUBMIT, a Move, or NOTE if the state did not change. `before`: its state until now.
    """

    job: Job
    at: float
    what: str
    before: State
    reason: str | None = None

    @property
    def is_failure(self) -> bool:
        """Whether the job has failed, or was cancelled: not by a person, and not because it skips."""
        if self.job.state is State.CANCELLED:
            return self.reason not in REASONS_OF_CANCEL and not str(self.reason).startswith(SKIPPED)
        return self.job.state is State.FAILED


class StartAttempt(Struct, frozen=True, gc=False):
    """Launch attempt number `job.attempt` of the job in this slot, with these tokens of resources.

    `expires`: when it must have begun, on the elapsed clock.
    """

    job: Job
    slot: int
    tokens: Tokens = NO_TOKENS
    expires: float | None = None


class CommandAttempt(Struct, frozen=True):
    """Do to the job's running attempt what the job now says: end it, suspend it, or let it continue."""

    job: Job


Effect = SaveJob | StartAttempt | CommandAttempt  # each of one job

_MOST_IN_DEADLOCK = 1000  # jobs that are looked at; the others are taken to go on
_SOME_START = {Cause.PAUSE, *OF_MACHINE}  # these do not stop notifications


class Scheduler:
    """Decides which job runs at what time.

    Args:
        slots: how many slots active jobs may take together.
        rules: of each queue that has one.
        last_id: the highest job id ever assigned.
        roll: returns a random number in [0, 1).
        resources: all tokens of each resource.

    Attributes:
        get: returns the unfinished job with an id, None if there is none.
        table: all unfinished jobs; the Supervisor restores in it what a restart must not lose.
        starts: the starts among the effects that nothing was done about yet.
        causes: the ends of jobs that may have follow-ups.
        breakers: the breakers of classes.
        batches: the batches that have not ended, with counts of their jobs.
        is_frozen: nothing happens by itself, because attempts of queued jobs may have begun.
    """

    def __init__(
        self,
        slots: int,
        rules: Mapping[str, QueueRule],
        last_id: int,
        roll: Callable[[], float],
        resources: Resources = NO_TOKENS,
    ) -> None:
        self.table = JobTable(slots, rules, resources)
        self.get = self.table.jobs.get
        self.last_id = last_id
        self._roll = roll
        self.batches = Batches()
        self.breakers = self.table.queues.breakers
        self._effects: list[Effect] = []
        self.starts: list[StartAttempt] = []
        self.causes: list[SaveJob] = []
        self._finished: deque[tuple[JobId, State]] = deque()  # whose dependents are not updated yet
        self._pauses: set[Cause] = set()
        self._waits_to_settle = False
        self.is_frozen = False

    # --- questions ------------------------------------------------------------------------------------

    @property
    def effect_count(self) -> int:
        """The number of effects since the last call of `take_effects`."""
        return len(self._effects)

    def take_effects(self) -> list[Effect]:
        """Return the effects since the last call, in order. The last SaveJob of a job counts."""
        effects, self._effects = self._effects, []
        return effects

    def take_causes(self) -> list[SaveJob]:
        """Return `causes` since the last call."""
        causes, self.causes = self.causes, []
        return causes

    def next_timer_at(self) -> float | None:
        """Return when to call `advance` next, on the elapsed clock; None: nothing waits for it."""
        if self.is_frozen:
            return None
        at = self.table.waiting.next_at()
        if self.table.queues.starts.rates:
            for queue, opens_at in self.table.queues.openings():
                if (queue, State.QUEUED) in self.table.counts and (at is None or opens_at < at):
                    at = opens_at
        for ends_at in self.breakers.ends_at(self.table.queues.now):
            at = ends_at if at is None else min(at, ends_at)
        return at

    def explain(self, job_id: JobId, now: Now) -> tuple[Reason, ...]:
        """Return everything that keeps a job from running; nothing if it runs or has finished."""
        job = self.table.jobs.get(job_id)
        if job is None:
            return ()
        return self.table.queues.explain(job, [why for why in Cause if why in self._pauses], now)

    def explain_queued(self, job_ids: Iterable[JobId], now: Now) -> dict[JobId, tuple[Reason, ...]]:
        """Return what those of these jobs that are queued wait for, as ReadyQueues does."""
        known = (self.table.jobs.get(job_id) for job_id in job_ids)
        jobs = [job for job in known if job is not None and job.state is State.QUEUED]
        obstacles = [cause for cause in Cause if cause in self._pauses]
        reasons = self.table.queues.explain_queued(jobs, obstacles, now)
        return {job.id: each for job, each in zip(jobs, reasons, strict=True)}

    def deadlock(self, job_id: JobId, awaited: Mapping[JobId, AbstractSet[JobId]], now: Now) -> Reason | None:
        """Return why a job does not go on although nothing that it waits for can happen; None: it may go on.

        `awaited`: the unfinished jobs that processes of running jobs wait for.
        """
        needs: dict[JobId, list[AbstractSet[JobId]]] = {}
        ids = [job_id]
        while ids and len(needs) < _MOST_IN_DEADLOCK:
            if (each := ids.pop()) not in needs:
                needs[each] = self._needs(each, awaited, now)
                ids += (other for jobs in needs[each] for other in jobs)
        stuck = jobs_in_deadlock(needs)
        if job_id not in stuck:
            return None
        waits = [f"job {each} waits for job {min(awaited[each])}" for each in sorted(stuck & awaited.keys())]
        more = f" and {len(waits) - MAX_HOLDERS} more" if len(waits) > MAX_HOLDERS else ""
        return Reason(cause=Cause.DEADLOCK, problem=", ".join(waits[:MAX_HOLDERS]) + more)

    def _needs(
        self, job_id: JobId, awaited: Mapping[JobId, AbstractSet[JobId]], now: Now
    ) -> list[AbstractSet[JobId]]:
        """Return sets of jobs of which one each has to go on first; none: it goes on, or has finished."""
        job = self.get(job_id)
        if job is not None and job.state is State.RUNNING:
            return [awaited[job_id]] if job_id in awaited else []
        needs: list[AbstractSet[JobId]] = []
        for reason in self.explain(job_id, now):
            needs += [{JobId(other)} for other in reason.jobs]
            if holders := self.table.queues.holders_of(reason):
                needs.append(holders.keys())
        return needs

    def with_holders(self, reason: Reason) -> Reason:
        """Return a reason with the active jobs that hold what it is about: slots, tokens or a key."""
        return self.table.queues.with_holders(reason)

    def resources(self) -> Iterator[tuple[str, int, int, int]]:
        """Yield each resource: its name, all tokens, taken tokens, and queued jobs that want one."""
        for name, total, taken in self.table.queues.tokens.usage():
            yield name, total, taken, self.table.wanting.get(name, 0)

    def next_jobs(self, most: int) -> list[Job]:
        """Return up to `most` queued jobs that probably start next; none while something pauses all jobs."""
        return [] if self._pauses or self.is_frozen else self.table.queues.next_jobs(most)

    def is_paused(self, queue: str) -> bool:
        """Return whether a person has paused a queue or all of them, or bgd is about to exit."""
        rule = self.table.queues.rule_of(queue)
        is_over = Cause.SHUTDOWN in self._pauses or (Cause.PAUSE in self._pauses and not rule.apart)
        return rule.paused or is_over

    def openings(self, now: Now) -> dict[str, float]:
        """Return the queues whose rate lets no job start now, and the epoch time when it will."""
        return {
            queue: float(ceil(now.wall + at - now.elapsed))  # as in `explain`
            for queue, at in self.table.queues.openings()
            if at > now.elapsed
        }

    def some_dependents_of(self, job_id: JobId, limit: int) -> tuple[int, list[JobId]]:
        """Return how many jobs wait for this one, and up to `limit` of them; the cost depends only on it."""
        return self.table.waiting.some_dependents_of(job_id, limit)

    def holder_of(self, key: str, now: Now) -> JobId | None:
        """Return the job that has this key: an unfinished one, or one that keeps it after its end."""
        until = self.table.kept_keys.get(key)
        return self.table.keys.get(key) if until is None or until > now.elapsed else None

    @property
    def kept_keys(self) -> int:
        """How many keys finished jobs have."""
        return len(self.table.kept_keys)

    def active_jobs(self) -> list[Job]:
        """Return the jobs that hold a slot."""
        return [self.table.jobs[job_id] for job_id in self.table.queues.active]

    def waiting_jobs(self) -> list[JobId]:
        """Return the ids of the jobs that hold no slot, the lowest first."""
        return sorted(job.id for job in self.table.jobs if job.state in WAITING)

    @property
    def running(self) -> int:
        """How many jobs hold a slot."""
        return len(self.table.queues.active)

    @property
    def taken(self) -> int:
        """How many slots active jobs take."""
        return self.table.queues.slots.taken

    @property
    def counts(self) -> Mapping[tuple[str, State], int]:
        """How many unfinished jobs there are in each queue and state, where there are any."""
        return self.table.counts

    @property
    def waits(self) -> int:
        """The number of dependencies of all jobs."""
        return self.table.waiting.waits

    def __len__(self) -> int:
        """Return how many unfinished jobs there are."""
        return len(self.table.jobs)

    # --- facts: jobs come and wait --------------------------------------------------------------------

    def restore(self, job: Job, slot: int | None = None, tokens: Tokens = NO_TOKENS, count: int = 1) -> None:
        """Restore an unfinished job from the database, with its slot and tokens if it is active.

        `count`: the number of waiting jobs that it represents, with consecutive ids and otherwise equal.
        """
        policy = self.table.shared(job.policy)
        if policy is not job.policy:  # otherwise each of a million jobs would have a policy of its own
            job = replace(job, policy=policy)
        self.last_id = max(self.last_id, job.id + count - 1)
        is_plain = count > 1 and job.conditions == Conditions(limit=job.conditions.limit)
        if is_plain and job.state is State.QUEUED:
            self.table.add_queued(job, count)
            return
        for number in range(job.id, job.id + count):
            self.table.put(job if number == job.id else replace(job, id=number))
        if job.state in ACTIVE:
            if slot is None:
                raise ValueError(f"job {job.id} is {job.state} and holds no slot")
            self.table.queues.reoccupy(job, slot, tokens)

    def submit(
        self, spec: JobSpec, policy: RetryPolicy, now: Now, finished: Mapping[JobId, State] | None = None
    ) -> JobId:
        """Add a new job and return its id. The caller has checked the spec, and that its key is free.

        `advance` decides whether it starts, so that a batch can be added as a whole.

        `finished`: its dependencies that have finished already.
        """
        self.last_id += 1
        due, wanted = conditions.due_of(spec, now), conditions.conditions_of(spec, now)
        job = conditions.without_met_conditions(
            Job(
                id=JobId(self.last_id),
                state=State.HELD if spec.hold else conditions.waiting_state(due, wanted, now),
                queue=self.table.shared(spec.queue) if spec.queue else DEFAULT_QUEUE,
                priority=spec.priority or 0,
                policy=self.table.shared(policy if policy.retry_until is None else with_end(policy, now)),
                due=due,
                conditions=wanted,
            )
        )
        self.table.put(job)
        self._effects.append(SaveJob(job, now.wall, SUBMIT, job.state))
        if spec.batch is not None:
            self.batches.join(job.id, BatchId(spec.batch), job.state)
        if finished:
            for other, state in finished.items():
                self._notify(job.id, other, state, now)
        return job.id

    def edit(
        self,
        job_id: JobId,
        spec: JobSpec,
        policy: RetryPolicy,
        changed: Collection[str],
        now: Now,
        finished: Mapping[JobId, State] | None = None,
    ) -> State:
        """Give a waiting job another spec, which the caller has checked; return its new state.

        `changed` are the names of the fields that differ; `finished` as in `submit`.

        Raises:
            KeyError: no waiting job has this id.
        """
        old = self._waiting_job(job_id)
        policy = self.table.shared(with_end(policy, now, old.policy))
        job = replace(conditions.edited(old, spec, changed, now), policy=policy)
        if job.attempt and policy.ends_at != old.policy.ends_at:
            job = conditions.with_last_retry(job, now)
        if job.state is State.HELD or job.state is conditions.waiting_state(job.due, job.conditions, now):
            job = conditions.without_met_conditions(job)
            self.table.put(job)
            self._effects.append(SaveJob(job, now.wall, NOTE, job.state))
        else:
            self._wait(job, now)
        for other, state in (finished or {}).items():
            self._notify(job_id, other, state, now)
        self._settle(now)
        return self._state_of(job_id)

    def hold(self, job_id: JobId, now: Now, reason: str | None = None) -> State:
        """Keep a waiting job from starting until it is released; return its new state.

        `reason`: why, if no person asked for it.

        Raises:
            KeyError: no waiting job has this id.
        """
        job = self._waiting_job(job_id)
        if job.state is not State.HELD:
            self._move(job, Move.HOLD, now, reason)
            self._settle(now)  # jobs after it may start now
        elif job.suspended:  # now it is held as well, so that `continue` does not release it
            self._note(replace(job, suspended=False), now)
        return self._state_of(job_id)

    def release(self, job_id: JobId, now: Now) -> State:
        """Let a held job wait as it did before; return its new state.

        Raises:
            KeyError: no held job has this id.
        """
        job = self._waiting_job(job_id)
        if job.state is not State.HELD:
            raise KeyError(job_id)
        self._wait(job, now)
        self._settle(now)
        return self._state_of(job_id)

    def revive(self, job: Job, now: Now) -> State:
        """Let a finished job wait again, with all its retries; return its new state.

        `job`: as from `bgd.core.conditions.revived`. The numbers of its attempts continue. The caller has
        checked that no other job has its key now.

        Raises:
            KeyError: the job is not finished.
        """
        if self.get(job.id) is not None or job.state not in FINAL:
            raise KeyError(job.id)
        policy = self.table.shared(with_end(job.policy, now))
        self._wait(replace(job, policy=policy, failures=0, unseen=0), now)
        self._settle(now)
        return self._state_of(job.id)

    # --- facts: jobs run and end ----------------------------------------------------------------------

    def cancel(self, job_id: JobId, now: Now) -> State:
        """Cancel an unfinished job and return its new state: cancelled, or stopping until it has ended.

        Raises:
            KeyError: no unfinished job has this id.
        """
        job = self.table.jobs[job_id]
        if job.state is State.STOPPING:
            if job.making_way:
                self._note(replace(job, making_way=False), now)
            return State.STOPPING
        if job.state is State.RUNNING:
            job = self._stop(job, now, making_way=False)
        else:
            job = self._move(job, Move.CANCEL, now, _reason_of_cancel(job.attempt))
        self._settle(now)
        return job.state

    def requeue(self, job_id: JobId, now: Now) -> None:
        """Stop a running attempt so that the job runs again later; do nothing in other states.

        Raises:
            KeyError: no unfinished job has this id.
        """
        job = self.table.jobs[job_id]
        if job.state is State.RUNNING:
            self._stop(job, now, making_way=True)

    def set_suspended(self, job_id: JobId, now: Now, *, suspended: bool) -> State:
        """Suspend a running job, which keeps its slots, or continue it; return its unchanged state.

        Raises:
            KeyError: no running job has this id.
        """
        job = self._running_job(job_id)
        if job.suspended is not suspended:
            job = replace(job, suspended=suspended)
            self._note(job, now)
            self._effects.append(CommandAttempt(job))
        return job.state

    def ended(
        self,
        job_id: JobId,
        attempt: int,
        outcome: Outcome,
        now: Now,
        code: int | None = None,
        decision: Decision | None = None,
        *,
        no_start: str | None = None,
    ) -> bool:
        """Record the end of an attempt. Return False, without effects, if that attempt is not active.

        `code`: as from `bgd.core.retry.exit_code_of`; `decision`: the job's own; `no_start`: why it was
        cancelled before it ran, empty if bgd did that; None: it may have run.
        """
        job = self.get(job_id)
        if job is None or job.state not in ACTIVE or job.attempt != attempt:
            return False
        if no_start and job.state is State.RUNNING:
            job = self._move(job, Move.STOP, now)
        self.table.queues.now = now.elapsed
        self.table.queues.vacate(job)
        if job.policy.breaker is not None:
            self.breakers.ended(job.policy.breaker, job.id, outcome, now)
        self._move_on(job, outcome, now, code, decision, no_start=no_start)
        self._settle(now)
        return True

    def adopt(self, job_id: JobId, slot: int, now: Now) -> StartAttempt:
        """Record that the next attempt of a queued job has begun in this slot; 0: that is not known."""
        self.table.queues.now = now.elapsed
        return self._start(self.table.jobs[job_id], now, slot)

    def may_have_begun(self, job_id: JobId, outcome: Outcome, now: Now) -> None:
        """Record this outcome of the next attempt of a queued job, of which only a permit is known."""
        job = self.table.jobs[job_id]
        self._move_on(replace(job, attempt=job.attempt + 1), outcome, now)

    # --- facts: time and slots ------------------------------------------------------------------------

    def wait_to_settle(self) -> None:
        """Defer the consequences of decisions until `advance`, so that many jobs can change as a whole."""
        self._waits_to_settle = True

    def advance(self, now: Now) -> None:
        """Let time pass."""
        self._waits_to_settle = False
        self._settle(now)

    def pause(self, why: Cause) -> None:
        """Start no job until this reason ends, which goes away by itself."""
        self._pauses.add(why)

    def resume(self, why: Cause, now: Now) -> None:
        """End this reason."""
        self._pauses.discard(why)
        self._settle(now)

    def resize(
        self, slots: int, rules: Mapping[str, QueueRule], now: Now, resources: Resources = NO_TOKENS
    ) -> None:
        """Change slots, rules and tokens. Active jobs beyond the new limits stay active."""
        self.table.queues.resize(slots, rules, resources)
        self._settle(now)

    # --- the one place that changes a state -----------------------------------------------------------

    def _move(
        self,
        job: Job,
        move: Move,
        now: Now,
        reason: str | None = None,
        *,
        was_taken: bool = False,
        **changes: object,
    ) -> Job:
        """Move a job to another state, with other changes; `was_taken` as in JobTable.put."""
        new = conditions.without_met_conditions(replace(job, state=MOVES[job.state][move], **changes))
        if new.suspended and new.state not in MAY_BE_SUSPENDED:
            new = replace(new, suspended=False)
        save = SaveJob(new, now.wall, move, job.state, reason)
        if new.state in FINAL:
            is_key_kept = new.conditions.key_for is not None
            self.table.remove(new, conditions.key_kept_until(new, now) if is_key_kept else None)
            self._finished.append((new.id, new.state))
            if new.policy.has_follow_ups:
                self.causes.append(save)
        else:
            self.table.put(new, was_taken=was_taken)
        self._effects.append(save)
        if self.batches.open:
            self.batches.moved(new.id, job.state, new.state)
        return new

    def _wait(self, job: Job, now: Now) -> None:
        """Move a job to the state in which it waits: the only way into the queue, except for a rerun."""
        state = conditions.waiting_state(job.due, job.conditions, now)
        self._move(job, next(move for move, after in MOVES[job.state].items() if after is state), now)

    def _note(self, job: Job, now: Now) -> None:
        """Save a job whose state does not change."""
        self.table.jobs.put(job)  # nothing changed that affects its place
        self._effects.append(SaveJob(job, now.wall, NOTE, job.state))

    def _stop(self, job: Job, now: Now, *, making_way: bool) -> Job:
        job = self._move(job, Move.STOP, now, making_way=making_way, suspended=making_way and job.suspended)
        self._effects.append(CommandAttempt(job))
        return job

    def _move_on(
        self,
        job: Job,
        outcome: Outcome,
        now: Now,
        code: int | None = None,
        decision: Decision | None = None,
        *,
        no_start: str | None = None,
    ) -> None:
        """Move a job whose attempt is over; arguments as in `ended`."""
        move, reason = move_after_end(job, outcome, code, decision)
        if move is Move.CANCEL and no_start is not None:
            reason = no_start or _reason_of_cancel(job.attempt - 1)
        unseen = job.unseen + 1 if outcome in UNSEEN else 0
        failures = job.failures + 1 if move is Move.RETRY else job.failures
        was_suspended = job.suspended
        job = replace(job, failures=failures, unseen=unseen, making_way=False)
        if move is Move.RETRY and job.conditions.target is not None:
            job = replace(job, priority=AFTER_NEW)
        due, at = wait_after(move, job, now, self._roll(), decision)
        if at is not None:
            job = replace(job, conditions=replace(job.conditions, at=at))
        if move is Move.RETRY and job.policy.ends_at is not None:
            job = conditions.with_last_retry(job, now)
            if conditions.expires_first(due, job.conditions, now):
                move, reason, due = Move.GIVE_UP, TOO_LATE, None
        job = self._move(job, move, now, reason, due=due)
        if was_suspended and job.state in WAITING:
            self._move(job, Move.HOLD, now, SUSPENDED_AT_END, suspended=True)

    def _start(
        self, job: Job, now: Now, adopted: int | None = None, *, was_taken: bool = False
    ) -> StartAttempt:
        """Start a queued job; `was_taken` as in JobTable.put, `adopted` as in ReadyQueues.occupy."""
        expires = None if job.attempt else job.conditions.expires
        job = self._move(job, Move.START, now, was_taken=was_taken, attempt=job.attempt + 1)
        start = StartAttempt(job, *self.table.queues.occupy(job, adopted), expires)
        self._effects.append(start)
        return start

    # --- what follows ---------------------------------------------------------------------------------

    def _settle(self, now: Now) -> None:
        """Apply the passing of time and the ends of other jobs, then start jobs while there is room."""
        if self._waits_to_settle or self.is_frozen:
            return
        queues, is_paused = self.table.queues, bool(self._pauses)
        queues.now = now.elapsed
        if self.table.kept_keys:
            self.table.free_keys(now.elapsed)
        self._update_waiting(now)
        while True:
            job = queues.take_next(is_paused=is_paused) if self._pauses <= _SOME_START else None
            if job is None:
                return
            if job.conditions.limit is not None and queues.limits.is_skipped(job):
                self._move(job, Move.CANCEL, now, SKIPPED + self._holders_of(job.conditions.limit.key))
                self._update_waiting(now)  # other jobs may wait for this one
                continue
            self.starts.append(self._start(job, now, was_taken=True))

    def _update_waiting(self, now: Now) -> None:
        """Update the jobs that wait for a time or for others, until nothing more follows from that."""
        waiting = self.table.waiting
        while True:
            if self._finished:
                other, state = self._finished.popleft()
                for dependent in waiting.dependents_of(other):
                    self._notify(dependent, other, state, now)
            elif (late := waiting.take_expired(now)) is not None:
                self._expire(self.table.jobs[late], now)
            elif (due := waiting.take_due(now)) is not None:
                self._move(self.table.jobs[due], Move.COME_DUE, now, was_taken=True)
            else:
                return

    def _holders_of(self, key: str) -> str:
        """Return in words which jobs hold a key."""
        return holders_in_words(self.with_holders(Reason(cause=Cause.LIMIT, subject=key)))

    def _expire(self, job: Job, now: Now) -> None:
        """End a job that has waited too long: for its first attempt, or for a retry."""
        if job.attempt:
            self._move(job, Move.GIVE_UP, now, TOO_LATE)
        else:
            self._move(job, Move.CANCEL, now, EXPIRED)

    def _notify(self, job_id: JobId, other: JobId, state: State, now: Now) -> None:
        """Update a job after one of its dependencies has finished."""
        job = self.get(job_id)
        if job is None or (other not in job.conditions.after and other not in job.conditions.after_any):
            return
        if other in job.conditions.after and state is not State.SUCCEEDED:
            reason = conditions.BECAUSE_OF.format(other, conditions.ENDS[state])
            is_held = job.state is State.HELD
            self._move(job, Move.CANCEL, now, reason + conditions.WHILE_HELD if is_held else reason)
            return
        self.table.waiting.end_wait(job_id, other)
        job = conditions.without_dependency(job, other)
        if job.state is not State.BLOCKED or job.conditions.after or job.conditions.after_any:
            self._note(job, now)
        else:
            self._wait(job, now)

    def _state_of(self, job_id: JobId) -> State:
        """Return the state of a job that was waiting before `_settle`."""
        job = self.get(job_id)
        return State.CANCELLED if job is None else job.state

    def _running_job(self, job_id: JobId) -> Job:
        job = self.table.jobs[job_id]
        if job.state is not State.RUNNING:
            raise KeyError(job_id)
        return job

    def _waiting_job(self, job_id: JobId) -> Job:
        job = self.table.jobs[job_id]
        if job.state not in WAITING:
            raise KeyError(job_id)
        return job


def _reason_of_cancel(attempts: int) -> str:
    """Return why a job is cancelled that does not run: `attempts` of it have begun."""
    return CANCELLED_BEFORE_NEXT_ATTEMPT if attempts else CANCELLED_BEFORE_START
