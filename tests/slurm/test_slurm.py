"""Jobs on a real Slurm of two nodes: output, ends, stops, and what the daemon says of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from re import fullmatch

import pytest
from msgspec.structs import asdict

from bgd import Outcome, Refused, State
from bgd.core.explain import Cause, in_words
from bgd.core.spec import ExecutorKind
from bgd.daemon.cluster_doctor import check_cluster
from bgd.settings.config import ExecutorConfig
from bgd.wire.views import Finding
from tests.launcher.host import is_stopped
from tests.slurm.two_nodes import AS_USER, USER, free_ports
from tests.support import DEADLINE, ROOT, wait_until


def on_cluster(client, script: str, **options):
    return client.submit(["sh", "-c", script], executor="cluster", **options)


def started(job, text: str = "ready\n"):
    """Return the job once it has written this."""
    wait_until(lambda: text in written(job))
    return job


def written(job) -> str:
    """Return what a job has written so far; its output() would wait for its end."""
    [*_, latest] = job.attempts() or [None]
    path = Path(latest.log_path) if latest else None
    return path.read_text() if path and path.exists() else ""


def test_a_job_runs_on_a_node_with_its_output_in_order_and_its_code(daemon, client):
    script = "i=0; while [ $i -lt 50 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done; printf end; exit 7"

    job = on_cluster(client, script).wait(DEADLINE)

    assert (job.state, job.outcome, job.exit_code) == (State.FAILED, Outcome.EXIT, 7)
    lines = [f"{stream} {number}\n" for number in range(50) for stream in ("out", "err")]
    assert job.output() == "".join(lines) + "end"
    [attempt] = job.attempts()
    assert (attempt.executor, attempt.executor_kind) == ("cluster", "slurm")
    assert attempt.node in {"n1", "n2"}
    assert f"ran on     cluster, node {attempt.node}\n" in daemon.bgctl("show", str(job.id)).stdout


def test_a_job_of_a_bound_queue_gets_folder_umask_input_and_environment(daemon, client):
    script = "pwd; umask; cat; echo $COLOUR $BGD_ATTEMPT $SLURM_CPUS_PER_TASK"
    options = {"cwd": "/usr", "umask": 0o027, "input": "given\n", "env": {"COLOUR": "red"}, "cpus": 2}
    options |= {"nodes": 1}

    job = client.submit(["sh", "-c", script], queue="big", retries=0, **options).wait(DEADLINE)

    assert job.output() == "/usr\n0027\ngiven\nred 1 2\n"
    source = daemon.folder / "input"
    source.write_text("from a file")
    assert on_cluster(client, "cat", stdin=str(source)).wait(DEADLINE).output() == "from a file"
    assert on_cluster(client, "cat; echo nothing").wait(DEADLINE).output() == "nothing\n"


def test_jobs_of_a_queue_with_slots_on_the_cluster_leave_the_daemons_slots_to_others(daemon, client):
    client.set_slots(1)
    try:
        script = "echo ready in slot $BGD_SLOT; sleep 1000"
        far = [client.submit(["sh", "-c", script], queue="far") for _ in "123"]
        for job in far[:2]:
            started(job, "ready in slot 0\n")

        assert client.submit(["true"]).wait(DEADLINE).state is State.SUCCEEDED
        assert (
            "waits      for a slot of queue far: 2 of 2 are taken\n"
            in daemon.bgctl("show", str(far[2].id)).stdout
        )
    finally:
        client.set_slots(None)
    for job in far:
        job.cancel()
        assert job.wait(DEADLINE).state is State.CANCELLED


def test_a_job_that_slurm_has_no_room_for_says_that_it_waits(daemon, client):
    hogs = [started(on_cluster(client, "echo ready; sleep 1000", cpus=2, nodes=1)) for _ in "12"]
    job = on_cluster(client, "echo ran")
    alone = on_cluster(client, "echo ran", nodes=1)
    later = client.submit(["true"], executor="later")

    waiting = {"in Slurm for resources (Resources)", "in Slurm for jobs of higher priority (Priority)"}
    for each in (job, alone):
        wait_until(partial(says_one_of, each, waiting))
    assert why(later, problem="BeginTime") == "in Slurm until it may begin (BeginTime)"

    shown = daemon.bgctl("show", str(job.id)).stdout
    assert "waits      in Slurm for " in shown
    assert "Attempt 1: waiting for a node\n" in shown
    explained = daemon.bgctl("explain", str(job.id)).stdout
    assert explained.startswith(f"Job {job.id} (")
    assert "): running, and waits\n  in Slurm for " in explained
    assert json.loads(daemon.bgctl("list", "--json").stdout)[1]["needs_node"]
    hogs.pop().cancel()
    for each in (job, alone):
        assert each.wait(2 * DEADLINE).output() == "ran\n"
    assert not job.view.needs_node
    later.cancel()
    assert later.wait(DEADLINE).state is State.CANCELLED
    assert later.output() == ""
    for hog in hogs:
        hog.cancel()
        assert hog.wait(DEADLINE).state is State.CANCELLED


def says_one_of(job, words: set[str]) -> bool:
    return why(job, cause=Cause.NODE) in words


def why(job, **fields) -> str:
    """Return what a job waits for, in words, once its reason has these fields."""

    def reasons():
        return [each for each in job.explain().reasons if asdict(each).items() >= fields.items()]

    wait_until(reasons)
    return in_words(reasons()[0], str)


def test_a_job_says_that_it_waits_for_the_limit_on_requests(slurm, client):
    jobs = [client.submit(["true"], executor="slow", nodes=1) for _ in range(12)]  # a burst allows ten

    wait_until(lambda: any(each.cause is Cause.REQUESTS for job in jobs for each in job.explain().reasons))

    waits = next(job for job in jobs if Cause.REQUESTS in {each.cause for each in job.explain().reasons})
    assert why(waits, cause=Cause.REQUESTS).startswith("for bgd's own limit on requests to Slurm")
    client.cancel(jobs)
    assert all(job.wait(DEADLINE).state in {State.SUCCEEDED, State.CANCELLED} for job in jobs)
    slurm.run("scancel", f"--user={USER}")  # which bgd may do as slowly
    wait_until(lambda: slurm.jobs() == [])


def test_a_job_of_two_nodes_runs_on_the_first_and_starts_tasks_on_both(daemon, client):
    script = "cat; echo $SLURMD_NODENAME of $SLURM_JOB_NODELIST; srun sh -c 'echo task on $SLURMD_NODENAME'"
    ranks = "srun --quiet --ntasks=4 --cpus-per-task=1 --label sh -c 'echo $SLURM_PROCID of $SLURM_NTASKS'"

    job = on_cluster(client, f"{script}; {ranks}", input="given\n", nodes=2, cpus=2).wait(DEADLINE)

    first, *tasks = job.output().splitlines()[1:]
    assert (job.output()[:6], first) == ("given\n", "n1 of n[1-2]")
    assert sorted(tasks) == [
        *(f"{rank}: {rank} of 4" for rank in range(4)),
        "task on n1",
        "task on n2",
    ]
    assert job.attempts()[0].node == "n[1-2]"
    assert "ran on     cluster, nodes n[1-2]\n" in daemon.bgctl("show", str(job.id)).stdout
    assert on_cluster(client, "exit 3", nodes=2).wait(DEADLINE).exit_code == 3
    alone = on_cluster(client, "srun sh -c 'echo $SLURM_JOB_NUM_NODES'", nodes=1)
    assert alone.wait(DEADLINE).output() == "1\n"


def test_signals_and_suspension_reach_tasks_on_all_nodes_of_a_job(client):
    inside = f": {os.getpid()}; echo ready; trap 'echo got; exit 4' USR1; while :; do sleep 0.05; done"
    job = on_cluster(client, f'exec srun --verbose sh -c "{inside}"', nodes=2)
    # Slurm drops signals for a node that has not told srun yet that its tasks run
    wait_until(lambda: written(job).count(" tasks started") == written(job).count("ready\n") == 2)

    client.suspend([job])
    wait_until(lambda: fullmatch("TT+", states_of(inside)))
    client.continue_([job])
    wait_until(lambda: fullmatch("SS+", states_of(inside)))
    client.signal([job], signal.SIGUSR1)  # one that srun passes on

    assert job.wait(DEADLINE).exit_code == 4
    assert job.output().count("got\n") == 2


def test_a_job_that_ignores_its_stop_signal_is_killed_on_all_its_nodes(slurm, client):
    inside = f": {os.getpid()}; trap : TERM; echo ready; while :; do sleep 0.05; done"
    job = started(on_cluster(client, f"exec srun sh -c '{inside}'", nodes=2))

    job.cancel()

    assert job.wait(DEADLINE).outcome is Outcome.CANCELLED
    wait_until(lambda: slurm.jobs() == [] and not states_of(inside))


def test_tasks_that_a_job_leaves_on_other_nodes_are_ended(slurm, daemon, client):
    task = f": {os.getpid()}; touch here-$SLURM_PROCID; while :; do sleep 0.05; done"
    both = "[ -e here-0 ] && [ -e here-1 ]"

    job = on_cluster(
        client,
        f"srun sh -c '{task}' & until {both}; do sleep 0.02; done; exit 5",
        nodes=2,
        cwd=str(daemon.folder),
    )

    assert job.wait(DEADLINE).exit_code == 5
    wait_until(lambda: slurm.jobs() == [] and not states_of(task))


def states_of(script: str) -> str:
    """Return the states of the shells that run this script, a letter each.

    Between vfork and exec, a program that a shell starts is one of them.
    """
    argv = ["ps", "-ww", "-U", USER, "-o", "pid=", "-o", "stat=", "-o", "args="]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    states = ""
    for line in lines:
        pid, state, command = line.split(maxsplit=2)
        if command.endswith(f"sh -c {script}") and "srun" not in command:
            with suppress(OSError):  # it has ended
                states += "T" if is_stopped(int(pid)) else state[0]
    return states


def test_a_job_gets_a_gpu_of_the_node(client):
    assert on_cluster(client, "echo $SLURM_GPUS_ON_NODE", gpus=1).wait(DEADLINE).output() == "1\n"


def test_what_a_job_asks_of_slurm_reaches_its_own_allocation(slurm, client):
    job = started(
        on_cluster(
            client,
            "echo $SLURM_JOB_PARTITION $SLURM_GPUS_ON_NODE; echo ready; sleep 1000",
            partition="high",
            gres="gpu:1",
            time="7",
            slurm_options=["--nice=5", "--licenses="],
        )
    )

    said = slurm.run("squeue", "-h", "-o", "%P %l %b %k")
    assert said == f"high 7:00 gres/gpu:1 bgd job {job.id}, attempt 1\n"
    job.cancel()
    assert job.wait(DEADLINE).output().startswith("high 1\n")


def test_what_slurm_does_not_know_fails_in_its_words(client):
    job = on_cluster(client, "true", slurm_options=["--no-such-option=1"]).wait(DEADLINE)

    assert job.outcome is Outcome.NOT_STARTED
    assert "unrecognized option '--no-such-option=1'" in job.problem


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"executor": "cluster", "pty": True}, "pty is for local jobs"),
        (
            {"executor": "cluster", "memory_max": 10**8},
            "memory_max is for local jobs.*: use memory",
        ),
        ({"queue": "big", "keep_leftovers": True}, "keep_leftovers is for local jobs"),
        ({"executor": "cluster", "core_max": 0}, "core_max is for local jobs"),
        ({"cpus": 2}, "cpus is for jobs on a cluster, and executor local"),
        ({"queue": "big", "executor": "local", "gpus": 1}, "gpus is for jobs on a cluster"),
        ({"partition": "high"}, "partition is for jobs on a cluster, and executor local"),
        ({"slurm_options": ["--qos=high"]}, "slurm_options is for jobs on a cluster, and executor local"),
    ],
)
def test_what_an_executor_cannot_do_is_refused(client, options, words):
    with pytest.raises(Refused, match=words):
        client.submit(["true"], **options)


def test_nothing_is_left_in_slurm_or_on_the_shared_folder(slurm, daemon, client):
    started(on_cluster(client, "echo ready; sleep 1000")).cancel()

    wait_until(lambda: slurm.jobs() == [])
    wait_until(lambda: not [path for path in (daemon.folder / "shared").iterdir() if path.is_dir()])


def test_the_doctor_says_that_the_cluster_works(daemon):
    findings = json.loads(daemon.bgctl("doctor", "--json").stdout)

    [found] = [each for each in findings if each["subject"] == "executor cluster"]
    assert (found["level"], found["message"][:6]) == ("ok", "node n"), found


@pytest.mark.parametrize(
    ("options", "message", "remedy"),
    [
        ({"conf": "/nowhere/slurm.conf"}, "its conf /nowhere/slurm.conf does not exist", "slurm.conf"),
        ({"folder": "/etc/passwd/x"}, "cannot make the folder /etc/passwd/x", "is a file, not a folder"),
        (
            {"partition": "nowhere"},
            "no node runs a job of user 0: invalid partition specified: nowhere",
            "keys",
        ),
        ({"options": ["--begin=now+1hour"]}, "no node is free now", "again"),
        (
            {"python": "/nowhere/python3"},
            "a node cannot run python of the executor: /nowhere/python3: No such file",
            "install bgd there",
        ),
        (
            {"python": "/usr/bin/python3"},
            "python of the executor (/usr/bin/python3) on node n1 has no bgd: ModuleNotFoundError: No module",
            "install this version of bgd",
        ),
    ],
)
def test_the_doctor_names_what_is_missing(slurm, tmp_path, options, message, remedy):
    [finding] = findings(slurm, tmp_path, options)

    assert on_any_node(finding.message).startswith(message)
    assert remedy in (finding.remedy or "")


def test_the_doctor_names_a_folder_that_others_may_write(slurm, tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o1777)

    [finding] = findings(slurm, tmp_path, {"folder": f"{tmp_path}/open"})

    assert finding.message == f"the folder {tmp_path}/open has mode 1777, so it is shared with others"
    assert "choose a folder of its own, see folder of the executor" in (finding.remedy or "")


@pytest.mark.parametrize(
    ("before", "arguments", "message"),
    [
        ("", "/nowhere", "node n1 does not see {folder}"),
        (
            "import time; real = time.time; time.time = lambda: real() + 3600",
            "$3",
            "the clock of node n1 differs by about 3",  # some 3600, less what the machine is late
        ),
        ("import os; os.getuid = lambda: 4711", "$3", "node n1 runs jobs as user 4711, and you are 0"),
    ],
    ids=["folder", "clock", "user"],
)
def test_the_doctor_looks_at_a_node(slurm, tmp_path, before, arguments, message):
    """The node's Python is one that sees something else there."""
    script = tmp_path / "python"
    real = sys.executable
    script.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] || exec {real} "$@"\nexec {real} -c "{before}$2" {arguments}\n'
    )
    script.chmod(0o755)

    [finding] = findings(slurm, tmp_path, {"python": str(script)})

    assert on_any_node(finding.message).startswith(message.format(folder=tmp_path))


