"""The launcher and its pilots, which are real. Slurm is scripts, and this machine its only node."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from bgd.core.job import Outcome
from bgd.launcher import journal
from bgd.wire.launching import AttemptEnded
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


def test_jobs_go_to_the_cluster_that_is_configured_and_pilots_of_before_stay_on_theirs(supervisor, slurm):
    sbatch = slurm.folder / "sbatch"
    sbatch.write_text(sbatch.read_text().replace('echo "$*"', 'echo "$SLURM_CONF $*"'))
    elsewhere = replace(
        slurm.pilot_start,
        conf="/elsewhere/slurm.conf",
        variables={**slurm.pilot_start.variables, "SLURM_CONF": "/elsewhere/slurm.conf"},
    )
    go = slurm.folder / "go"
    os.mkfifo(go)
    before = supervisor.launch("sh", "-c", f"read line <{go}; exit 3")
    wait_until(lambda: supervisor.started(before).pid)

    assert supervisor.run("true", slurm=elsewhere).outcome is Outcome.SUCCEEDED
    assert supervisor.run("true", slurm=elsewhere).outcome is Outcome.SUCCEEDED

    go.write_text("go\n")
    assert supervisor.ended(before).exit_code == 3
    confs = [line.partition(" ")[0] for line in (slurm.folder / "sbatchs").read_text().splitlines()]
    assert confs == ["", "/elsewhere/slurm.conf"]


@needs_strace
def test_a_later_launcher_finds_a_job_on_the_cluster_that_took_it(host, supervisor, slurm):
    """The job waited, and the cluster that is configured changed meanwhile."""
    gates = [slurm.folder / name for name in ("first", "waits")]
    for gate in gates:
        os.mkfifo(gate)
    first = supervisor.launch("sh", "-c", f"read code <{gates[0]}; exit $code", slurm=slurm.full_pilot)
    wait_until(lambda: supervisor.started(first).pid)
    runs = slurm.folder / "runs"
    waits = supervisor.launch("sh", "-c", f": >{runs}; read code <{gates[1]}; exit $code")
    (slurm.folder / "other").mkdir(mode=0o700)
    other = {"conf": "/elsewhere/slurm.conf", "folder": f"{slurm.folder}/other"}
    assert supervisor.run("true", slurm=replace(slurm.pilot_start, **other)).outcome is Outcome.SUCCEEDED
    wait_until(runs.exists)

    host.kill()
    host.start()
    after = host.supervise(2)

    assert not isinstance(after.snapshot[waits], AttemptEnded)
    for job, gate, code in zip((first, waits), gates, (3, 4), strict=True):
        gate.write_text(f"{code}\n")
        assert after.ended(job).exit_code == code


def test_a_pilot_is_submitted_as_soon_as_the_machine_has_a_process_for_it(host, supervisor, tamper):
    tamper("clone3,vfork", "error=EAGAIN:when=1")

    assert supervisor.run("true").outcome is Outcome.SUCCEEDED
    assert "cannot be started yet: no more processes are allowed" in host.said


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
        wait_until(lambda: "cannot be stored yet: too many files are open" in host.said)

    ended = supervisor.ended(job)
    assert (ended.exit_code, ended.problem, host.output(job)) == (3, None, b"ran\n")
    assert slurm.count("srun") == 1


@needs_strace
def test_a_full_disk_at_the_end_of_a_job_keeps_no_room_of_its_pilot(host, supervisor, slurm, tamper):
    os.mkfifo(host.state / "go")
    job = supervisor.launch("sh", "-c", "read line <go; exit 3", cwd=str(host.state), slurm=slurm.full_pilot)
    wait_until(lambda: supervisor.started(job).pid)

    tamper("write", "error=ENOSPC:when=1", "-P", str(host.journal))
    (host.state / "go").write_text("go\n")

    assert supervisor.ended(job).exit_code == 3
    assert "cannot write the end" in host.said
    assert supervisor.run("sh", "-c", "exit 4", slurm=slurm.full_pilot).exit_code == 4
    assert slurm.count("sbatch") == 1


@needs_strace
def test_a_job_that_ended_on_a_pilot_does_not_run_again_after_a_power_failure(
    host, supervisor, slurm, tamper
):
    runs = host.state / "runs"
    os.mkfifo(host.state / "go")
    script = f"echo ran >>{runs}; read line <go; exit 3"
    job = supervisor.launch("sh", "-c", script, cwd=str(host.state))
    wait_until(lambda: supervisor.started(job).pid)
    on_disk = host.journal.read_bytes()
    tamper("fsync,fdatasync", "error=EIO", "-f")  # so nothing of what follows
    (host.state / "go").write_text("go\n")
    assert supervisor.ended(job).exit_code == 3
    supervisor.run("true")  # the pilot has handled what it was told before
    (host.state / "go").unlink()
    (host.state / "go").write_text("go\n")

    host.kill()
    host.journal.write_bytes(on_disk)
    host.start()

    after = host.supervise(2)
    ended = after.snapshot[job]
    if not isinstance(ended, AttemptEnded):
        ended = after.ended(job)
    assert (ended.outcome, ended.exit_code) == (Outcome.EXIT, 3)
    assert runs.read_text() == "ran\n"
    after.usual = supervisor.usual
    assert after.run("true").outcome is Outcome.SUCCEEDED
    assert slurm.count("sbatch") == 1


def test_a_pilot_forgets_jobs_once_their_ends_are_on_the_disk(supervisor, slurm):
    supervisor.all_ended([supervisor.launch("true") for _ in range(3)])

    [its_journal] = slurm.shared.glob("*-pilot-*/launcher.journal")
    wait_until(lambda: not journal.read(its_journal).attempts)


MEMORY = Path("/sys/fs/cgroup/memory")  # of version 1, with which Slurm may limit an allocation


@pytest.fixture
def limited_memory():
    """Yield a control group of 100 MB."""
    group = MEMORY / f"bgd-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text("100000000")
    except OSError as error:
        pytest.skip(f"NOT RUN: no memory limit by control groups of version 1 here: {error}")
    yield group
    wait_until(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


def test_a_job_that_uses_up_the_memory_of_a_shared_pilot_is_out_of_memory(supervisor, slurm, limited_memory):
    sbatch = slurm.folder / "sbatch"
    sbatch.write_text(
        sbatch.read_text().replace("setsid sh", f"echo 0 >{limited_memory}/cgroup.procs; setsid sh")
    )

    ended = supervisor.run(sys.executable, "-c", "taken = b'x' * 300_000_000")
    killed = supervisor.shell("kill -9 $$")

    assert (ended.outcome, killed.outcome) == (Outcome.OOM, Outcome.SIGNAL)
    assert ended.problem == "the allocation of its pilot was out of memory, and the kernel killed it"
    slurm.end()
