"""The check of suspended jobs sees what bgd does not know, and its report tells where the sides differ."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing

import pytest

from bgd.core.spec import JobSpec
from bgd.wire.replies import Submitted
from bgd.wire.requests import Submit, Suspend
from tests.end_to_end.chaos import Caller, Rig
from tests.end_to_end.clients import Action
from tests.end_to_end.suspension import is_as_told, report
from tests.support import wait_until


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    rig.start()
    yield rig
    rig.close()


def test_a_suspended_job_that_runs_behind_bgd_s_back_is_found_and_reported(rig: Rig):
    with closing(Caller(rig.socket)) as caller:
        submitted = caller.ask(Submit(1, JobSpec(argv=("/bin/sleep", "1000"), cwd="/", env={})))
        assert isinstance(submitted, Submitted)
        [job] = submitted.jobs
        wait_until(lambda: caller.show(job)[1][-1:] and caller.show(job)[1][-1].pid)
        request, asked_at = Suspend(1, [job]), time.time()
        action = Action(0, request, asked_at, time.time(), caller.ask(request))
        wait_until(lambda: is_as_told(caller, job))
        [attempt] = caller.show(job)[1]
        assert attempt.pid is not None

        os.kill(attempt.pid, signal.SIGCONT)

        assert not is_as_told(caller, job)
    told = report(rig, job, [action], [])
    assert "suspended=True" in told.partition("daemon:")[2].partition("processes:")[0]
    assert f"{attempt.pid} Name: sleep, State: " in told
    assert "State: T" not in told
    assert "AttemptStarted(" in told.partition("launcher:")[2].partition("requests:")[0]
    assert repr(action) in told
