"""Compare what clients asked for and were told with the daemon's events and jobs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from math import inf

from msgspec import UNSET

from bgd.core.job import FINAL, MOVES, WAITING, Move, Outcome, State
from bgd.core.spec import JobSpec, KeyUntil
from bgd.wire.replies import Submitted
from bgd.wire.requests import (
    Cancel,
    Edit,
    Hold,
    Pause,
    Prune,
    Release,
    Remove,
    RemoveQueue,
    Resume,
    Retry,
    Submit,
    SubmitMany,
)
from bgd.wire.views import EventView, JobView
from tests.end_to_end.clients import Action, is_done
from tests.end_to_end.records import AttemptRecords

KEY_SLACK = 0.1  # seconds: the end of a job is stored a moment after it is decided
OVER = {Move.SUCCEED, Move.GIVE_UP, Move.CANCEL, Move.RETRY, Move.REQUEUE}  # each of these ends an attempt

# A held job that was cancelled because of another one may come along with its retry: it is held again then
WHILE_HELD = {"note", Move.CANCEL, Move.REVIVE, Move.BLOCK, Move.DEFER, Move.HOLD}
LOST = {Outcome.INTERRUPTED, Outcome.UNKNOWN}  # also of attempts that may have begun, without a start

UNDOES: dict[type, tuple[type, ...]] = {
    Hold: (Release, Cancel, Retry, Remove),
    Cancel: (Retry, Remove),
    Edit: (Edit, Remove),
}


class History:
    """Everything that was asked, and everything that happened.

    Args:
        actions: the requests of all clients, those of each client in order.
        events: all events.
        jobs: all jobs as they are at the end, by id, without those that were removed.
        rest_at: when held jobs and queues were released, so that all jobs would finish.
        has_times: whether times can be compared, because nobody set the wall clock meanwhile.
    """

    def __init__(
        self,
        actions: list[Action],
        events: list[EventView],
        jobs: dict[int, JobView],
        rest_at: float,
        *,
        has_times: bool = True,
    ) -> None:
        self._has_times = has_times
        self.jobs = jobs
        self.rest_at = rest_at
        self.events = events
        self.of_job: dict[int, list[EventView]] = defaultdict(list)
        for event in events:
            self.of_job[event.job].append(event)
        self.specs: dict[int, JobSpec] = {}
        self._asked_at: dict[int, float] = {}  # when a client asked for each job
        self.actions = actions
        self._unasked = {"remove"} if any(isinstance(action.request, Prune) for action in actions) else set()
        self.actions_on: dict[int, list[Action]] = defaultdict(list)
        for action in actions:
            if isinstance(action.request, Submit | SubmitMany):
                self._take_new(action)
            else:
                for job in getattr(action.request, "jobs", ()):
                    self.actions_on[job].append(action)

    def edited_jobs(self) -> set[int]:
        """Return the jobs that may differ from what was submitted."""
        return {
            job
            for job, actions in self.actions_on.items()
            if any(isinstance(action.request, Edit) for action in actions)
        }

    def check(self, records: AttemptRecords) -> Counter[str]:
        """Check everything; return counts of requests and events, to see whether the run covered enough."""
        for before, after in pairwise(self.events):
            assert before.id < after.id
        for job in self.of_job:
            self._check_life(job)
        for job, spec in self.specs.items():
            assert job in self.of_job, f"job {job} was acknowledged and is lost"
            self._check_waits(job, spec)
            self._check_delay(job, spec)
            if self._has_times:
                self._check_expiry(job, spec)
        if self._has_times:
            for job in self.actions_on:
                self._check_actions(job)
            self._check_pauses()
        self._check_keys()
        self._check_starts(records)
        done = Counter(type(action.request).__name__ for action in self.actions if is_done(action))
        return done + Counter(event.what for event in self.events)

    def _take_new(self, action: Action) -> None:
        """Remember the specs of the new jobs, if the request was answered."""
        if isinstance(action.reply, Submitted):
            request = action.request
            specs = [request.spec] if isinstance(request, Submit) else getattr(request, "specs", [])
            for job, spec in zip(action.reply.jobs, specs, strict=True):
                # if two jobs of a batch have one key, the first may be new, and found for the second
                if (
                    action.reply.jobs.count(job) > action.reply.found.count(job)
                    and self.specs.get(job) is not spec
                ):
                    others = self.specs.keys() - action.reply.jobs
                    assert job not in others, "an id was given out twice"
                    self.specs.setdefault(job, spec)
                    self._asked_at.setdefault(job, action.asked_at)

    # --- invariants of each job -----------------------------------------------------------------------

    def _check_life(self, job: int) -> None:
        """Each step is a move in the table; each attempt starts once and ends once."""
        first, *others = self.of_job[job]
        assert first.what == "submit"
        assert first.state in WAITING
        state, attempt = first.state, 0
        for event in others:
            if event.what == "remove":
                assert state in FINAL
                assert event is others[-1], f"something happened to the removed job {job}"
                assert job not in self.jobs, f"job {job} was removed and is there"
                return
            if event.what != "note":
                assert event.state is MOVES[state][Move(event.what)], f"job {job}: {state}, then {event}"
            is_lost = event.what in OVER and event.outcome in LOST and state is State.QUEUED
            if event.what == Move.START or is_lost:
                attempt += 1
            assert event.attempt == attempt, f"job {job}: not its attempt {attempt}: {event}"
            has_ended = is_lost or (event.what in OVER and state in {State.RUNNING, State.STOPPING})
            assert (event.outcome is not None) == has_ended, f"job {job}: {event}"
            state = event.state
        assert self.jobs[job].state is state
        assert state in FINAL, f"job {job} has not finished"

    def _check_waits(self, job: int, spec: JobSpec) -> None:
        """No job starts before the jobs it waits for have ended; with `after` they have succeeded."""
        after_any = set(spec.after_any)
        for action in self.actions_on[job]:
            if isinstance(action.request, Edit) and action.request.changes.after_any is not UNSET:
                after_any = set()  # the request may have come too late
        for begin, start in self._first_starts(job):
            for other in {*spec.after, *after_any}:
                states = self._states_between(other, begin, start)
                where = f"job {job} started, {states} was job {other} since {begin.what}"
                assert not FINAL.isdisjoint(states), f"{where}: it had not finished"
                # a job that has run does not wait again for one that was removed
                was_removed = start.attempt > 1 and self._last(other).what == "remove"
                if other in spec.after and not was_removed:
                    assert State.SUCCEEDED in states, f"{where}: it had not succeeded"

    def _check_expiry(self, job: int, spec: JobSpec) -> None:
        for begin, start in self._first_starts(job):
            if spec.expires is not None and start.attempt == 1:
                latest = begin.at + spec.expires + 0.01  # for two clocks
                assert start.at <= latest, f"job {job} started at {start.at} and not by {latest}"

    def _check_delay(self, job: int, spec: JobSpec) -> None:
        """A retried job waits for its date again, and not for its delay."""
        for before, event in pairwise(self.of_job[job]):
            if before.state in FINAL and event.state is State.SCHEDULED:
                assert spec.at is not None, f"job {job} waits for its delay again: {event}"

    # --- requests that were acknowledged ------------------------------------------------------------

    def _check_actions(self, job: int) -> None:
        """Nothing contrary happens to a job until another request may have undone the first."""
        for action, undone_at in self._done(job):
            meanwhile = [event for event in self.of_job[job] if action.answered_at < event.at < undone_at]
            whats = {event.what for event in meanwhile} - self._unasked
            match action.request:
                case Hold():
                    assert whats <= WHILE_HELD, f"job {job} was held, and then: {meanwhile}"
                case Cancel():
                    assert whats <= {"note", Move.CANCEL, Move.SUCCEED}, f"job {job}: {meanwhile}"
                    last = self._last(job).state
                    is_over = last in {State.CANCELLED, State.SUCCEEDED}
                    assert undone_at < self.rest_at or is_over, f"job {job} was cancelled, and is {last}"
                case Remove():
                    assert self._last(job).what == "remove"
                case Edit(changes=changes) if undone_at == self.rest_at and job in self.jobs:
                    assert self.jobs[job].name == changes.name, f"job {job} is not as edited"
                case Retry():
                    steps = pairwise(self.of_job[job])
                    assert any(before.state in FINAL and event.state in WAITING for before, event in steps)
                case _:
                    pass

    def _done(self, job: int) -> Iterator[tuple[Action, float]]:
        """Yield each acknowledged request for a job, and when the next one that may undo it was sent."""
        actions = self.actions_on[job]
        for index, action in enumerate(actions):
            if is_done(action, job):
                undo = UNDOES.get(type(action.request), ())
                later = (each.asked_at for each in actions[index + 1 :] if isinstance(each.request, undo))
                yield action, next(later, self.rest_at)

    # --- invariants between jobs ------------------------------------------------------------------------

    def _check_keys(self) -> None:
        """No two jobs ever have the same key, and who finds another one by its key finds one that has it."""
        holders: dict[str, int] = {}
        kept: dict[str, tuple[int, float]] = {}  # by finished jobs, and until when
        for event in self.events:
            spec = self.specs.get(event.job) or self.jobs.get(event.job)
            if spec is None or spec.key is None:
                continue
            key, has_started = spec.key, spec.key_until is KeyUntil.START and event.attempt > 0
            if event.state in FINAL or has_started:
                if holders.get(key) == event.job:
                    del holders[key]
                if kept.get(key, (None,))[0] == event.job:
                    del kept[key]
                if spec.key_for and event.what in {Move.SUCCEED, Move.GIVE_UP}:
                    kept[key] = event.job, min(event.at + spec.key_for, self._asked_to_remove_at(event.job))
            else:
                assert holders.setdefault(key, event.job) == event.job, f"two unfinished jobs have {key!r}"
                job, until = kept.get(key, (event.job, 0.0))
                is_over = event.at > until - KEY_SLACK or not self._has_times
                assert job == event.job or is_over, f"job {event.job} has {key!r} of job {job}, until {until}"
        if self._has_times:
            self._check_found()

    def _check_found(self) -> None:
        """A job that a submit found by its key had the key at some moment between request and reply."""
        for action in self.actions:
            for job in action.reply.found if isinstance(action.reply, Submitted) else ():
                spec = self.specs.get(job) or self.jobs.get(job)
                if spec is None:
                    continue
                events = self.of_job[job]
                freed = [event.at + (spec.key_for or 0.0) for event in events if event.state in FINAL]
                if spec.key_until is KeyUntil.START:
                    freed = [event.at for event in events if event.what == Move.START][:1]
                is_late = bool(freed) and action.asked_at > freed[-1] + KEY_SLACK
                assert not is_late, f"a submit found job {job}, which no longer has its key"

    def _check_pauses(self) -> None:
        """No job starts while its queue is paused."""
        starts = [event for event in self.events if event.what == Move.START]
        edited = self.edited_jobs()
        for queue in {action.request.queue for action in self.actions if isinstance(action.request, Pause)}:
            turns = [
                action
                for action in self.actions
                if isinstance(action.request, Pause | Resume | RemoveQueue) and action.request.queue == queue
            ]
            ends = [*turns[1:], None]
            for action, following in zip(turns, ends, strict=True):
                if isinstance(action.request, Pause) and is_done(action):
                    until = self.rest_at if following is None else following.asked_at
                    for start in starts:
                        if action.answered_at < start.at < until:
                            spec = self.specs.get(start.job) if start.job not in edited else None
                            assert spec is None or spec.queue != queue, f"{start} in the paused {queue}"

    def _check_starts(self, records: AttemptRecords) -> None:
        """Each attempt that wrote a record was started, and its recorded exit code is the reported one."""
        decided = {
            (event.job, event.attempt)
            for event in self.events
            if event.what == Move.START or event.outcome in LOST
        }
        assert records.starts.keys() <= decided
        for event in self.events:
            code = records.codes.get((event.job, event.attempt))
            if event.outcome == "succeeded":
                assert code == 0, f"{event}, but its script ended with {code}"
            elif event.outcome == "exit":
                assert code not in {0, None}, f"{event}, but its script ended with {code}"

    # --- lookups ------------------------------------------------------------------------------

    def _first_starts(self, job: int) -> Iterator[tuple[EventView, EventView]]:
        """Yield its submit and each retry, with the first start after that if there is one."""
        begin: EventView | None = None
        state = State.CANCELLED
        for event in self.of_job[job]:
            if state in FINAL and event.state not in FINAL:
                begin = event
            if event.what == Move.START and begin is not None:
                yield begin, event
                begin = None
            state = event.state

    def _states_between(self, job: int, begin: EventView, end: EventView) -> set[State]:
        """Return all states that a job had from one event to another."""
        asked_at = self._asked_at.get(begin.job, begin.at) if begin.what == "submit" else begin.at
        before = [event for event in self.of_job[job] if event.id < begin.id]
        since = [event.state for event in before[:-1] if event.at >= asked_at]  # it may have been read then
        first = [event.state for event in before if event.at < asked_at][-1:]
        last = [event.state for event in before[-1:]]
        between = [event.state for event in self.of_job[job] if begin.id < event.id < end.id]
        return {*first, *since, *last, *between}

    def _asked_to_remove_at(self, job: int) -> float:
        """Return when a client asked for the removal of a job, which frees its key at once; inf: it is there.

        The event comes later: it is the last of its transaction.
        """
        removed = self._last(job)
        if removed.what != "remove":
            return inf
        asked = [
            action.asked_at
            for action in self.actions
            if isinstance(action.request, Prune)
            or (isinstance(action.request, Remove) and job in action.request.jobs)
        ]
        return max((at for at in asked if at <= removed.at), default=removed.at)

    def _last(self, job: int) -> EventView:
        return self.of_job[job][-1]
