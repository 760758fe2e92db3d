"""The check of suspended jobs sees what bgd does not know, and its report tells where the sides differ."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from bgd.core.job import State
from bgd.core.spec import JobSpec
from bgd.wire.replies import Submitted
from bgd.wire.requests import Continue, Submit, Suspend
from tests.end_to_end.chaos import Caller, Rig
from tests.end_to_end.clients import Action
from tests.end_to_end.suspension import is_as_told, report, tree_of
from tests.support import wait_until


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    rig.start()
    yield rig
    rig.close()


def submit(caller: Caller, *argv: str) -> tuple[int, int]:
    """Start a job; return its id and the pid of its first process."""
    submitted = caller.ask(Submit(1, JobSpec(argv=argv, cwd="/", env={})))
    assert isinstance(submitted, Submitted)
    [job] = submitted.jobs
    wait_until(lambda: caller.show(job)[0].state is State.RUNNING and caller.show(job)[1][-1].pid)
    pid = caller.show(job)[1][-1].pid
    assert pid is not None
    return job, pid


def test_a_suspended_job_that_runs_behind_bgd_s_back_is_found_and_reported(rig: Rig):
    with closing(Caller(rig.socket)) as caller:
        job, pid = submit(caller, "/bin/sleep", "1000")
        request, asked_at = Suspend(1, [job]), time.time()
        action = Action(0, request, asked_at, time.time(), caller.ask(request))
        wait_until(lambda: is_as_told(caller, job))

        os.kill(pid, signal.SIGCONT)

        assert not is_as_told(caller, job)
    told = report(rig, job, [action], [])
    assert "suspended=True" in told.partition("daemon:")[2].partition("processes:")[0]
    assert f"{pid} Name: sleep, State: " in told
    assert "State: T" not in told
    assert "AttemptStarted(" in told.partition("launcher:")[2].partition("requests:")[0]
    assert repr(action) in told


def test_a_job_that_stands_between_vfork_and_exec_counts_as_suspended(rig: Rig):
    os.mkfifo(fifo := rig.folder / "fifo")
    # the child opens the FIFO before it runs `true`, and until then its parent waits in the kernel
    opens = f"[(os.POSIX_SPAWN_OPEN, 0, {str(fifo)!r}, os.O_RDONLY, 0)]"
    script = f"import os; os.waitpid(os.posix_spawn('/bin/true', ['true'], {{}}, file_actions={opens}), 0)"
    with closing(Caller(rig.socket)) as caller:
        job, pid = submit(caller, sys.executable, "-c", script)
        wait_until(lambda: len([*tree_of(pid)]) == 2)

        caller.ask(Suspend(1, [job]))
        wait_until(lambda: [state_of(each) for each in tree_of(pid)] == ["D", "T"])
        assert is_as_told(caller, job)

        caller.ask(Continue(1, [job]))
        wait_until(lambda: is_as_told(caller, job))
        fifo.write_text("")  # both ends are open, which is enough
        caller.wait([job])
        assert caller.show(job)[0].state is State.SUCCEEDED


def state_of(pid: int) -> str:
    """Return the state letter in /proc/PID/stat."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
