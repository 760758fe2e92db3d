"""Stopping the whole tree: first SIGTERM, then SIGKILL, whoever asked and however it resists."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from bgd.core.job import Outcome
from bgd.core.spec import StopSignal
from bgd.launcher.deadlines import Deadlines
from bgd.launcher.process import read_process
from bgd.launcher.scan import Scan, Scanner
from bgd.launcher.tree import Ladder, Tree
from bgd.wire.launching import AttemptKey, Launch, StopProcesses
from tests.launcher.host import PATIENCE, STORE, is_alive, needs_root, needs_strace, pids_in, written
from tests.support import wait_until

ENV = {"PATH": os.environ["PATH"]}

# --- outcomes -------------------------------------------------------------------------------------------


def test_a_stopped_job_is_cancelled_and_keeps_its_own_exit_code(supervisor, tmp_path):
    key = supervisor.launch(
        "sh", "-c", f"trap 'exit 42' TERM; echo > {tmp_path}/ready; while :; do sleep 0.05; done"
    )
    written(tmp_path / "ready")

    supervisor.say(StopProcesses(key, 10.0))

    end = supervisor.ended(key)
    assert (end.outcome, end.exit_code, end.signal) == (Outcome.CANCELLED, 42, None)


def test_a_job_over_its_time_limit_ends_as_timeout(supervisor):
    end = supervisor.run("sleep", "100", timeout=0.1)

    assert (end.outcome, end.exit_code, end.signal) == (Outcome.TIMEOUT, None, signal.SIGTERM)
    assert 0.1 <= end.finished_at - end.started_at < 10


def test_a_job_that_ended_just_before_the_stop_keeps_its_own_outcome(supervisor, tmp_path):
    """Its child has the pipe open, so the attempt still runs when the stop arrives."""
    key = supervisor.launch(
        "sh", "-c", f"trap '' TERM; sleep 100 & echo $$ > {tmp_path}/pid; exit 7", grace=100.0
    )
    first = int(written(tmp_path / "pid"))
    wait_until(lambda: not is_alive(first))

    supervisor.say(StopProcesses(key, 0.0))

    end = supervisor.ended(key)
    assert (end.outcome, end.exit_code) == (Outcome.EXIT, 7)


def test_the_first_reason_to_end_counts(supervisor, tmp_path):
    key = supervisor.launch(
        "sh",
        "-c",
        f"trap 'echo > {tmp_path}/told' TERM; while :; do sleep 0.05; done",
        timeout=0.2,
        grace=1000.0,
    )
    written(tmp_path / "told")

    supervisor.say(StopProcesses(key, 0.0))

    assert supervisor.ended(key).outcome is Outcome.TIMEOUT


def test_a_stop_right_after_the_launch_prevents_the_start(supervisor, tmp_path):
    key = AttemptKey(STORE, 1_000_000, 1)
    launch = Launch(key=key, argv=["touch", f"{tmp_path}/ran"], env=ENV, cwd="/")

    supervisor.say(launch, StopProcesses(key, 10.0))

    end = supervisor.ended(key)
    assert (end.outcome, end.started_at) == (Outcome.CANCELLED, None)
    assert not (tmp_path / "ran").exists()


def test_a_job_that_killed_itself_ends_by_that_signal(supervisor):
    end = supervisor.shell("kill -SEGV $$")

    assert (end.outcome, end.exit_code, end.signal) == (Outcome.SIGNAL, None, signal.SIGSEGV)


# --- the ladder -----------------------------------------------------------------------------------------


def test_a_process_that_ignores_term_is_killed_after_the_grace(supervisor, tmp_path):
    key = supervisor.launch(
        "sh", "-c", f"trap '' TERM; echo > {tmp_path}/ready; while :; do sleep 0.05; done"
    )
    written(tmp_path / "ready")

    supervisor.say(StopProcesses(key, 0.3))

    end = supervisor.ended(key)
    assert (end.outcome, end.signal) == (Outcome.CANCELLED, signal.SIGKILL)


def test_a_stopped_process_can_still_react_to_term(supervisor, tmp_path):
    key = supervisor.launch(
        "sh", "-c", f"trap 'exit 3' TERM; echo > {tmp_path}/ready; while :; do sleep 0.05; done"
    )
    pid = supervisor.started(key).pid
    written(tmp_path / "ready")
    os.kill(pid, signal.SIGSTOP)

    supervisor.say(StopProcesses(key, 100.0))

    assert supervisor.ended(key).exit_code == 3


def test_a_time_limit_ends_a_job_that_is_stopped_and_ignores_term(supervisor, tmp_path):
    key = supervisor.launch(
        "sh", "-c", f"trap '' TERM; echo > {tmp_path}/ready; kill -STOP $$; sleep 100", timeout=0.5, grace=0.2
    )
    written(tmp_path / "ready")

    assert supervisor.ended(key).outcome is Outcome.TIMEOUT


@pytest.mark.parametrize("ending", ["cancel", "timeout"])
def test_a_job_is_asked_to_end_by_the_signal_of_its_choice(host, supervisor, tmp_path, ending):
    script = (
        f"trap 'echo INT; exit 3' INT; trap 'echo TERM; exit 4' TERM; echo > {tmp_path}/ready;"
        " while :; do sleep 0.05; done"
    )
    options = {"timeout": 1.0} if ending == "timeout" else {}
    key = supervisor.launch("sh", "-c", script, stop_signal=StopSignal.INT, **options)
    written(tmp_path / "ready")

    if ending == "cancel":
        supervisor.say(StopProcesses(key, PATIENCE))

    end = supervisor.ended(key)
    assert end.outcome is (Outcome.TIMEOUT if ending == "timeout" else Outcome.CANCELLED)
    assert host.output(key) == b"INT\n"


def test_a_job_that_ignores_the_signal_of_its_choice_is_killed_after_the_grace(supervisor, tmp_path):
    script = (
        f"trap 'echo told >> {tmp_path}/told' USR1; echo > {tmp_path}/ready; while :; do sleep 0.05; done"
    )
    key = supervisor.launch("sh", "-c", script, stop_signal=StopSignal.USR1)
    written(tmp_path / "ready")

    supervisor.say(StopProcesses(key, 0.5))

    assert supervisor.ended(key).signal == signal.SIGKILL
    assert (tmp_path / "told").read_text() == "told\n"  # and only once


def test_term_is_sent_once_to_each_process(supervisor, tmp_path):
    """Many programs take a second SIGTERM as a demand to exit without cleaning up."""
    script = (
        f"trap 'echo told >> {tmp_path}/told' TERM; echo > {tmp_path}/ready; while :; do sleep 0.05; done"
    )
    key = supervisor.launch("sh", "-c", script)
    written(tmp_path / "ready")

    supervisor.say(StopProcesses(key, 0.6), StopProcesses(key, 0.6), StopProcesses(key, 0.5))

    supervisor.ended(key)
    assert (tmp_path / "told").read_text() == "told\n"


def test_term_is_sent_once_in_a_large_tree_too(supervisor, tmp_path):
    """The ladder scans again and again while it waits for one process after the other."""
    last = f"trap 'echo told >> {tmp_path}/told' TERM; echo > {tmp_path}/ready; while :; do sleep 0.05; done"
    key = supervisor.launch("sh", "-c", f'for i in $(seq 40); do sleep 100 & done; sh -c "{last}" & wait')
    written(tmp_path / "ready")

    supervisor.say(StopProcesses(key, 0.6))

    supervisor.ended(key)
    assert (tmp_path / "told").read_text() == "told\n"


def test_what_a_job_starts_to_clean_up_may_finish(supervisor, tmp_path):
    clear_up = f"sleep 0.2; echo > {tmp_path}/cleared; exit"
    script = f"trap '{clear_up}' TERM; echo > {tmp_path}/ready; while :; do sleep 0.05; done"
    key = supervisor.launch("sh", "-c", script)
    written(tmp_path / "ready")

    supervisor.say(StopProcesses(key, 30.0))

    supervisor.ended(key)
    assert (tmp_path / "cleared").exists()


# --- the whole tree -------------------------------------------------------------------------------------

ESCAPES = {
    "a child": "sleep 100 & echo $! > PID; wait",
    "a session of its own": "setsid sh -c 'echo $$ > PID; exec sleep 100' & wait",
    "double fork and session": "(setsid sh -c 'echo $$ > PID; exec sleep 100' &); sleep 100",
    "pipe closed": "(setsid sh -c 'echo $$ > PID; exec sleep 100' >/dev/null 2>&1 &); sleep 100",
    "mark removed": "(setsid env -i /bin/sh -c 'echo $$ > PID; exec sleep 100' &); sleep 100",
    "mark removed, pipe closed": "setsid env -i /bin/sh -c 'echo $$ > PID; exec sleep 100' >/dev/null 2>&1 &"
    " sleep 100",
    "nothing to know it by": "(setsid env -i /bin/sh -c 'echo $$ > PID; exec sleep 100' >/dev/null 2>&1 &)"
    "; sleep 100",
    "ignores term away": "(setsid sh -c 'trap \"\" TERM; echo $$ > PID; sleep 100' &); sleep 100",
}


@pytest.mark.parametrize("script", ESCAPES.values(), ids=ESCAPES.keys())
def test_a_stop_reaches(supervisor, tmp_path, script):
    key = supervisor.launch("sh", "-c", script.replace("PID", f"{tmp_path}/pid"))
    escaped = int(written(tmp_path / "pid"))

    supervisor.say(StopProcesses(key, 0.3))

    assert supervisor.ended(key).outcome is Outcome.CANCELLED
    assert not is_alive(escaped)


def test_a_job_that_keeps_forking_is_gone_when_its_end_is_reported(supervisor, tmp_path):
    fork = f"(setsid sleep 77.{os.getpid()} &); sleep 0.01"
    script = f"trap '' TERM; echo > {tmp_path}/ready; while :; do {fork}; done"
    key = supervisor.launch("sh", "-c", script)
    written(tmp_path / "ready")

    supervisor.say(StopProcesses(key, 0.1))

    supervisor.ended(key)
    assert not pids_in(f"sleep\x0077.{os.getpid()}")


def test_many_trees_are_stopped_at_once(supervisor, tmp_path):
    keys = [
        supervisor.launch("sh", "-c", f"(setsid sleep 100 &); echo > {tmp_path}/{number}; sleep 100")
        for number in range(20)
    ]
    for number in range(20):
        written(tmp_path / str(number))

    supervisor.say(*(StopProcesses(key, 5.0) for key in keys))

    ends = supervisor.all_ended(keys)
    assert {end.outcome for end in ends} == {Outcome.CANCELLED}


def test_many_trees_are_stopped_at_once_by_a_launcher_short_of_descriptors(host, supervisor, tmp_path):
    pid = host.launchers[-1].pid
    keys = [
        supervisor.launch(
            "sh", "-c", f"for i in 1 2 3 4 5; do sleep 100 & done; echo > {tmp_path}/{number}; wait"
        )
        for number in range(20)
    ]
    for number in range(20):
        written(tmp_path / str(number))
    limit_descriptors(pid, highest_descriptor(pid) + 10)

    supervisor.say(*(StopProcesses(key, 5.0) for key in keys))

    ends = supervisor.all_ended(keys)
    assert {end.outcome for end in ends} == {Outcome.CANCELLED}
    assert host.launchers[-1].poll() is None


def test_a_stop_without_a_free_descriptor_waits_for_one(host, supervisor, tmp_path):
    pid = host.launchers[-1].pid
    key = supervisor.launch("sh", "-c", f"(setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 100' &); wait")
    escaped = int(written(tmp_path / "pid"))
    soft, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    limit_descriptors(pid, 0)
    supervisor.say(StopProcesses(key, 0.0))
    wait_until(lambda: "Too many open files" in host.said)
    assert is_alive(escaped)

    limit_descriptors(pid, soft)

    supervisor.ended(key)
    assert not is_alive(escaped)


@needs_strace
def test_a_failure_to_stop_one_job_is_tried_again_and_harms_no_other(host, supervisor):
    key = supervisor.launch("sleep", "100")
    other = supervisor.launch("sh", "-c", "while echo; do sleep 0.1; done", log_cap=1000)
    first = supervisor.started(key).pid
    inject = ["-e", "trace=pidfd_send_signal", "-e", "inject=pidfd_send_signal:error=EINVAL"]
    argv = ["strace", *inject, "-p", str(host.launchers[-1].pid)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as tracer:
        assert tracer.stderr is not None
        assert b"attached" in tracer.stderr.readline()
        supervisor.say(StopProcesses(key, 5.0))
        wait_until(lambda: "cannot be ended yet: Invalid argument; next try in" in host.said)
        tracer.terminate()
        tracer.communicate(timeout=PATIENCE)

    assert supervisor.ended(key).outcome is Outcome.CANCELLED
    assert first is not None
    assert not is_alive(first)
    supervisor.say(StopProcesses(other, 5.0))
    assert supervisor.ended(other).outcome is Outcome.CANCELLED


@needs_root
def test_a_process_of_another_user_in_the_tree_is_ended_by_root(supervisor, tmp_path):
    code = f"import os, time; os.setuid(65534); os.setsid(); open('{tmp_path}/pid', 'w'); time.sleep(100)"
    tmp_path.chmod(0o777)
    key = supervisor.launch("sh", "-c", f'{sys.executable} -c "{code}" & echo $! > {tmp_path}/pid; wait')
    pid = int(written(tmp_path / "pid"))

    supervisor.say(StopProcesses(key, 5.0))

    supervisor.ended(key)
    assert not is_alive(pid)


# --- what the first process leaves behind ---------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("sleep 100 & echo $! > PID; exit 5", id="in its group"),
        pytest.param(
            "(setsid sh -c 'echo $$ > PID; exec sleep 100' &); until [ -s PID ]; do :; done; exit 5",
            id="away",
        ),
        pytest.param(
            "sleep 100 >/dev/null 2>&1 & echo $! > PID; exit 5", id="in its group with the pipe closed"
        ),
        pytest.param("(trap '' TERM; sleep 100) & echo $! > PID; exit 5", id="ignoring term"),
        pytest.param(
            "(setsid env -i /bin/sh -c 'echo $$ > PID; exec sleep 100' >/dev/null 2>&1 &);"
            " until [ -s PID ]; do :; done; exit 5",
            id="with nothing left to know it by",
        ),
    ],
)
def test_leftovers_are_ended_before_the_end_is_reported_and_the_outcome_stays(supervisor, tmp_path, script):
    end = supervisor.shell(script.replace("PID", f"{tmp_path}/pid"), grace=0.2)

    pid = int(written(tmp_path / "pid"))
    assert (end.outcome, end.exit_code) == (Outcome.EXIT, 5)
    assert not is_alive(pid)
    assert f" (pid {pid})" in end.leftovers


def test_an_end_names_leftovers_and_counts_the_rest(supervisor):
    none, many = (
        supervisor.shell(f"for n in {words}; do sleep 100 & done") for words in ("", "1 2 3 4 5 6 7")
    )

    assert none.leftovers is None
    assert re.fullmatch(r"(sleep \(pid \d+\), ){4}sleep \(pid \d+\) and 2 more", many.leftovers)


def test_a_cancelled_job_has_no_leftovers(supervisor):
    key = supervisor.launch("sh", "-c", "sleep 100 & sleep 100")

    supervisor.say(StopProcesses(key, 1.0))

    assert supervisor.ended(key).leftovers is None


def test_what_a_job_leaves_behind_is_not_taken_for_another_jobs(supervisor, tmp_path):
    """Both are children of the launcher when the first job ends."""
    script = "(setsid env -i /bin/sh -c 'echo $$ > PID; exec sleep 100' >/dev/null 2>&1 &); sleep 100"
    other = supervisor.launch("sh", "-c", script.replace("PID", f"{tmp_path}/pid"))
    pid = int(written(tmp_path / "pid"))

    end = supervisor.shell("setsid env -i /bin/sleep 100 >/dev/null 2>&1 & exit 5")

    assert end.exit_code == 5
    assert is_alive(pid)
    supervisor.say(StopProcesses(other, 1.0))
    supervisor.ended(other)


def test_another_job_that_has_its_output_open_is_not_ended_with_it(supervisor, tmp_path):
    key = supervisor.launch("sleep", "1000")
    output = f"/proc/{supervisor.started(key).pid}/fd/1"
    waits = f"echo > {tmp_path}/here; while ! test -e {tmp_path}/enough; do sleep 0.01; done"
    other = supervisor.launch("sh", "-c", f"exec 3> {output}; {waits}")
    written(tmp_path / "here")

    supervisor.say(StopProcesses(key, PATIENCE))

    assert supervisor.ended(key).outcome is Outcome.CANCELLED
    (tmp_path / "enough").touch()
    assert supervisor.ended(other).outcome is Outcome.SUCCEEDED


def test_a_reader_of_the_first_process_s_output_may_finish(host, supervisor):
    """In `program > >(tee file)` the reader outlives the program by a moment."""
    key = supervisor.launch(
        "bash", "-c", 'exec > >(while read -r line; do sleep 0.02; echo "<$line>"; done); seq 3'
    )

    supervisor.ended(key)

    assert host.log(key).read_text() == "<1>\n<2>\n<3>\n"


def test_the_time_of_the_end_is_the_first_process_s(supervisor):
    end = supervisor.shell("(trap '' TERM; sleep 100) & exit 0", grace=1.0)

    assert end.finished_at - end.started_at < 1.0


# --- a launcher's descriptors ---------------------------------------------------------------------------


def highest_descriptor(pid: int) -> int:
    return max(int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir())


def limit_descriptors(pid: int, limit: int) -> None:
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))


async def test_processes_that_the_kernel_cannot_watch_are_killed_all_the_same(monkeypatch):
    """At the limit on watched descriptors (epoll(7)) the launcher gave up after the first signal."""
    loop = asyncio.get_running_loop()
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)  # noqa: ASYNC220 - it returns at once

    class OneProcess:
        async def scan(self, _: int) -> Scan:
            found = None if child.poll() is not None else read_process(child.pid)
            return Scan({} if found is None or found.is_dead else {child.pid: found}).with_children()

    add_reader = loop.add_reader

    def full(fd: int, callback: Callable[..., None], *arguments: object) -> None:
        if "pidfd" in str(Path(f"/proc/self/fd/{fd}").readlink()):  # not the alarm of the deadlines
            refused.append(fd)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add_reader(fd, callback, *arguments)

    refused: list[int] = []
    first = read_process(child.pid)
    assert first is not None
    monkeypatch.setattr(loop, "add_reader", full)
    tree = Tree(AttemptKey(STORE, 1, 1), None, 0.0, child.pid, first.ticks)
    try:
        await Ladder(tree, cast("Scanner", OneProcess()), Deadlines(loop), grace=0.0).bring_down()

        assert child.wait(PATIENCE) == -signal.SIGKILL
        assert refused
    finally:
        child.kill()
        child.wait()
