"""Jobs that get a pilot of their own. Pilots are real, Slurm is scripts, and this machine its only node."""

from __future__ import annotations

import os
import signal
import sys

import pytest
from msgspec.structs import replace

from bgd.core.explain import Cause
from bgd.core.job import Outcome
from bgd.wire.launching import AttemptKey, AttemptStarted, StopProcesses
from tests.launcher.host import is_alive
from tests.support import wait_until


@pytest.fixture
def supervisor(host, slurm):
    host.start()
    supervisor = host.supervise()
    supervisor.usual = {"slurm": slurm.own_pilot}
    return supervisor


def folders(slurm):
    return list(slurm.shared.glob("bgd-*"))


def test_each_job_gets_an_allocation_that_ends_with_it_and_leaves_nothing(host, supervisor, slurm):
    jobs = [supervisor.launch("sh", "-c", f"echo on $SLURMD_NODENAME; exit {code}") for code in (0, 3)]

    ends = {each.key: each for each in supervisor.all_ended(jobs)}

    assert [ends[job].exit_code for job in jobs] == [0, 3]
    assert [host.output(job) for job in jobs] == [b"on n1\n"] * 2
    assert slurm.count("sbatch") == 2
    wait_until(lambda: not slurm.pilots and not folders(slurm))


def test_a_job_that_is_too_large_for_the_pilots_there_are_gets_one_of_its_own(supervisor, slurm):
    supervisor.run("true", slurm=slurm.pilot_start)
    large = replace(slurm.pilot_start, pilot=replace(slurm.pilot_start.pilot, cpus=3))  # the node has two

    assert supervisor.run("sh", "-c", "exit 5", slurm=large).exit_code == 5
    assert supervisor.run("true", slurm=slurm.pilot_start).outcome is Outcome.SUCCEEDED
    assert slurm.count("sbatch") == 2


def test_a_job_sees_all_that_slurm_says_of_its_own_allocation_and_nothing_of_another(supervisor, slurm, host):
    supervisor.usual["env"] = {"SLURM_JOB_ID": "of the sender", "PATH": "/usr/bin:/bin"}

    alone = supervisor.run("sh", "-c", "echo $SLURM_CPUS_ON_NODE $SLURM_JOB_ID")
    shared = supervisor.run("sh", "-c", "echo $SLURM_CPUS_ON_NODE $SLURM_JOB_ID", slurm=slurm.pilot_start)

    assert (host.output(alone.key), host.output(shared.key)) == (b"2\n", b"\n")


def test_what_the_site_refuses_for_now_waits_and_says_why(host, supervisor, slurm):
    refusal = slurm.folder / "refusal"
    words = "Required partition not available (inactive or drain)"
    refusal.write_text(f"sbatch: error: Batch job submission failed: {words}\n")
    jobs = [supervisor.launch("true"), supervisor.launch("true", slurm=slurm.pilot_start)]
    why: dict[AttemptKey, str | None] = {}
    while len(why) < len(jobs):
        said = supervisor.hear()
        assert isinstance(said, AttemptStarted)
        if said.waits is not None and said.waits.cause is Cause.NODE:
            why[said.key] = said.waits.problem
    assert set(why.values()) == {f"Batch job submission failed: {words}"}
    assert host.said.count(words) == 1  # however many pilots wait, and however often they are refused

    refusal.unlink()

    assert {each.outcome for each in supervisor.all_ended(jobs)} == {Outcome.SUCCEEDED}


def why_it_waits(supervisor, job: AttemptKey, cause: Cause) -> str | None:
    """Return the words of the first report that the job waits for this cause."""
    while True:
        said = supervisor.hear()
        if isinstance(said, AttemptStarted) and said.key == job and said.waits and said.waits.cause is cause:
            return said.waits.problem


def test_a_full_limit_fails_no_job_and_its_name_and_the_sites_words_are_told(supervisor, slurm):
    lines = [
        "site policy: at most 3 jobs",
        "QOSMaxSubmitJobPerUserLimit",
        "Batch job submission failed: Job violates",
    ]
    refusal = slurm.folder / "refusal"
    refusal.write_text("".join(f"sbatch: error: {line}\n" for line in lines))
    jobs = [supervisor.launch("true", slurm=slurm.pilot_start) for _ in range(10)]

    assert why_it_waits(supervisor, jobs[-1], Cause.NODE) == "; ".join(lines)
    refusal.unlink()

    assert {ended.outcome for ended in supervisor.all_ended(jobs)} == {Outcome.SUCCEEDED}


def test_a_process_that_a_wrapper_leaves_behind_delays_no_job(supervisor, slurm):
    sbatch = slurm.folder / "sbatch"
    sbatch.rename(slurm.folder / "real-sbatch")
    sbatch.write_text(
        f'#!/bin/sh\nsleep 600 &\necho $! >>{slurm.folder}/left\nexec {slurm.folder}/real-sbatch "$@"\n'
    )
    sbatch.chmod(0o700)

    assert supervisor.run("true").outcome is Outcome.SUCCEEDED

    for pid in map(int, (slurm.folder / "left").read_text().split()):
        os.kill(pid, signal.SIGKILL)


def test_a_wrapper_that_hangs_is_killed_with_its_processes_and_explained(supervisor, slurm):
    sbatch = slurm.folder / "sbatch"
    real = sbatch.read_text()
    sbatch.write_text(
        f"#!/bin/sh\necho asking the licence server\nsleep 600 & echo $! >>{slurm.folder}/left\nwait\n"
    )
    job = supervisor.launch("true")

    words = why_it_waits(supervisor, job, Cause.NODE)
    assert words == "asking the licence server; sbatch did not answer for 20 s"
    wait_until(lambda: not any(map(is_alive, map(int, (slurm.folder / "left").read_text().split()))))
    sbatch.write_text(real)
    assert supervisor.ended(job).outcome is Outcome.SUCCEEDED


