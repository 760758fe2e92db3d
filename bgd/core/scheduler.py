"""The Scheduler: every unfinished job. Facts go in, effects come out; it does nothing itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from bgd.core import conditions
from bgd.core.conditions import WaitingJobs
from bgd.core.decision import Decision
from bgd.core.job import (
    ACTIVE,
    FINAL,
    MOVES,
    NO_CONDITIONS,
    UNSEEN,
    WAITING,
    Job,
    JobId,
    Move,
    Now,
    Outcome,
    RetryPolicy,
    State,
)
from bgd.core.queues import QueueRule, Room
from bgd.core.retry import move_after_end, wait_after
from bgd.core.spec import DEFAULT_QUEUE, JobSpec

# --- The book: all unfinished jobs, and what is counted of them


_MOST_POLICIES = 1000  # a stranger may send a new one with each job


class JobTable:
    """Unfinished jobs by id; `room` has those in line and at work, `waiting` what others wait for.

    Args:
        slots, rules: as of Room.
    """

    def __init__(self, slots: int, rules: Mapping[str, QueueRule]) -> None:
        self._jobs: dict[JobId, Job] = {}
        self.room = Room(slots, rules, self._jobs.get)
        self.waiting = WaitingJobs(self._jobs.get)
        self._keys: dict[str, JobId] = {}
        self._policies: dict[RetryPolicy, RetryPolicy] = {}

    def get(self, job_id: JobId) -> Job | None:
        return self._jobs.get(job_id)

    def __getitem__(self, job_id: JobId) -> Job:
        """Return an unfinished job.

        Raises:
            KeyError: there is none of this id.
        """
        return self._jobs[job_id]

    def __len__(self) -> int:
        return len(self._jobs)

    def holder_of(self, key: str) -> JobId | None:
        """Return the job that has this key."""
        return self._keys.get(key)

    def active_jobs(self) -> list[Job]:
        """Return the jobs that hold a slot."""
        return [self._jobs[job_id] for job_id in self.room.active]

    def enter(self, job: Job, *, came_up: bool = False) -> None:
        """Take a job that is new or has changed, and let it stand where it belongs now.

        `came_up`: it was taken out of its line just now.
        """
        old = self._jobs.get(job.id)
        self._jobs[job.id] = job
        if old is not None:
            self._leave_place(old, came_up=came_up)
        if job.conditions.key is not None:
            self._keys.setdefault(job.conditions.key, job.id)  # whoever had it first keeps it
        if job.conditions is not NO_CONDITIONS and job.state not in ACTIVE:
            self.waiting.begin(job)
        if job.state is State.QUEUED:
            self.room.push(job)
        elif job.state is State.SCHEDULED:
            self.waiting.schedule(job)

    def strike(self, job: Job) -> None:
        """Forget a job that is finished now."""
        old = self._jobs.pop(job.id)
        if old.conditions.key is not None and self._keys.get(old.conditions.key) == job.id:
            del self._keys[old.conditions.key]
        self._leave_place(old, came_up=False)

    def note(self, job: Job) -> None:
        """Take a job of which nothing has changed that decides where it stands."""
        self._jobs[job.id] = job

    def shared(self, policy: RetryPolicy) -> RetryPolicy:
        """Return the one object for all jobs of an equal policy: a million jobs, a handful of policies."""
        if len(self._policies) > _MOST_POLICIES:
            self._policies.clear()
        return self._policies.setdefault(policy, policy)

    def _leave_place(self, job: Job, *, came_up: bool) -> None:
        if job.conditions is not NO_CONDITIONS:
            self.waiting.end(job)
        if job.state is State.QUEUED and not came_up:
            self.room.forget(job)
        elif job.state is State.SCHEDULED and not came_up:
            self.waiting.unschedule(job)


# --- Effects: what follows from a decision


SUBMIT = "submit"
NOTE = "note"


class SaveJob(Struct, frozen=True):
    """Write the job down. `at` is epoch time; `reason` says for people why, where the outcome does not.

    `what` happened: SUBMIT, a Move, or NOTE where the state stays.
    """

    job: Job
    at: float
    what: str
    reason: str | None = None
    spec: JobSpec | None = None  # of a job that is new


class StartAttempt(Struct, frozen=True):
    """Launch the job's attempt number `job.attempt`, in slot `slot`."""

    job: Job
    slot: int


