"""Compare what a daemon says about each job of a load with what the jobs recorded themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Self

from bgd.core.job import FINAL, Move, Outcome, State
from bgd.core.spec import JobSpec
from bgd.wire.views import AttemptView, EventView, JobView
from tests.end_to_end.chaos import Caller, Rig
from tests.end_to_end.checks import last_event, listed
from tests.end_to_end.load import Load
from tests.end_to_end.watcher import Watcher

CLOCKS = 0.01  # seconds; supervisor and launcher read clocks of their own
DEPENDENCY_FAILED = "dependency_failed"  # counted with the outcomes: cancelled because a dependency failed

Shown = tuple[JobView, list[AttemptView]]


class AttemptRecords:
    """What the attempts recorded themselves: starts, exit codes, and overlaps, which must not happen.

    `given`: of simulated ones, the results of other jobs that each got as arguments.
    """

    def __init__(self) -> None:
        self.starts: Counter[tuple[int, int]] = Counter()
        self.codes: dict[tuple[int, int], int] = {}
        self.given: dict[tuple[int, int], list[Any]] = {}

    def without(self, jobs: Collection[int]) -> AttemptRecords:
        """Return these records without those of some jobs."""
        rest = AttemptRecords()
        rest.starts = Counter({key: count for key, count in self.starts.items() if key[0] not in jobs})
        rest.codes = {key: code for key, code in self.codes.items() if key[0] not in jobs}
        return rest

    @classmethod
    def read(cls, path: Path) -> Self:
        records = cls()
        for line in path.read_text().splitlines():
            what, job, attempt, *code = line.split()
            assert what != "overlap", f"job {job} met another attempt of {attempt}, and there is room for one"
            key = int(job), int(attempt)
            if what == "start":
                records.starts[key] += 1
                assert records.starts[key] == 1, f"attempt {key} was started twice"
            else:
                assert key not in records.codes, f"attempt {key} ended twice"
                records.codes[key] = int(code[0])
        return records


def check_history(
    rig: Rig, load: Load, watcher: Watcher, *, may_be_unseen: bool, may_be_killed: bool = False
) -> Counter[str]:
    """Compare what the daemon says about each acknowledged job with what the jobs recorded themselves.

    `may_be_unseen` means that the launcher was killed too, so that attempts may have ended `unknown`.
    `may_be_killed` means that warm workers were killed, with the attempts that they ran or were starting.
    """
    jobs = sorted(load.acknowledged)
    allowed = {Outcome.UNKNOWN} if may_be_unseen else set()
    if may_be_killed:
        allowed |= {Outcome.SIGNAL, Outcome.UNKNOWN, Outcome.NOT_STARTED}
    with closing(Caller(rig.socket)) as caller:
        caller.wait([view.id for view in listed(rig, None)])  # and for those whose submit got no answer
        watcher.finish(last_event(rig))
        shown = {job: caller.show(job) for job in jobs}
    records = AttemptRecords.read(rig.folder / "truth")
    outcomes = Counter[str]()
    for job, spec in load.acknowledged.items():
        outcomes.update(_check_job(shown[job], spec, records, allowed))
        outcomes.update(_check_wait(job, spec, shown))
    _check_events(watcher.events, shown)
    return outcomes


def _check_job(shown: Shown, spec: JobSpec, records: AttemptRecords, allowed: set[Outcome]) -> list[str]:
    view, attempts = shown
    assert view.state in FINAL, f"job {view.id} has not finished"
    assert [attempt.attempt for attempt in attempts] == list(range(1, view.attempt + 1))
    for attempt in attempts:
        key = view.id, attempt.attempt
        _check_attempt(attempt, spec, records.starts[key], records.codes.get(key), allowed)
    if attempts:
        assert view.outcome == attempts[-1].outcome
        assert (view.state is State.SUCCEEDED) == (attempts[-1].outcome is Outcome.SUCCEEDED)
    return [str(attempt.outcome) for attempt in attempts]


def _check_attempt(
    attempt: AttemptView, spec: JobSpec, starts: int, code: int | None, allowed: set[Outcome]
) -> None:
    match attempt.outcome:
        case Outcome.SUCCEEDED | Outcome.EXIT:
            assert starts == 1
            assert attempt.exit_code == code
            assert spec.timeout is None, (
                f"a time limit was not kept: {attempt}"
            )  # such jobs never end by themselves
        case Outcome.TIMEOUT:  # on a busy machine perhaps before the script's first line
            assert code is None
            assert spec.timeout is not None
        case Outcome.UNKNOWN | Outcome.SIGNAL if attempt.outcome in allowed:
            assert starts <= 1
        case Outcome.NOT_STARTED if attempt.outcome in allowed:
            assert starts == 0
        case _:
            raise AssertionError(f"no job of the load can end like this: {attempt}")


def _check_wait(job: int, spec: JobSpec, shown: Mapping[int, Shown]) -> list[str]:
    """Check that no job started before the jobs it waits for had finished, or succeeded if it needs that."""
    view, attempts = shown[job]
    for other in (*spec.after, *spec.after_any):
        before, _ = shown[other]
        if other in spec.after and before.state is not State.SUCCEEDED:
            assert (view.state, attempts) == (State.CANCELLED, []), f"job {job} waited for {other}: {view}"
            return [DEPENDENCY_FAILED]
        assert attempts, f"job {job} has waited for {other}, and never ran: {view}"
        started_at = attempts[0].started_at
        assert before.finished_at is not None
        assert started_at is None or started_at > before.finished_at - CLOCKS, f"job {job} has not waited"
    return []


def _check_events(events: list[EventView], shown: Mapping[int, Shown]) -> None:
    """Check that each attempt started once and ended once, and that each job finished once."""
    starts, ends, finishes = Counter[tuple[int, int]](), Counter[tuple[int, int]](), Counter[int]()
    for event in events:
        starts[event.job, event.attempt] += event.what == Move.START
        ends[event.job, event.attempt] += event.outcome is not None
        finishes[event.job] += event.state in FINAL and event.what != "note"
    for job, (_, attempts) in shown.items():
        assert finishes[job] == 1, f"job {job} finished {finishes[job]} times"
        for attempt in attempts:
            key = job, attempt.attempt
            assert (starts[key], ends[key]) == (1, 1), (
                f"attempt {key}: started, ended {starts[key], ends[key]}"
            )
