"""The launcher and its pilots, which are real. Slurm is scripts, and this machine its only node."""

from __future__ import annotations

import os

import pytest

from bgd.core.job import Outcome
from tests.launcher.host import needs_strace, without_descriptors
from tests.support import wait_until


@pytest.fixture
def supervisor(host, slurm):
    host.start()
    supervisor = host.supervise()
    supervisor.usual = {"slurm": slurm.pilot_start}
    return supervisor


def test_a_pilot_runs_one_job_after_the_other(host, supervisor, slurm):
    ends = [supervisor.shell(f"echo {number}; exit {number}") for number in range(3)]

    assert [each.exit_code for each in ends] == [0, 1, 2]
    assert [host.output(each.key) for each in ends] == [b"0\n", b"1\n", b"2\n"]
    assert slurm.count("sbatch") == 1


@needs_strace
def test_a_pilot_is_submitted_as_soon_as_the_machine_has_a_process_for_it(host, supervisor, tamper):
    tamper("clone3,vfork", "error=EAGAIN:when=1")

    assert supervisor.run("true").outcome is Outcome.SUCCEEDED
    assert "cannot be started yet: Resource temporarily unavailable" in host.said


def test_a_pilot_is_submitted_again_if_slurms_program_had_no_thread(supervisor, slurm):
    refusal = slurm.folder / "refusal"
    refusal.write_text("sbatch: fatal: pthread_create error Resource temporarily unavailable\n")
    job = supervisor.launch("true")
    wait_until(lambda: slurm.count("sbatch") > 1)

    refusal.unlink()

    assert supervisor.ended(job).outcome is Outcome.SUCCEEDED


def test_without_descriptors_output_waits_and_the_connection_to_its_pilot_stays(host, supervisor, slurm):
    os.mkfifo(host.state / "go")
    job = supervisor.launch("sh", "-c", "read line <go; echo ran; exit 3", cwd=str(host.state))
    wait_until(lambda: supervisor.started(job).pid)

    with without_descriptors(host):
        (host.state / "go").write_text("go\n")
        wait_until(lambda: "cannot be stored yet: Too many open files" in host.said)

    ended = supervisor.ended(job)
    assert (ended.exit_code, ended.problem, host.output(job)) == (3, None, b"ran\n")
    assert slurm.count("srun") == 1