class StopAttempt(Struct, frozen=True):
    """End the job's running attempt: politely, then certainly."""

    job: Job


class SuspendAttempt(Struct, frozen=True):
    """Make the processes of the job's running attempt stand still."""

    job: Job


class ContinueAttempt(Struct, frozen=True):
    """Let them go on."""

    job: Job


Effect = SaveJob | StartAttempt | StopAttempt | SuspendAttempt | ContinueAttempt


EXPIRED = "expired: it could not start in time"
BEFORE_START = "cancelled before it started"

_ENDS = {State.SUCCEEDED: "succeeded", State.FAILED: "failed", State.CANCELLED: "was cancelled"}


class PauseReason(StrEnum):
    """Why nothing is started; each reason ends by itself."""

    NO_LAUNCHER = "no launcher"
    ASKED = "asked"
    DRAINING = "draining"


class Scheduler:
    """Decides what runs when.

    Args:
        slots: how many active jobs may take at once.
        rules: of the queues that have any.
        last_id: the highest id ever given out.
        roll: dice, a number in [0, 1) a call.
    """

    def __init__(
        self, slots: int, rules: Mapping[str, QueueRule], last_id: int, roll: Callable[[], float]
    ) -> None:
        self._book = JobTable(slots, rules)
        self._last_id = last_id
        self._roll = roll
        self._effects: list[Effect] = []
        self._finished: deque[tuple[JobId, State]] = deque()  # those that wait for them are not told yet
        self._pauses: set[PauseReason] = set()

    # --- asks ---------------------------------------------------------------------------------------

    def take_effects(self) -> list[Effect]:
        """Hand over, in order, what has to be done since the last call. Of several Saves the last counts."""
        effects, self._effects = self._effects, []
        return effects

    def next_timer_at(self) -> float | None:
        """Return when `advance` is wanted next, on the elapsed clock; None when nothing waits for a time."""
        return self._book.waiting.next_at()

    def next_wall_timer_at(self) -> float | None:
        """Return the same on the wall clock."""
        return self._book.waiting.next_wall_at()

    def get(self, job_id: JobId) -> Job | None:
        """Return an unfinished job, None for any other."""
        return self._book.get(job_id)

    def holder_of(self, key: str) -> JobId | None:
        """Return the unfinished job that has this key."""
        return self._book.holder_of(key)

    def active_jobs(self) -> list[Job]:
        """Return the jobs that hold a slot."""
        return self._book.active_jobs()

    def find_cycle(self, job_id: JobId, others: Collection[int]) -> JobId | None:
        """Return one of the others that waits for this job, which must not wait for it then; else None."""
        return conditions.find_cycle(job_id, others, self.get)

    @property
    def running(self) -> int:
        """How many jobs hold a slot."""
        return len(self._book.room)

    @property
    def taken(self) -> int:
        """How many slots they take."""
        return self._book.room.taken

    @property
    def waits(self) -> int:
        """How many times a job waits for another one, of all jobs together."""
        return self._book.waiting.waits

    def __len__(self) -> int:
        return len(self._book)

    # --- facts: jobs come, and wait -------------------------------------------------------------------

    def restore(self, job: Job, slot: int | None = None) -> None:
        """Take an unfinished job as it was written down; `slot`, its number, if its state is active."""
        policy = self._book.shared(job.policy)
        if policy is not job.policy:  # a copy of each of a million would leave as much memory behind
            job = replace(job, policy=policy)
        self._last_id = max(self._last_id, job.id)
        self._book.enter(job)
        if job.state in ACTIVE:
            if slot is None:
                raise ValueError(f"job {job.id} is {job.state} and holds no slot")
            self._book.room.reseat(job, slot)

    def submit(
        self, spec: JobSpec, policy: RetryPolicy, now: Now, finished: Mapping[JobId, State] | None = None
    ) -> JobId:
        """Take a new job, whose spec the caller has checked; its key too, which nobody may have.

        `finished`: of the jobs it is to wait for, those that have finished already.
        """
        self._last_id += 1
        due, wanted = conditions.due_of(spec, now), conditions.conditions_of(spec, now)
        job = conditions.without_met_conditions(
            Job(
                id=JobId(self._last_id),
                state=State.HELD if spec.hold else conditions.waiting_state(due, wanted, now),
                queue=spec.queue or DEFAULT_QUEUE,
                priority=spec.priority or 0,
                policy=self._book.shared(policy),
                due=due,
                conditions=wanted,
            )
        )
        self._book.enter(job)
        self._effects.append(SaveJob(job, now.wall, SUBMIT, spec=spec))
        if finished:
            self._hear_all(job.id, finished, now)
        self._settle(now)
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
        """Take another spec for a waiting job, of which the caller has checked all; return its new state.

        `changed` are the names of what is other, `finished` as of `submit`.

        Raises:
            KeyError: no waiting job has this id.
        """
        old = self._in_waiting(job_id)
        job = replace(conditions.edited(old, spec, changed, now), policy=self._book.shared(policy))
        place = (
            State.HELD if job.state is State.HELD else conditions.waiting_state(job.due, job.conditions, now)
        )
        if place is job.state:
            job = conditions.without_met_conditions(job)
            self._book.enter(job)
            self._effects.append(SaveJob(job, now.wall, NOTE))
        else:
            self._move(job, conditions.move_to(place, job), now)
        if finished:
            self._hear_all(job_id, finished, now)
        self._settle(now)
        return self._state_of(job_id)

    def hold(self, job_id: JobId, now: Now) -> State:
        """Keep a waiting job from starting until it is released; return its new state.

        Raises:
            KeyError: no waiting job has this id.
        """
        job = self._in_waiting(job_id)
        if job.state is not State.HELD:
            self._move(job, Move.HOLD, now)
            self._settle(now)  # others may have waited behind it
        return self._state_of(job_id)

    def release(self, job_id: JobId, now: Now) -> State:
        """Let a held job wait for what it waited for before; return its new state.

        Raises:
            KeyError: no held job has this id.
        """
        job = self._in_waiting(job_id)
        if job.state is not State.HELD:
            raise KeyError(job_id)
        self._move(job, conditions.move_to(conditions.waiting_state(job.due, job.conditions, now), job), now)
        self._settle(now)
        return self._state_of(job_id)

    def revive(self, job: Job, now: Now) -> None:
        """Queue a finished job again, with its retries unused; its attempts go on counting.

        The caller has checked that nobody has its key by now: somebody who has would keep it.

        Raises:
            KeyError: the job is not finished.
        """
        if self.get(job.id) is not None or job.state not in FINAL:
            raise KeyError(job.id)
        job = replace(job, policy=self._book.shared(job.policy))
        self._move(job, Move.REVIVE, now, failures=0, unseen=0)
        self._settle(now)

    # --- facts: jobs run, and end ---------------------------------------------------------------------

    def cancel(self, job_id: JobId, now: Now) -> State:
        """Cancel an unfinished job and return its new state: cancelled, or stopping until it has ended.

        Raises:
            KeyError: no unfinished job has this id.
        """
        job = self._book[job_id]
        if job.state is State.STOPPING:
            if job.making_way:
                self._note(replace(job, making_way=False), now)
            return State.STOPPING
        if job.state is State.RUNNING:
            job = self._stop(job, now, making_way=False)
        else:
            job = self._move(job, Move.CANCEL, now, BEFORE_START)
        self._settle(now)
        return job.state

    def make_way(self, job_id: JobId, now: Now) -> None:
        """Stop a running attempt so that the job runs again later; nothing happens in other states.

        Raises:
            KeyError: no unfinished job has this id.
        """
        job = self._book[job_id]
        if job.state is State.RUNNING:
            self._stop(job, now, making_way=True)

    def stand_still(self, job_id: JobId, now: Now, *, suspended: bool) -> None:
        """Make a running job stand still, which keeps its slots, or let it go on.

        Raises:
            KeyError: no running job has this id.
        """
        job = self._book[job_id]
        if job.state is not State.RUNNING:
            raise KeyError(job_id)
        if job.suspended is not suspended:
            job = replace(job, suspended=suspended)
            self._note(job, now)
            self._effects.append(SuspendAttempt(job) if suspended else ContinueAttempt(job))

    def ended(
        self,
        job_id: JobId,
        attempt: int,
        outcome: Outcome,
        now: Now,
        code: int | None = None,
        decision: Decision | None = None,
    ) -> bool:
        """Take the end of an attempt. False, and no effect, if that end is not the one waited for.

        `code`: as `bgd.core.retry.exit_code_of` tells it; `decision`: the job's own.
        """
        job = self.get(job_id)
        if job is None or job.state not in ACTIVE or job.attempt != attempt:
            return False
        move, reason = move_after_end(job, outcome, code, decision)
        unseen = job.unseen + 1 if outcome in UNSEEN else 0
        failures = job.failures + 1 if move is Move.RETRY else job.failures
        self._book.room.vacate(job)
        job = replace(job, failures=failures, unseen=unseen, making_way=False, suspended=False)
        due, at = wait_after(move, job, now, self._roll(), decision)
        if at is not None:
            job = replace(job, conditions=replace(job.conditions, at=at))
        self._move(job, move, now, reason, due=due)
        self._settle(now)
        return True

    # --- facts: time and room -------------------------------------------------------------------------

    def advance(self, now: Now) -> None:
        """Take the passing of time."""
        self._settle(now)

    def pause(self, why: PauseReason) -> None:
        """Start nothing until this reason has ended."""
        self._pauses.add(why)

    def resume(self, why: PauseReason, now: Now) -> None:
        self._pauses.discard(why)
        self._settle(now)

    def resize(self, slots: int, rules: Mapping[str, QueueRule], now: Now) -> None:
        """Take another number of slots and other rules. What runs beyond them runs on."""
        self._book.room.resize(slots, rules)
        self._settle(now)

    # --- the one place that changes a state -----------------------------------------------------------

    def _move(
        self,
        job: Job,
        move: Move,
        now: Now,
        reason: str | None = None,
        *,
        came_up: bool = False,
        **changes: object,
    ) -> Job:
        """Move a job, with some changes; `came_up`: it was taken out of its line just now."""
        new = conditions.without_met_conditions(replace(job, state=MOVES[job.state][move], **changes))
        if new.state in FINAL:
            self._book.strike(new)
            self._finished.append((new.id, new.state))
        else:
            self._book.enter(new, came_up=came_up)
        self._effects.append(SaveJob(new, now.wall, move, reason))
        return new

    def _note(self, job: Job, now: Now) -> None:
        """Write down a job whose state stays."""
        self._book.note(job)
        self._effects.append(SaveJob(job, now.wall, NOTE))

    def _stop(self, job: Job, now: Now, *, making_way: bool) -> Job:
        job = self._move(job, Move.STOP, now, making_way=making_way, suspended=False)
        self._effects.append(StopAttempt(job))
        return job

    # --- what has come --------------------------------------------------------------------------------

    def _settle(self, now: Now) -> None:
        """Let time, and the ends of other jobs, do their work; then start what there is room for."""
        waiting = self._book.waiting
        while True:
            if self._finished:
                other, state = self._finished.popleft()
                for dependent in waiting.dependents_of(other):
                    self._hear(dependent, other, state, now)
            elif (late := waiting.take_expired(now)) is not None:
                self._move(self._book[late], Move.CANCEL, now, EXPIRED)
            elif (due := waiting.take_due(now)) is not None:
                self._move(self._book[due], Move.COME_DUE, now, came_up=True)
            else:
                break
        while not self._pauses and (job := self._book.room.take_next()) is not None:
            job = self._move(job, Move.START, now, came_up=True, attempt=job.attempt + 1)
            self._effects.append(StartAttempt(job, self._book.room.seat(job)))

    def _hear_all(self, job_id: JobId, finished: Mapping[JobId, State], now: Now) -> None:
        for other, state in finished.items():
            self._hear(job_id, other, state, now)

    def _hear(self, job_id: JobId, other: JobId, state: State, now: Now) -> None:
        """Tell a job that another one, for which it may be waiting, has finished."""
        job = self.get(job_id)
        if job is None or (other not in job.conditions.after and other not in job.conditions.after_any):
            return
        if other in job.conditions.after and state is not State.SUCCEEDED:
            self._move(job, Move.CANCEL, now, f"job {other}, which had to succeed before, {_ENDS[state]}")
            return
        self._book.waiting.end_wait(job_id, other)
        job = conditions.without_dependency(job, other)
        place = conditions.waiting_state(job.due, job.conditions, now)
        if job.state is State.BLOCKED and place is not State.BLOCKED:
            self._move(job, conditions.move_to(place, job), now)
        else:
            self._note(job, now)

    def _state_of(self, job_id: JobId) -> State:
        """Return the state of a job that waited before it settled."""
        job = self.get(job_id)
        return State.CANCELLED if job is None else job.state

    def _in_waiting(self, job_id: JobId) -> Job:
        job = self._book[job_id]
        if job.state not in WAITING:
            raise KeyError(job_id)
        return job
