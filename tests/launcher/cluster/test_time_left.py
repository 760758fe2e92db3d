"""Allocations that end or are suspended, and drained nodes. Pilots are real, Slurm is scripts."""

from __future__ import annotations

import os

import pytest
from msgspec.structs import replace

from bgd.core.job import Outcome
from bgd.wire.launching import AttemptStarted
from tests.launcher.host import is_alive
from tests.support import wait_until


@pytest.fixture
def supervisor(host, slurm):
    host.start()
    supervisor = host.supervise()
    supervisor.usual = {"slurm": slurm.pilot_start}
    return supervisor


def why_it_waits(supervisor, job, words: str) -> AttemptStarted:
    """Return once the reason why a job waits has these words."""
    while True:
        message = supervisor.hear()
        if isinstance(message, AttemptStarted) and message.key == job:
            reason = message.waits.problem if message.waits is not None else None
            if words in (reason or ""):
                return message


def test_jobs_that_take_longer_than_an_allocation_has_left_wait_for_the_next(supervisor, slurm):
    (slurm.folder / "limit").write_text("9")
    jobs = [supervisor.launch("sleep", "2", timeout=3.0, grace=0.0) for _ in range(12)]

    ends = supervisor.all_ended(jobs)

    assert [each.outcome for each in ends] == [Outcome.SUCCEEDED] * len(jobs)
    assert slurm.count("sbatch") >= 2


def test_a_job_without_a_time_limit_is_given_as_long_as_those_of_its_name_took(supervisor, slurm):
    (slurm.folder / "limit").write_text("12")
    named = replace(slurm.full_pilot, pilot=replace(slurm.full_pilot.pilot, name="report"))

    # a quarter is three seconds, and the second would begin when nearly twice as many are left
    ends = supervisor.all_ended([supervisor.launch("sleep", "6", slurm=named) for _ in range(3)])

    assert [each.outcome for each in ends] == [Outcome.SUCCEEDED] * 3


def test_a_job_that_may_take_longer_than_any_allocation_runs_on_a_new_one(supervisor, slurm):
    (slurm.folder / "limit").write_text("20")

    ended = supervisor.run("true", timeout=1000.0)

    assert ended.outcome is Outcome.SUCCEEDED
    assert slurm.count("sbatch") == 1


def test_the_next_pilot_is_asked_for_before_the_time_of_one_is_over(supervisor, slurm):
    (slurm.folder / "limit").write_text("30")
    gate = slurm.folder / "gate"
    os.mkfifo(gate)
    first = supervisor.launch("sh", "-c", f"read code <{gate}; exit $code", slurm=slurm.full_pilot)
    wait_until(lambda: supervisor.started(first).pid)

    waiting = supervisor.launch("true", timeout=20.0, grace=0.0)  # for which it has time for ten seconds

    assert supervisor.ended(waiting).outcome is Outcome.SUCCEEDED
    assert slurm.count("sbatch") == 2
    gate.write_text("3\n")
    assert supervisor.ended(first).exit_code == 3


def test_an_allocation_without_a_limit_takes_any_job(supervisor):
    assert supervisor.run("true", timeout=1e6).outcome is Outcome.SUCCEEDED


def test_a_pilot_on_a_drained_node_takes_no_more_jobs_and_ends_after_its_last(host, supervisor, slurm):
    gate = slurm.folder / "gate"
    os.mkfifo(gate)
    job = supervisor.launch("sh", "-c", f"read code <{gate}; exit $code")
    wait_until(lambda: supervisor.started(job).pid)
    [pilot] = slurm.pilots
    (slurm.folder / "drained").write_text("n1|draining|kernel | update\nn7|drained*|disk\n")
    (slurm.folder / "pending").write_text("Resources")
    host.kill()  # the next launcher asks at once
    host.start()
    after = host.supervise(2)

    waiting = after.launch("true", slurm=slurm.pilot_start)
    words = "maintenance of node n1 (draining): kernel | update"
    why_it_waits(after, waiting, f"Resources; {words}")
    assert is_alive(pilot)
    gate.write_text("3\n")
    assert after.ended(job).exit_code == 3
    wait_until(lambda: not is_alive(pilot))

    (slurm.folder / "drained").unlink()
    (slurm.folder / "pending").unlink()
    assert after.ended(waiting).outcome is Outcome.SUCCEEDED
    assert slurm.count("sbatch") == 2


def test_a_job_whose_allocation_is_suspended_says_so_and_the_next_pilot_runs_others(host, supervisor, slurm):
    gate = slurm.folder / "gate"
    os.mkfifo(gate)
    job = supervisor.launch("sh", "-c", f"read code <{gate}; exit $code")
    wait_until(lambda: supervisor.started(job).pid)
    [pilot] = slurm.pilots
    (slurm.folder / "suspended").write_text("1")  # and the launcher asks as soon as it starts
    host.kill()
    host.start()
    after = host.supervise(2)
    why_it_waits(after, job, "SUSPENDED")

    other = after.launch("sh", "-c", "exit 5", slurm=slurm.pilot_start)
    assert after.ended(other).exit_code == 5
    assert is_alive(pilot)

    (slurm.folder / "suspended").unlink()
    gate.write_text("3\n")
    assert after.ended(job).exit_code == 3
