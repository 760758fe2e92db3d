"""Pilots on a real Slurm of two nodes: what dies while they run jobs, and what they leave: nothing."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from bgd import JobSpec, Outcome, State
from tests.launcher.host import is_alive
from tests.slurm.gate import kill, parent_of
from tests.slurm.test_slurm import started, written
from tests.slurm.two_nodes import CPUS, NODES, serving_as_user
from tests.support import DEADLINE, wait_until


@pytest.fixture
def run(client):
    return lambda script, **options: client.submit(["sh", "-c", script], executor="cluster", **options)


def why(client, job) -> str:
    return " ".join(each.problem or "" for each in client.explain(job.id).reasons)


def node_of(job) -> str:
    wait_until(lambda: job.attempts()[0].node)
    return str(job.attempts()[0].node)


def pids_of(pattern: str, daemon) -> list[int]:
    """Return the processes with these words in their command that belong to a daemon's pilots."""
    found = subprocess.run(
        ["pgrep", "-f", f"{pattern}.*{daemon.folder}/shared/.*-pilot-"],
        capture_output=True,
        text=True,
        check=False,
    )
    return [int(pid) for pid in found.stdout.split()]


def pilots_of(slurm) -> list[str]:
    return [name for name in slurm.jobs() if "-pilot-" in name]


def test_many_jobs_share_two_allocations(slurm, client):
    specs = [JobSpec(argv=("sh", "-c", f"exit {n % 3}"), executor="cluster", retries=0) for n in range(100)]

    ended = client.wait(client.submit_many(specs), timeout=DEADLINE)
    pilots = pilots_of(slurm)  # at once: idle ones end soon

    assert [job.exit_code for job in ended] == [n % 3 for n in range(100)]
    assert {job.attempts()[0].node for job in ended} <= {"n1", "n2"}
    assert 1 <= len(pilots) <= 2


def test_a_job_that_no_node_has_room_for_is_refused_in_slurms_words(run):
    run("true").wait(DEADLINE)

    for options in ({"cpus": 64}, {"memory": 10**13}, {"cpus": 64, "nodes": 1}):
        job = run("true", **options).wait(DEADLINE)

        assert job.outcome is Outcome.NOT_STARTED
        assert "cannot start: Slurm refuses the pilot: " in (job.problem or "")
        assert "; Batch job submission failed: Requested node configuration" in (job.problem or "")


def test_a_cancel_of_the_first_that_waits_makes_way_for_the_next(run, gate):
    busy = [started(run(gate.script("exit 0"), cpus=cpus)) for cpus in (2, 1)]
    first, behind = run("true", cpus=2), run("true")

    first.cancel()

    assert behind.wait(DEADLINE).state is State.SUCCEEDED
    gate.open()
    assert [job.wait(DEADLINE).state for job in busy] == [State.SUCCEEDED] * 2


def test_no_output_is_lost_when_the_launcher_is_killed(client, run, gate):
    job = started(run(gate.script("echo after")))

    os.kill(client.info().launcher_pid, signal.SIGKILL)
    gate.open()

    assert job.wait(DEADLINE).output() == "ready\nafter\n"
    assert run("echo next").wait(DEADLINE).output() == "next\n"


def test_the_connection_is_lost_and_no_output_with_it(daemon, run, gate):
    job = started(run(gate.script("echo after; exit 4")))

    kill(*pids_of("^srun --jobid", daemon))
    gate.open()

    ended = job.wait(DEADLINE)
    assert (ended.exit_code, gate.starts) == (4, 1)
    assert ended.output() == "ready\nafter\n"


def test_the_pilot_is_killed_and_the_next_one_says_so(daemon, run, gate):
    once = started(run(gate.script("exit 0"), rerun=False))
    again = started(run(gate.script("exit 0"), rerun=True))

    kill(*pids_of("bgd.launcher --pilot", daemon))

    assert once.wait(DEADLINE).outcome is Outcome.UNKNOWN
    wait_until(lambda: len(again.attempts()) == 2)
    gate.open()
    assert again.wait(DEADLINE).state is State.SUCCEEDED
    assert gate.starts == 3


def test_the_pilot_is_killed_with_its_batch_script_and_what_it_ran_ends_before_it_runs_again(
    daemon, run, gate
):
    job = started(run(gate.script("exit 0"), rerun=False))
    [pilot] = pids_of("bgd.launcher --pilot", daemon)
    [process] = gate.pids()

    kill(parent_of(pilot), pilot)

    assert job.wait(DEADLINE).outcome is Outcome.UNKNOWN
    assert not is_alive(process)  # which Slurm without control groups leaves alone


def test_a_pilot_whose_slurmstepd_was_killed_gives_its_node_back(slurm, daemon, run):
    job = started(run("echo ready; sleep 0.1"))
    [pilot] = pids_of("bgd.launcher --pilot", daemon)

    kill(parent_of(parent_of(pilot)))

    assert job.wait(DEADLINE).state is State.SUCCEEDED
    wait_until(lambda: pilots_of(slurm) == [])


