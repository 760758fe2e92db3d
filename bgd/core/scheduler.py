"""The Scheduler: every unfinished job. Facts go in, effects come out; it does nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from bgd.core.effects import Effect, Save, Start, Stop
from bgd.core.heaps import DueHeap, SlotNumbers
from bgd.core.job import (
    ACTIVE,
    FINAL,
    MOVES,
    UNSEEN,
    Job,
    JobId,
    JobSpec,
    Move,
    Now,
    Outcome,
    RetryPolicy,
    State,
)
from bgd.core.queues import Queues
from bgd.core.retry import move_after_end, retry_delay


class Scheduler:
    """Decides what runs when.

    Args:
        slots: attempts that may run at once.
        queue_slots: the same for queues that have a limit of their own; the others share what is left.
        last_id: the highest id ever given out.
        roll: dice, a number in [0, 1) a call.
    """

    def __init__(
        self, slots: int, queue_slots: Mapping[str, int], last_id: int, roll: Callable[[], float]
    ) -> None:
        self._slots = slots
        self._queues = Queues(queue_slots, self._is_ready)
        self._last_id = last_id
        self._roll = roll
        self._jobs: dict[JobId, Job] = {}
        self._slot_of: dict[JobId, int] = {}
        self._slot_numbers = SlotNumbers()
        self._due = DueHeap(self._is_due)
        self._effects: list[Effect] = []
        self._paused = False
        self._policies: dict[RetryPolicy, RetryPolicy] = {}

    # --- asks ---------------------------------------------------------------------------------------

    def take_effects(self) -> list[Effect]:
        """Hand over, in order, what has to be done since the last call. Of several Saves the last counts."""
        effects, self._effects = self._effects, []
        return effects

    def next_timer_at(self) -> float | None:
        """Return when `advance` is wanted next, on the elapsed clock; None when nothing waits for a time."""
        return self._due.next_at()

    def get(self, job_id: JobId) -> Job | None:
        """Return an unfinished job, None for any other."""
        return self._jobs.get(job_id)

    def active_jobs(self) -> list[Job]:
        """Return the jobs that hold a slot."""
        return [self._jobs[job_id] for job_id in self._slot_of]

    @property
    def running(self) -> int:
        """How many jobs hold a slot."""
        return len(self._slot_of)

    def __len__(self) -> int:
        return len(self._jobs)

    # --- facts --------------------------------------------------------------------------------------

    def restore(self, job: Job, slot: int | None = None) -> None:
        """Take an unfinished job as it was written down; `slot` if its state is active."""
        job = replace(job, policy=self._shared(job.policy))
        self._last_id = max(self._last_id, job.id)
        self._jobs[job.id] = job
        if job.state in ACTIVE:
            if slot is None:
                raise ValueError(f"job {job.id} is {job.state} and holds no slot")
            self._slot_numbers.take(slot)
            self._hold(job, slot)
        else:
            self._line_up(job)

    def submit(self, spec: JobSpec, policy: RetryPolicy, now: Now) -> JobId:
        """Take a new job, whose spec the caller has checked."""
        self._last_id += 1
        due = now.elapsed + spec.delay if spec.delay > 0 else None
        job = Job(
            id=JobId(self._last_id),
            state=State.QUEUED if due is None else State.SCHEDULED,
            queue=spec.queue,
            priority=spec.priority,
            policy=self._shared(policy),
            due=due,
        )
        self._jobs[job.id] = job
        self._line_up(job)
        self._effects.append(Save(job, now.wall, spec=spec))
        self._settle(now)
        return job.id

    def cancel(self, job_id: JobId, now: Now) -> State:
        """Cancel an unfinished job and return its new state: cancelled, or stopping until it has ended.

        Raises:
            KeyError: no unfinished job has this id.
        """
        job = self._jobs[job_id]
        if job.state is State.STOPPING:
            if job.making_way:
                self._note(replace(job, making_way=False), now)
            return State.STOPPING
        if job.state is State.RUNNING:
            job = self._move(job, Move.STOP, now)
            self._effects.append(Stop(job))
        else:
            job = self._move(job, Move.CANCEL, now, reason="cancelled before it started", due=None)
        self._settle(now)
        return job.state

    def make_way(self, job_id: JobId, now: Now) -> None:
        """Stop a running attempt so that the job runs again later; nothing happens in other states.

        Raises:
            KeyError: no unfinished job has this id.
        """
        job = self._jobs[job_id]
        if job.state is State.RUNNING:
            self._effects.append(Stop(self._move(job, Move.STOP, now, making_way=True)))

    def ended(self, job_id: JobId, attempt: int, outcome: Outcome, now: Now) -> bool:
        """Take the end of an attempt. False, and no effect, if that end is not the one waited for."""
        job = self._jobs.get(job_id)
        if job is None or job.state not in ACTIVE or job.attempt != attempt:
            return False
        move, reason = move_after_end(job, outcome)
        unseen = job.unseen + 1 if outcome in UNSEEN else 0
        failures = job.failures + 1 if move is Move.RETRY else job.failures
        due = now.elapsed + retry_delay(job.policy, failures, self._roll()) if move is Move.RETRY else None
        self._let_go(job)
        self._move(job, move, now, reason=reason, failures=failures, unseen=unseen, due=due, making_way=False)
        self._settle(now)
        return True

    def revive(self, job: Job, now: Now) -> None:
        """Queue a finished job again, with its retries unused; its attempts go on counting.

        Raises:
            KeyError: the job is not finished.
        """
        if job.id in self._jobs or job.state not in FINAL:
            raise KeyError(job.id)
        job = replace(job, policy=self._shared(job.policy))
        self._move(job, Move.REVIVE, now, failures=0, unseen=0, due=None)
        self._settle(now)

    def advance(self, now: Now) -> None:
        """Take the passing of time."""
        self._settle(now)

    def pause(self) -> None:
        """Start nothing until `resume`, as while there is nobody to launch it."""
        self._paused = True

    def resume(self, now: Now) -> None:
        self._paused = False
        self._settle(now)

    def resize(self, slots: int, queue_slots: Mapping[str, int], now: Now) -> None:
        """Take other numbers of slots. What runs beyond them runs on."""
        self._slots = slots
        if queue_slots != self._queues.limits:
            self._queues = Queues(queue_slots, self._is_ready)
            for job in self._jobs.values():
                if job.state is State.QUEUED:
                    self._queues.push(job)
                elif job.state in ACTIVE:
                    self._queues.occupy(job)
        self._settle(now)

    # --- the one place that changes a state -----------------------------------------------------------

    def _move(self, job: Job, move: Move, now: Now, reason: str | None = None, **changes: object) -> Job:
        new = replace(job, state=MOVES[job.state][move], **changes)
        if job.state is State.QUEUED and new.state is State.CANCELLED:
            self._queues.forget(job)
        elif job.state is State.SCHEDULED and new.state is State.CANCELLED:
            self._due.forget()
        if new.state in FINAL:
            self._jobs.pop(new.id, None)
        else:
            self._jobs[new.id] = new
            self._line_up(new)
        self._effects.append(Save(new, now.wall, reason))
        return new

    def _note(self, job: Job, now: Now) -> None:
        """Write down a job whose state stays."""
        self._jobs[job.id] = job
        self._effects.append(Save(job, now.wall))

    # --- lining up and starting -----------------------------------------------------------------------

    def _settle(self, now: Now) -> None:
        while (job_id := self._due.pop_due(now.elapsed)) is not None:
            self._move(self._jobs[job_id], Move.COME_DUE, now, due=None)
        while not self._paused and len(self._slot_of) < self._slots:
            next_id = self._queues.take_next()
            if next_id is None:
                return
            self._start(self._jobs[next_id], now)

    def _start(self, job: Job, now: Now) -> None:
        slot = self._slot_numbers.take_smallest()
        job = self._move(job, Move.START, now, attempt=job.attempt + 1)
        self._hold(job, slot)
        self._effects.append(Start(job, slot))

    def _line_up(self, job: Job) -> None:
        if job.state is State.QUEUED:
            self._queues.push(job)
        elif job.state is State.SCHEDULED:
            if job.due is None:
                raise ValueError(f"job {job.id} is scheduled for no time")
            self._due.push(job.id, job.due)

    def _is_ready(self, job_id: JobId, priority: int) -> bool:
        job = self._jobs.get(job_id)
        return job is not None and job.state is State.QUEUED and job.priority == priority

    def _is_due(self, job_id: JobId, due: float) -> bool:
        job = self._jobs.get(job_id)
        return job is not None and job.state is State.SCHEDULED and job.due == due

    # --- slots ------------------------------------------------------------------------------------------

    def _hold(self, job: Job, slot: int) -> None:
        self._slot_of[job.id] = slot
        self._queues.occupy(job)

    def _let_go(self, job: Job) -> None:
        self._slot_numbers.give_back(self._slot_of.pop(job.id))
        self._queues.vacate(job)

    def _shared(self, policy: RetryPolicy) -> RetryPolicy:
        """Return the one object for all jobs of an equal policy: a million jobs, a handful of policies."""
        if len(self._policies) > 1000:  # a stranger may send a new one each time  # noqa: PLR2004
            self._policies.clear()
        return self._policies.setdefault(policy, policy)
