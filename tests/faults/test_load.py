"""Very many jobs, retries and reloads: nothing leaks, nothing is lost, and others are served meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from bgd.core.job import State
from bgd.core.spec import JobSpec
from bgd.wire.replies import Reloaded, Submitted
from bgd.wire.requests import Reload, SubmitMany
from tests.end_to_end.chaos import Caller, Rig
from tests.end_to_end.test_leaks import DRIFT, figures_of, has_at_most
from tests.faults.figures import record, seconds, times
from tests.faults.watching import Bystander
from tests.support import wait_until

TRUE = JobSpec(argv=("/bin/true",), env={}, cwd="/")
CALL = JobSpec(target="work:f", cwd="/", retries=0)
CLASSES = '[security]\nallowed_classes = ["work.*"]\n[python]\npath = ["{folder}"]\npreload = ["json"]\n'
ONCE = 1000  # jobs that are submitted together
JITTER = 0.1


def test_ten_thousand_jobs_leave_nothing_behind(tmp_path: Path):
    rig = Rig(tmp_path, slots=8)
    rig.start()
    try:
        pids = rig.pid, rig.launcher_pid()
        with closing(Caller(rig.socket)) as caller:
            finish(caller, [TRUE] * ONCE)  # modules and caches that are loaded once
            before = [figures_of(pid) for pid in pids]
            count = times(10_000, ONCE)
            for _ in range(count // ONCE):
                finish(caller, [TRUE] * ONCE)
            for pid, old in zip(pids, before, strict=True):
                wait_until(partial(has_at_most, pid, old.descriptors))
            after = [figures_of(pid) for pid in pids]
    finally:
        rig.close()
    grown = [new.memory - old.memory for new, old in zip(after, before, strict=True)]
    assert [new.zombies for new in after] == [0, 0]
    assert max(grown) < DRIFT, f"grown by {grown} KiB"
    record(
        "short jobs, one after the other, in 8 slots",
        jobs=count,
        zombies=0,
        descriptors_more=0,
        daemon_grown_by_KiB=grown[0],
        launcher_grown_by_KiB=grown[1],
    )


def test_jobs_that_fail_together_are_not_retried_together(tmp_path: Path):
    count, delay = times(5000, 300), seconds(30.0, 4.0)
    failing = JobSpec(
        argv=("/bin/false",), env={}, cwd="/", retries=1, retry_delay=delay, jitter=JITTER, backoff=1.0
    )
    rig = Rig(tmp_path, slots=32)
    rig.start()
    try:
        with Bystander(rig) as bystander, closing(Caller(rig.socket)) as caller:
            pauses = [pause_of(caller, job) for job in finish(caller, [failing] * count)]
    finally:
        rig.close()
    shortest, longest = min(pauses), max(pauses)
    assert shortest >= delay * (1 - JITTER)
    spread = sorted(pauses)[count * 9 // 10] - sorted(pauses)[count // 10]
    assert spread > delay * JITTER  # of the middle 80 %; jitter spreads all over twice that
    record(
        f"jobs fail together and are tried again after {delay:g} s, spread by {JITTER:g} of that",
        jobs=count,
        shortest_pause_in_s=f"{shortest:.1f}",
        longest=f"{longest:.1f}",
        p99_of_others_in_ms=bystander.p99,
    )


def test_a_storm_of_reloads_disturbs_no_job(tmp_path: Path):
    count, reloads = times(1000, 100), times(50, 20)
    with classes(tmp_path) as rig, Bystander(rig) as bystander, closing(Caller(rig.socket)) as caller:
        submitted = caller.ask(SubmitMany(id=1, specs=[TRUE, CALL] * count))
        assert isinstance(submitted, Submitted)
        with closing(Caller(rig.socket)) as other:
            for number in range(reloads):
                os.kill(rig.pid, signal.SIGHUP)
                assert isinstance(other.ask(Reload(number)), Reloaded)
        caller.wait(submitted.jobs)
        assert {ends_of(caller, job) for job in submitted.jobs} == {(State.SUCCEEDED, 1)}
    record(
        "the configuration is reloaded again and again, by signal and by request, while jobs run",
        reloads=2 * reloads,
        jobs=2 * count,
        failed=0,
        p99_of_others_in_ms=bystander.p99,
    )


def test_a_thousand_class_jobs_run_at_once(tmp_path: Path):
    with classes(tmp_path) as rig, Bystander(rig) as bystander, closing(Caller(rig.socket)) as caller:
        jobs = finish(caller, [CALL] * times(1000, 200))
        assert {ends_of(caller, job) for job in jobs} == {(State.SUCCEEDED, 1)}
    record(
        "class jobs are submitted at once, a forked process each, 8 slots",
        jobs=len(jobs),
        failed=0,
        p99_of_others_in_ms=bystander.p99,
    )


@contextmanager
def classes(folder: Path) -> Iterator[Rig]:
    """A daemon whose folder has the module of a class job."""
    (folder / "work.py").write_text("def f():\n    return 1\n")
    rig = Rig(folder, slots=8, more=CLASSES.format(folder=folder))
    rig.start()
    try:
        yield rig
    finally:
        rig.close()


def finish(caller: Caller, specs: list[JobSpec]) -> list[int]:
    submitted = caller.ask(SubmitMany(id=1, specs=specs))
    assert isinstance(submitted, Submitted), submitted
    caller.wait(submitted.jobs)
    return submitted.jobs


def ends_of(caller: Caller, job: int) -> tuple[State, int]:
    view, attempts = caller.show(job)
    return view.state, len(attempts)


def pause_of(caller: Caller, job: int) -> float:
    """Return the seconds between a job's two attempts."""
    first, second = caller.show(job)[1]
    assert first.finished_at is not None
    assert second.started_at is not None
    return second.started_at - first.finished_at
