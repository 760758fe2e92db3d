"""Holds what people asked for, and were told, against what the daemon says has happened to each job."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice, pairwise

from msgspec import UNSET

from bgd.core.job import FINAL, MOVES, WAITING, Move, State
from bgd.core.spec import JobSpec
from bgd.wire.replies import Submitted
from bgd.wire.requests import (
    Cancel,
    Edit,
    Hold,
    Pause,
    Release,
    Remove,
    RemoveQueue,
    Resume,
    Retry,
    Submit,
    SubmitMany,
)
from bgd.wire.views import EventView, JobView
from tests.end_to_end.people import Deed, is_done
from tests.end_to_end.truth import Truth

OVER = {Move.SUCCEED, Move.GIVE_UP, Move.CANCEL, Move.RETRY, Move.REQUEUE}  # an attempt ends by these

UNDOES: dict[type, tuple[type, ...]] = {
    Hold: (Release, Cancel, Retry, Remove),
    Cancel: (Retry, Remove),
    Edit: (Edit, Remove),
}


class History:
    """All that was asked, and all that happened.

    Args:
        deeds: of all people, each person's in order.
        events: all there were.
        jobs: as they are at the end, by id; removed ones are absent.
        rest_at: when whatever still waited was let go, so that all would finish.
        has_times: the wall clock was not set meanwhile, so that times can be compared.
    """

    def __init__(
        self,
        deeds: list[Deed],
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
        self.deeds = deeds
        self.deeds_to: dict[int, list[Deed]] = defaultdict(list)
        for deed in deeds:
            if isinstance(deed.request, Submit | SubmitMany):
                self._take_new(deed)
            else:
                for job in getattr(deed.request, "jobs", ()):
                    self.deeds_to[job].append(deed)

    def edited_jobs(self) -> set[int]:
        """Return the jobs that may be other than they were submitted."""
        return {
            job
            for job, deeds in self.deeds_to.items()
            if any(isinstance(deed.request, Edit) for deed in deeds)
        }

    def check(self, truth: Truth) -> Counter[str]:
        """Check all of it; return what there was, for a look at whether it was worth it."""
        for before, after in pairwise(self.events):
            assert before.id < after.id
        for job in self.of_job:
            self._check_life(job)
        for job, spec in self.specs.items():
            assert job in self.of_job, f"job {job} was acknowledged and is lost"
            self._check_waits(job, spec)
            if self._has_times:
                self._check_expiry(job, spec)
        if self._has_times:
            for job in self.deeds_to:
                self._check_deeds(job)
            self._check_pauses()
        self._check_keys()
        self._check_starts(truth)
        done = Counter(type(deed.request).__name__ for deed in self.deeds if is_done(deed))
        return done + Counter(event.what for event in self.events)

    def _take_new(self, deed: Deed) -> None:
        """Remember what the jobs of a deed were to be that made new ones, and said so."""
        if isinstance(deed.reply, Submitted):
            request = deed.request
            specs = [request.spec] if isinstance(request, Submit) else getattr(request, "specs", [])
            for job, spec in zip(deed.reply.jobs, specs, strict=True):
                # of two with one key in a batch the first may be new, and found for the second
                if (
                    deed.reply.jobs.count(job) > deed.reply.found.count(job)
                    and self.specs.get(job) is not spec
                ):
                    others = self.specs.keys() - deed.reply.jobs
                    assert job not in others, "an id was given out twice"
                    self.specs.setdefault(job, spec)

    # --- what holds for every job ---------------------------------------------------------------------

    def _check_life(self, job: int) -> None:
        """Every step is a move that the table has, each attempt starts once and ends once."""
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
            if event.what == Move.START:
                attempt += 1
            assert event.attempt == attempt
            has_ended = event.what in OVER and state in {State.RUNNING, State.STOPPING}
            assert (event.outcome is not None) == has_ended, f"job {job}: {event}"
            state = event.state
        assert self.jobs[job].state is state
        assert state in FINAL, f"job {job} has not finished"

    def _check_waits(self, job: int, spec: JobSpec) -> None:
        """No job has started before what it had to wait for; `after` means success."""
        after_any = set(spec.after_any)
        for deed in self.deeds_to[job]:
            if isinstance(deed.request, Edit) and deed.request.changes.after_any is not UNSET:
                after_any = set()  # it may have been asked before, or after, it was too late
        for start in self._first_start_unasked(job):
            for other in {*spec.after, *after_any}:
                ends = [event for event in self.of_job[other] if event.id < start.id and event.state in FINAL]
                assert ends, f"job {job} started before job {other} had finished"
                if other in spec.after:
                    assert any(end.state is State.SUCCEEDED for end in ends)

    def _check_expiry(self, job: int, spec: JobSpec) -> None:
        for start in self._first_start_unasked(job):
            if spec.expires is not None:
                assert start.at <= self.of_job[job][0].at + spec.expires + 0.01  # s; two clocks are read

    # --- what was asked, and said to be done ----------------------------------------------------------

    def _check_deeds(self, job: int) -> None:
        """Nothing happened to a job between what was done and what may have undone it."""
        for deed, undone_at in self._done(job):
            meanwhile = [event for event in self.of_job[job] if deed.answered_at < event.at < undone_at]
            whats = {event.what for event in meanwhile}
            match deed.request:
                case Hold():
                    assert whats <= {"note", Move.CANCEL}, f"job {job} was held, and then: {meanwhile}"
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
                    assert any(event.what == Move.REVIVE for event in self.of_job[job])
                case _:
                    pass

    def _done(self, job: int) -> Iterator[tuple[Deed, float]]:
        """Give each deed to a job that was done, and when the next one was asked that may undo it."""
        deeds = self.deeds_to[job]
        for index, deed in enumerate(deeds):
            if is_done(deed, job):
                undo = UNDOES.get(type(deed.request), ())
                later = (each.asked_at for each in deeds[index + 1 :] if isinstance(each.request, undo))
                yield deed, next(later, self.rest_at)

    # --- what holds between jobs ----------------------------------------------------------------------

    def _check_keys(self) -> None:
        """No two unfinished jobs have one key at any time."""
        holders: dict[str, int] = {}
        for event in self.events:
            spec = self.specs.get(event.job)
            key = spec.key if spec is not None else self._key_of(event.job)
            if key is None:
                continue
            if event.state in FINAL:
                if holders.get(key) == event.job:
                    del holders[key]
            else:
                assert holders.setdefault(key, event.job) == event.job, f"two unfinished jobs have {key!r}"

    def _check_pauses(self) -> None:
        """No job of a queue starts while it is paused."""
        starts = [event for event in self.events if event.what == Move.START]
        edited = self.edited_jobs()
        for lane in {deed.request.queue for deed in self.deeds if isinstance(deed.request, Pause)}:
            turns = [
                deed
                for deed in self.deeds
                if isinstance(deed.request, Pause | Resume | RemoveQueue) and deed.request.queue == lane
            ]
            ends = [*turns[1:], None]
            for deed, following in zip(turns, ends, strict=True):
                if isinstance(deed.request, Pause) and is_done(deed):
                    until = self.rest_at if following is None else following.asked_at
                    for start in starts:
                        if deed.answered_at < start.at < until:
                            spec = self.specs.get(start.job) if start.job not in edited else None
                            assert spec is None or spec.queue != lane, f"{start} in the paused {lane}"

    def _check_starts(self, truth: Truth) -> None:
        """What the attempts wrote down themselves has been started, and their codes are the true ones."""
        decided = {(event.job, event.attempt) for event in self.events if event.what == Move.START}
        assert truth.starts.keys() <= decided
        for event in self.events:
            code = truth.codes.get((event.job, event.attempt))
            if event.outcome == "succeeded":
                assert code == 0, f"{event}, but its script ended with {code}"
            elif event.outcome == "exit":
                assert code not in {0, None}, f"{event}, but its script ended with {code}"

    # --- looking things up ----------------------------------------------------------------------------

    def _first_start_unasked(self, job: int) -> list[EventView]:
        """Return the first start, or nothing: who revives a job does not want it to wait any more."""
        steps = (event for event in self.of_job[job] if event.what in {Move.START, Move.REVIVE})
        return [event for event in islice(steps, 1) if event.what == Move.START]

    def _last(self, job: int) -> EventView:
        return self.of_job[job][-1]

    def _key_of(self, job: int) -> str | None:
        view = self.jobs.get(job)
        return None if view is None else view.key
