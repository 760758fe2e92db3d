"""A Slurm like that of a site: munge, control groups, limits on memory, nodes in namespaces."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bgd import Outcome, State
from tests.faults.figures import SHARE
from tests.slurm.gate import kill, parent_of
from tests.slurm.test_pilots import why
from tests.slurm.test_slurm import on_cluster, started, written
from tests.slurm.two_nodes import running_cluster, what_a_site_lacks
from tests.support import DEADLINE, wait_until

only_with_faults = pytest.mark.skipif(not SHARE, reason="takes minutes: `make slurm-faults` runs it")
# Both ways of a job to a node: beside others, and in an allocation of its own
everywhere = pytest.mark.parametrize("where", [{}, {"nodes": 1}], ids=["shared", "alone"])


@pytest.fixture(scope="module")
def slurm():
    missing = what_a_site_lacks()
    if missing is not None:
        pytest.skip(missing)
    with running_cluster(like_a_site=True) as cluster:
        yield cluster


@everywhere
def test_signals_reach_a_job_in_a_control_group_and_its_code_arrives(client, where: dict[str, Any]):
    traps = "trap 'echo got' USR1; trap 'echo bye; exit 3' INT"
    script = f"{traps}; echo ready; while :; do sleep 0.05; done"
    job = started(on_cluster(client, script, stop_signal="INT", **where))

    client.signal([job], signal.SIGUSR1)
    wait_until(lambda: "got\n" in written(job))
    job.cancel()

    ended = job.wait(DEADLINE)
    assert (ended.outcome, ended.exit_code) == (Outcome.CANCELLED, 3)
    assert ended.output() == "ready\ngot\nbye\n"


@everywhere
def test_a_job_whose_allocation_is_cancelled_gets_its_stop_signal_first(slurm, client, where: dict[str, Any]):
    script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    job = started(on_cluster(client, script, rerun=False, **where))

    slurm.run("scancel", "--user=nobody")

    ended = job.wait(DEADLINE)
    assert ended.outcome is Outcome.INTERRUPTED
    assert "bye\n" in ended.output()  # beside what the shell says of its sleep, which got the signal too
    assert "CANCELLED" in (ended.problem or "")


def test_a_job_that_takes_more_memory_than_it_asked_for_ends_as_out_of_memory(client):
    script = "import time; taken = b'x' * 300_000_000; time.sleep(1000)"
    argv = ["/usr/bin/python3", "-c", script]

    job = client.submit(argv, executor="cluster", nodes=1, memory=100_000_000).wait(DEADLINE)

    assert (job.state, job.outcome) == (State.FAILED, Outcome.OOM), job


def test_jobs_wait_while_munge_is_away(slurm, client):
    running = started(on_cluster(client, "echo ready; sleep 1000", nodes=1))

    with slurm.without_munge():
        job = on_cluster(client, "exit 4", nodes=1)
        wait_until(lambda: "authentication error" in why(client, job))

    assert job.wait(DEADLINE).exit_code == 4
    assert running.refresh().state is State.RUNNING
    running.cancel()


def test_a_node_that_does_not_see_the_folder_is_left_out(slurm, daemon, client):
    slurm.wait_until_idle()
    with slurm.hidden(daemon.folder, "n1"):
        jobs = [on_cluster(client, f"exit {code}", nodes=1, cpus=2) for code in (5, 6)]

        ended = client.wait([job.id for job in jobs], timeout=DEADLINE)

    assert [job.exit_code for job in ended] == [5, 6]
    assert {job.attempts()[0].node for job in ended} == {"n2"}
    assert "avoiding node n1" in (daemon.folder / "bgd.log").read_text()


# --- what takes minutes


@only_with_faults
def test_a_job_that_uses_up_the_time_of_its_allocation_ends_as_timeout(client):
    job = started(on_cluster(client, "echo ready; sleep 1000", time="1"))

    ended = job.wait(PATIENCE)

    assert (ended.state, ended.outcome) == (State.FAILED, Outcome.TIMEOUT)
    assert "TIMEOUT" in ended.problem


@only_with_faults
def test_a_job_can_be_cancelled_whose_pilot_was_killed_on_a_drained_node(slurm, daemon, client):
    job = started(on_cluster(client, "echo ready; sleep 1000", nodes=1))
    node = f"nodename={job.attempts()[0].node}"
    slurm.run("scontrol", "update", node, "state=drain", "reason=test")
    pilots = [int(each.name) for each in Path("/proc").glob("[0-9]*") if is_pilot(each, daemon.folder)]
    kill(*pilots, *map(parent_of, pilots))

    job.cancel()

    assert job.wait(PATIENCE).outcome is Outcome.CANCELLED
    slurm.run("scontrol", "update", node, "state=resume")
    slurm.wait_until_idle()


def is_pilot(process: Path, folder: Path) -> bool:
    with suppress(OSError):  # it has ended
        command = (process / "cmdline").read_text(errors="replace")
        return "bgd.launcher\0--pilot" in command and str(folder) in command
    return False


PATIENCE = 240.0  # seconds