def test_an_allocation_is_taken_away_and_nothing_counts_as_a_success(slurm, run, gate):
    job = started(run(gate.script("exit 0"), rerun=False))

    slurm.run("scancel", *(f"--name={name}" for name in pilots_of(slurm)))

    assert job.wait(DEADLINE).state in {State.FAILED, State.QUEUED}
    assert job.attempts()[0].outcome is Outcome.INTERRUPTED
    assert written(job).startswith("ready\n")
    following = run("echo next", rerun=False).wait(2 * DEADLINE)  # perhaps given to a pilot that was ending
    assert following.output() == "next\n"


def test_a_job_that_may_run_again_does_so_if_slurm_ends_it_before_its_pilot(slurm, daemon, run, gate):
    job = started(run(gate.script("exit 0"), rerun=True, retries=0))
    [pilot] = pids_of("bgd.launcher --pilot", daemon)
    try:
        for pid in (pilot, *gate.pids()):  # which now go on as soon as a signal comes, and not slurmstepd
            os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(10))
            os.sched_setaffinity(pid, {0})
    except PermissionError:
        pytest.skip("NOT RUN: needs the right to SCHED_FIFO")
    for thread in Path(f"/proc/{parent_of(parent_of(pilot))}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {0})

    slurm.run("scancel", *(f"--name={name}" for name in pilots_of(slurm)))
    wait_until(lambda: len(job.attempts()) > 1)
    gate.open()

    assert job.wait(2 * DEADLINE).state is State.SUCCEEDED
    *before, last = [each.outcome for each in job.attempts()]
    assert last is Outcome.SUCCEEDED
    assert set(before) == {Outcome.INTERRUPTED}  # twice if it was given to another pilot that was ending


def test_idle_pilots_give_their_nodes_back(slurm, daemon, run):
    run("true").wait(DEADLINE)

    wait_until(lambda: pilots_of(slurm) == [])
    wait_until(lambda: not [path for path in (daemon.folder / "shared").iterdir() if "pilot" in path.name])
    assert pids_of("", daemon) == []


def test_a_pilot_that_is_idle_while_its_connection_is_lost_gives_its_node_back(slurm, client, daemon, run):
    run("true").wait(DEADLINE)
    with slurm.silent():  # so that no srun connects to it again
        kill(*pids_of("^srun --jobid", daemon))
        client.submit(["sleep", "3"]).wait(DEADLINE)  # longer than a pilot is kept

    wait_until(lambda: pilots_of(slurm) == [])


def test_a_shutdown_gives_the_nodes_back_at_once(slurm):
    with serving_as_user(slurm, keep_idle="1h") as other, other.client() as client:
        ended = client.submit(["true"], executor="cluster").wait(DEADLINE)
        assert ended.state is State.SUCCEEDED
        assert pilots_of(slurm) != []

    wait_until(lambda: pilots_of(slurm) == [])


def test_a_pilot_that_cannot_start_says_why(slurm):
    with serving_as_user(slurm, python="/usr/bin/python3") as other, other.client() as client:
        ended = client.submit(["true"], executor="cluster", retries=0).wait(2 * DEADLINE)  # after three tries
        text = (other.folder / ".config/bgd/bgd.toml").read_text()
        other.configure(text.replace(f"{other.folder}/shared", "/proc/nowhere"))
        client.reload()
        without_folder = client.submit(["true"], executor="cluster", retries=0).wait(DEADLINE)

    assert ended.outcome is Outcome.NOT_STARTED
    assert "no pilot works: " in (ended.problem or "")
    assert "No module named" in (ended.problem or "")
    words = "cannot start: cannot make the folder /proc/nowhere: No such file or directory"
    assert (without_folder.problem or "").startswith(words)


def test_a_pilot_on_a_drained_node_ends_after_its_jobs_and_another_takes_what_waits(slurm, client, run, gate):
    slurm.wait_until_idle()
    jobs = [started(run(gate.script("exit 0"))) for _ in range(CPUS)]
    [node] = set(map(node_of, jobs))
    slurm.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=new kernel")
    try:
        waiting = [started(run(gate.script("exit 0"))) for _ in range(CPUS)]  # on the other one
        assert {node, *map(node_of, waiting)} == set(NODES)
        last = run("true")
        wait_until(lambda: f"maintenance of node {node} (draining): new kernel" in why(client, last))
        gate.open()

        assert [job.wait(DEADLINE).state for job in [*jobs, *waiting, last]] == [State.SUCCEEDED] * 5
        wait_until(lambda: f"{node} drained" in slurm.run("sinfo", "-h", "-N", "-o", "%N %T", "-p", "main"))
    finally:
        slurm.run("scontrol", "update", f"nodename={node}", "state=resume")
        slurm.wait_until_idle()


def test_a_job_whose_allocation_is_suspended_says_so_and_goes_on_with_it(slurm, client, run, gate):
    slurm.wait_until_idle()
    job = started(run(gate.script("exit 3")))
    [pilot] = pilots_of(slurm)
    number = slurm.run("squeue", "-h", f"--name={pilot}", "-o", "%A").strip()

    slurm.run("scontrol", "suspend", number)
    wait_until(lambda: "SUSPENDED" in why(client, job))
    assert run("true").wait(DEADLINE).state is State.SUCCEEDED
    gate.open()
    assert job.refresh().state is State.RUNNING
    slurm.run("scontrol", "resume", number)

    ended = job.wait(DEADLINE)
    assert (ended.exit_code, len(ended.attempts())) == (3, 1)