def on_any_node(message: str) -> str:
    """Return what was said of a node as if it were the first one: another may have been free."""
    return message.replace("node n2", "node n1")


@pytest.mark.parametrize("missing", ["sbatch", "srun", "squeue", "scancel", "sinfo"])
def test_the_doctor_misses_a_program_of_slurm(slurm, tmp_path, monkeypatch, missing):
    for name in {"sbatch", "srun", "squeue", "scancel", "sinfo"} - {missing}:
        (tmp_path / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(tmp_path))

    [absent] = findings(slurm, tmp_path, {})

    assert absent.message == f"there is no {missing}"
    assert "slurm-client" in (absent.remedy or "")


def test_the_doctor_misses_a_controller(slurm, tmp_path):
    """Its port is one that nobody listens on."""
    lines = slurm.configuration.read_text().splitlines()
    others = [line for line in lines if not line.startswith("SlurmctldPort=")]
    elsewhere = slurm.folder / "nobody-there.conf"
    elsewhere.write_text("\n".join([*others, f"SlurmctldPort={free_ports(1)[0]}"]) + "\n")

    [finding] = findings(slurm, tmp_path, {"conf": str(elsewhere)})

    assert finding.message.startswith("Slurm's controller cannot be reached: ")
    assert "slurmctld" in (finding.remedy or "")


def test_the_doctor_says_that_nodes_do_not_know_the_user(slurm, tmp_path):
    program = f"""
from pathlib import Path
from re import fullmatch
from types import SimpleNamespace
from tests.slurm.test_slurm import findings
[found] = findings(SimpleNamespace(configuration={str(slurm.configuration)!r}), Path({str(tmp_path)!r}), {{}})
print(found.message)
"""
    os.chown(tmp_path, UNKNOWN_USER, -1)
    as_unknown = [f"--reuid={UNKNOWN_USER}" if "reuid" in each else each for each in AS_USER]
    argv = [*as_unknown, sys.executable, "-c", program]

    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)

    assert done.stdout.startswith(f"no node runs a job of user {UNKNOWN_USER}: "), done


UNKNOWN_USER = 54_321


def findings(slurm, folder, options) -> list[Finding]:
    usual = {"kind": ExecutorKind.SLURM, "folder": str(folder), "conf": str(slurm.configuration)}
    usual["python"] = sys.executable
    return [check_cluster(ExecutorConfig(**(usual | options)))]