def test_a_program_of_slurm_that_cannot_run_is_no_controller_that_is_away(supervisor, slurm):
    squeue = slurm.folder / "squeue"
    real = squeue.read_text()
    squeue.write_text("#!/bin/sh\nexec /nowhere/squeue\n")
    job = supervisor.launch("true")

    assert "/nowhere/squeue: not found" in (why_it_waits(supervisor, job, Cause.CONTROLLER) or "")
    squeue.write_text(real)
    assert supervisor.ended(job).outcome is Outcome.SUCCEEDED


def test_a_job_that_slurm_will_never_take_is_refused_in_slurms_words_and_no_other(supervisor, slurm):
    refusal = slurm.folder / "refusal"
    supervisor.run("true", slurm=slurm.pilot_start)
    refusal.write_text("sbatch: error: Batch job submission failed: Invalid account\n")

    ended = supervisor.run("true")

    assert ended.outcome is Outcome.NOT_STARTED
    words = "cannot start: Slurm refuses the pilot: Batch job submission failed: Invalid account"
    assert ended.problem == words
    assert supervisor.run("true", slurm=slurm.pilot_start).outcome is Outcome.SUCCEEDED


def test_an_option_that_takes_bgds_next_one_for_its_value_ends_the_job(supervisor, slurm):
    """sbatch then prints a sentence in place of a number, and the job was submitted without end."""
    sbatch = slurm.folder / "sbatch"
    sbatch.write_text(sbatch.read_text().replace("echo $number", "echo Submitted batch job $number"))

    ended = supervisor.run("true", slurm=slurm.own_pilot)

    assert ended.outcome is Outcome.NOT_STARTED
    assert ended.problem == "cannot start: an option of sbatch lacks its value"
    assert slurm.count("sbatch") == 1


def test_a_job_that_waits_for_its_pilot_can_be_cancelled(host, supervisor, slurm):
    words = "Socket timed out on send/recv operation"
    (slurm.folder / "refusal").write_text(f"{words}\n")
    job = supervisor.launch("true")
    wait_until(lambda: words in host.said)

    supervisor.say(StopProcesses(job, 1.0))

    assert supervisor.ended(job).outcome is Outcome.CANCELLED
    (slurm.folder / "refusal").unlink()
    wait_until(lambda: not slurm.pilots and not folders(slurm))


def test_a_killed_job_was_not_ended_by_slurm_if_only_bgd_cancelled_its_pilot(supervisor, slurm):
    """A busy controller may list a pilot as running for a while after its end."""
    cancelled = slurm.folder / "cancelled"
    squeue, scancel = slurm.folder / "squeue", slurm.folder / "scancel"
    listed = f'[ -e {cancelled} ] || echo "${{job##*/}}|$name|RUNNING|main|UNLIMITED|UNLIMITED|None"'
    lines = squeue.read_text().replace("FAILED|n1", "CANCELLED|n1").splitlines()
    found = [f"    read -r name pid <$job; {listed}" if "read -r" in each else each for each in lines]
    squeue.write_text("\n".join(found) + "\n")
    scancel.write_text(f"#!/bin/sh\ntouch {cancelled}\n")

    ended = supervisor.run("sh", "-c", "kill -9 $$")

    assert cancelled.exists()
    assert (ended.outcome, ended.signal, ended.problem) == (Outcome.SIGNAL, 9, None)


def test_a_node_on_which_a_pilot_fails_is_left_out(host, supervisor, slurm):
    broken_once, works = slurm.folder / "python", slurm.folder / "works"
    fail = f"touch {works}; echo 'no bgd' >&2; exit 1"
    pilot = f'case "$*" in *--pilot*) [ -e {works} ] || {{ {fail}; }} ;; esac'  # not what connects to it
    broken_once.write_text(f'#!/bin/sh\n{pilot}\nexec {sys.executable} "$@"\n')
    broken_once.chmod(0o700)
    asked = replace(slurm.own_pilot.pilot, own=["--exclude=n7,n8", "--gres=gpu:1"])
    start = replace(slurm.own_pilot, python=str(broken_once), pilot=asked)

    ended = supervisor.run("sh", "-c", "exit 4", slurm=start)

    assert ended.exit_code == 4
    assert "a pilot has ended: no bgd" in host.said
    first, second = (slurm.folder / "sbatchs").read_text().splitlines()
    assert "--exclude=n7,n8 --gres=gpu:1 " in first
    assert "--exclude=n7,n8,n1 " in second


def test_a_pilot_that_slurm_does_not_list_in_time_is_cancelled_and_leaves_nothing(supervisor, slurm):
    unlisted, late, go = slurm.folder / "unlisted", slurm.folder / "python", slurm.folder / "go"
    unlisted.touch()
    os.mkfifo(go)
    squeue = slurm.folder / "squeue"
    squeue.write_text(squeue.read_text().replace("case", f"[ ! -e {unlisted} ] || exit 0\ncase", 1))
    late.write_text(f'#!/bin/sh\nread line <{go}\nexec {sys.executable} "$@"\n')
    late.chmod(0o700)
    job = supervisor.launch("sh", "-c", "exit 4", slurm=replace(slurm.own_pilot, python=str(late)))
    wait_until(lambda: slurm.count("sbatch") == 2)

    unlisted.unlink()
    late.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    with go.open("r+b", buffering=0) as gate:  # which may have no reader any more
        gate.write(b"go\ngo\n")
        assert supervisor.ended(job).exit_code == 4
        wait_until(lambda: not slurm.pilots and not folders(slurm))
