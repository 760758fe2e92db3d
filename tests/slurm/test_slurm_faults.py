"""What dies while jobs are on a real Slurm: none starts twice, and each end is the true one or unknown."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from bgd import Outcome, State
from bgd.core.explain import Cause
from tests.slurm.gate import kill
from tests.slurm.test_slurm import on_cluster, started, why
from tests.support import DEADLINE, wait_until


def pids_of(name: str, job) -> list[int]:
    """Return the processes of this program that work for a job."""
    if not (attempts := job.attempts()):
        return []
    home = Path(attempts[0].log_path).parents[5]  # another daemon may have a job of this number
    pattern = f"{name}.*{home}/shared/bgd-[0-9a-f]*-{job.id}-"
    found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def name_of(job) -> str:
    """Return the end of the job's name in Slurm."""
    return f"-{job.id}-{job.refresh().attempt}"


def test_srun_is_killed_and_the_end_is_read_from_the_shared_folder(slurm, client, gate):
    job = started(on_cluster(client, gate.script("exit 4")))

    kill(*pids_of("^srun", job))
    gate.open()

    assert job.wait(DEADLINE).exit_code == 4
    assert gate.starts == 1
    wait_until(lambda: slurm.jobs() == [])


def test_slurmstepd_is_killed_and_srun_does_not_wait_for_it_for_ever(slurm, client, gate):
    job = started(on_cluster(client, gate.script("exit 4")))
    [program] = pids_of("^/usr/bin/python3", job)

    kill(parent_of(program))
    gate.open()

    assert job.wait(DEADLINE).exit_code == 4
    assert job.problem == "its srun was killed: what it wrote since then is missing"
    wait_until(lambda: slurm.jobs() == [])


def test_a_job_that_nobody_saw_end_is_unknown_and_runs_again_only_if_it_may(client, gate):
    once = started(on_cluster(client, gate.script("exit 0")))
    again = started(on_cluster(client, gate.script("echo after"), rerun=True))

    for job in (once, again):
        kill(*pids_of("^/usr/bin/python3", job))

    assert once.wait(DEADLINE).outcome is Outcome.UNKNOWN
    wait_until(lambda: len(again.attempts()) == 2)
    started(again)
    assert again.attempts()[0].outcome is Outcome.UNKNOWN
    gate.open()
    assert again.wait(DEADLINE).state is State.SUCCEEDED
    assert gate.starts == 3


def test_a_job_that_waits_is_cancelled_while_the_controller_is_away(slurm, client):
    waiting = client.submit(["echo", "never"], executor="later")
    wait_until(lambda: slurm.jobs() == [f"bgd-{client.info().store_id}-{waiting.id}-1"])

    slurm.kill_controller(name_of(waiting))
    waiting.cancel()
    slurm.start_controller()

    assert waiting.wait(2 * DEADLINE).state is State.CANCELLED
    assert waiting.output() == ""
    wait_until(lambda: slurm.jobs() == [])


def test_a_job_that_the_controller_has_forgotten_is_submitted_again(slurm, client):
    with slurm.forgetting():
        waiting = client.submit(["echo", "never"], executor="later")
        name = f"bgd-{client.info().store_id}-{waiting.id}-1"
        wait_until(lambda: name in slurm.jobs())
    assert name not in slurm.jobs()

    wait_until(lambda: name in slurm.jobs())

    waiting.cancel()
    assert waiting.wait(DEADLINE).state is State.CANCELLED
    wait_until(lambda: name not in slurm.jobs())


def test_an_allocation_that_the_controller_has_back_is_released(slurm, client, gate):
    job = started(on_cluster(client, gate.script("exit 7")))
    with slurm.forgetting(name_of(job)):  # that it will have ended
        launcher = client.info().launcher_pid
        os.kill(launcher, signal.SIGSTOP)  # else it might look before that is forgotten
        gate.open()
        wait_until(lambda: slurm.jobs() == [])
    assert len(slurm.jobs()) == 1

    os.kill(launcher, signal.SIGCONT)

    assert job.wait(DEADLINE).exit_code == 7
    wait_until(lambda: slurm.jobs() == [])


def test_a_lost_node_does_not_make_a_job_run_twice(slurm, client, gate):
    job = started(on_cluster(client, gate.script("exit 9"), rerun=True))
    wait_until(lambda: job.attempts()[0].node)
    node = job.attempts()[0].node

    slurm.lose_node(node)
    wait_until(lambda: not pids_of("^srun", job))
    assert job.refresh().state is State.RUNNING  # its program still runs
    gate.open()

    job.wait(DEADLINE)
    assert (job.attempts()[0].exit_code, gate.starts) == (9, 1)
    slurm.return_node(node)


def test_a_lost_node_ends_a_job_that_also_runs_on_another(slurm, client, gate):
    job = started(on_cluster(client, gate.script("exit 0"), nodes=2))

    slurm.lose_node("n2")

    assert job.wait(DEADLINE).outcome in {Outcome.SIGNAL, Outcome.UNKNOWN}
    assert gate.starts == 1
    slurm.return_node("n2")


def test_a_preempted_job_is_interrupted_and_runs_again_without_using_a_retry(slurm, client, gate):
    job = started(on_cluster(client, gate.script("exit 0"), cpus=2, rerun=True, retries=0))
    urgent = subprocess.Popen(
        ["srun", "-p", "high", "-N2", "-c2", "--mem=100M", "true"],
        env=os.environ | {"SLURM_CONF": str(slurm.configuration)},
    )

    wait_until(lambda: len(job.attempts()) == 2)

    assert urgent.wait(DEADLINE) == 0
    gate.open()
    assert job.wait(DEADLINE).state is State.SUCCEEDED
    first, second = job.attempts()
    assert (first.outcome, second.outcome) == (Outcome.INTERRUPTED, Outcome.SUCCEEDED)
    assert Path(first.log_path).read_text().startswith("ready\n")  # the shell may say that it was terminated


def test_without_a_controller_jobs_end_truly_and_new_ones_wait(slurm, client, gate):
    # the last one: a controller that comes back may take a minute to release a node
    running = started(on_cluster(client, gate.script("exit 3")))

    slurm.kill_controller(name_of(running))
    waiting = on_cluster(client, gate.script("exit 2"))
    wait_until(lambda: pids_of("^srun", waiting))
    assert client.submit(["echo", "local"]).wait(DEADLINE).output() == "local\n"
    gate.open()
    assert running.wait(DEADLINE).exit_code == 3
    assert why(waiting, cause=Cause.CONTROLLER).startswith("for Slurm's controller, which bgd asks again")
    slurm.start_controller()

    assert waiting.wait(2 * DEADLINE).exit_code == 2
    assert gate.starts == 2
