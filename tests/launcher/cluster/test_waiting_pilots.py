"""Pilots that wait in Slurm. They are real, Slurm is scripts, and this machine its only node."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from msgspec.structs import replace

from bgd.core.explain import Cause
from bgd.core.job import EXPIRED, Outcome
from bgd.system.clock import elapsed
from bgd.wire.launching import AttemptStarted
from tests.launcher.host import is_alive
from tests.support import wait_until


@pytest.fixture
def supervisor(host, slurm):
    host.start()
    supervisor = host.supervise()
    supervisor.usual = {"slurm": slurm.own_pilot}
    (slurm.folder / "pending").write_text("Resources")
    return supervisor


def wait_in_slurm(supervisor, *jobs) -> None:
    """Return once Slurm has said why each of these jobs waits."""
    left = set(jobs)
    while left:
        message = supervisor.hear()
        if isinstance(message, AttemptStarted) and (reason := message.waits) is not None:
            left -= {message.key} if (reason.cause, reason.problem) == (Cause.NODE, "Resources") else set()


def test_a_job_whose_waiting_pilot_is_cancelled_in_slurm_is_cancelled_and_not_submitted_again(
    supervisor, slurm
):
    job = supervisor.launch("true")
    wait_in_slurm(supervisor, job)
    [pilot] = slurm.pilots
    os.killpg(pilot, signal.SIGKILL)

    ended = supervisor.ended(job)

    assert (ended.outcome, ended.started_at) == (Outcome.CANCELLED, None)
    assert ended.problem == "Slurm says that its allocation was cancelled before it began: CANCELLED"
    assert slurm.count("sbatch") == 1


def test_jobs_whose_shared_pilot_is_cancelled_while_it_waits_wait_before_the_next_is_submitted(
    supervisor, slurm
):
    job = supervisor.launch("true", slurm=slurm.pilot_start)
    wait_in_slurm(supervisor, job)
    [pilot] = slurm.pilots
    os.killpg(pilot, signal.SIGKILL)

    words = "Slurm says that its allocation was cancelled before it began: CANCELLED"
    while (waits := supervisor.started(job).waits) is None or waits.problem != words:
        pass

    assert slurm.count("sbatch") == 1


def test_a_job_begins_soon_after_its_pilot_however_long_it_waited(supervisor, slurm):
    job = supervisor.launch("true")
    wait_in_slurm(supervisor, job)
    wait_until(lambda: slurm.count("squeue") >= 4)  # the next one would follow after eight seconds

    began = elapsed()
    (slurm.folder / "pending").unlink()

    assert supervisor.ended(job).outcome is Outcome.SUCCEEDED
    assert elapsed() - began < 6.0  # of which most is the start of the pilot


def test_pilots_that_wait_share_the_answers_of_squeue(supervisor, slurm):
    jobs = [supervisor.launch("sleep", "1000") for _ in range(12)]
    wait_in_slurm(supervisor, *jobs)
    wait_until(lambda: slurm.count("sbatch") == len(jobs))
    before, began = slurm.count("squeue"), elapsed()

    wait_until(lambda: elapsed() - began > 3.0)

    assert slurm.count("squeue") - before <= 6  # each asked by itself: 24


def test_the_launcher_sleeps_while_a_pilot_that_may_never_idle_waits(host, supervisor, slurm):
    impatient = replace(slurm.pilot_start, pilot=replace(slurm.pilot_start.pilot, keep_idle=0.0))
    job = supervisor.launch("true", slurm=impatient)
    wait_in_slurm(supervisor, job)
    before, looks = reads_of(host), slurm.count("squeue")

    wait_until(lambda: slurm.count("squeue") >= looks + 2)

    assert reads_of(host) - before < 1000  # some two hundred; without sleep thousands a second
    (slurm.folder / "pending").unlink()
    assert supervisor.ended(job).outcome is Outcome.SUCCEEDED
    wait_until(lambda: not slurm.pilots)


def reads_of(host) -> int:
    """Return how often the latest launcher has called read."""
    io = Path(f"/proc/{host.launchers[-1].pid}/io").read_text()
    return int(dict(line.split(": ") for line in io.splitlines())["syscr"])


def test_a_job_expires_while_its_pilot_waits_and_the_pilot_goes(supervisor, slurm):
    late = supervisor.launch("true", start_by=elapsed() + 1.0)
    wait_in_slurm(supervisor, late)
    shared = supervisor.launch("true", slurm=slurm.pilot_start, start_by=elapsed() + 0.5)
    [pilot, *_] = slurm.pilots

    ends = supervisor.all_ended([late, shared])

    assert {(each.outcome, each.problem, each.started_at) for each in ends} == {
        (Outcome.CANCELLED, EXPIRED, None)
    }
    wait_until(lambda: not is_alive(pilot))


def test_a_job_that_has_a_pilot_does_not_expire(supervisor, slurm):
    (slurm.folder / "pending").unlink()
    assert supervisor.run("true", slurm=slurm.pilot_start).outcome is Outcome.SUCCEEDED
    start_by = elapsed() + 2.0
    gate = slurm.folder / "gate"
    os.mkfifo(gate)
    job = supervisor.launch(
        "sh", "-c", f"read code <{gate}; exit $code", start_by=start_by, slurm=slurm.pilot_start
    )
    wait_until(lambda: supervisor.started(job).pid)

    wait_until(lambda: elapsed() > start_by + 0.2)
    gate.write_text("3\n")

    assert supervisor.ended(job).exit_code == 3


def test_an_idle_pilot_ends_as_soon_as_another_waits_for_nodes(supervisor, slurm):
    (slurm.folder / "pending").unlink()
    assert supervisor.run("true", slurm=slurm.pilot_start).outcome is Outcome.SUCCEEDED
    [idle] = slurm.pilots
    (slurm.folder / "pending").write_text("BeginTime")
    job = supervisor.launch("true")
    wait_until(lambda: slurm.count("sbatch") == 2)
    assert is_alive(idle)

    (slurm.folder / "pending").write_text("Resources")

    wait_until(lambda: not is_alive(idle))
    (slurm.folder / "pending").unlink()
    assert supervisor.ended(job).outcome is Outcome.SUCCEEDED
