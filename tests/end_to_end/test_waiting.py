"""Waiting jobs and the settings of slots and queues survive a kill of the daemon."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from bgd import Client, Outcome, State
from tests.support import DEADLINE, Daemon, wait_until


class Mortal(Daemon):
    """A daemon that is killed and replaced by another."""

    def die_and_live_again(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(DEADLINE)
        self.start()


@pytest.fixture
def mortal(tmp_path):
    daemon = Mortal(tmp_path)
    daemon.start()
    yield daemon
    daemon.stop()


def gated(client: Client, daemon: Daemon, name: str):
    """Return a job that runs until the gate of this name is opened with its exit code, and the opener."""
    gate = daemon.folder / name
    os.mkfifo(gate)
    job = client.submit(["/bin/sh", "-c", f"echo began; read code < {gate}; exit $code"])
    wait_until(lambda: b"".join(part.data for part in client.logs(job.id)) == b"began\n")
    return job, lambda code: gate.write_text(f"{code}\n")


def test_waiting_jobs_wait_on_after_a_kill_and_then_run(mortal):
    with mortal.client() as client:
        client.set_slots(4)
        before, open_gate = gated(client, mortal, "gate")
        held = client.submit(["true"], hold=True, key="single")
        dated = client.submit(["true"], at=time.time() + 10)  # a restart takes less, on a busy machine too
        after = client.submit(["true"], after=[before])
        never = client.submit(["true"], after=[held], expires=1.0)
        doomed = client.submit(["true"], after_any=[before, dated])
        client.set_queue("slow", None)
        client.pause("slow")
        paused = client.submit(["true"], queue="slow")

        mortal.die_and_live_again()

        states = [job.refresh().state for job in (held, dated, after, doomed, paused)]
        assert states == [State.HELD, State.SCHEDULED, State.BLOCKED, State.BLOCKED, State.QUEUED]
        again = client.submit(["true"], key="single")
        assert (again.id, again.is_new) == (held.id, False)
        assert never.wait(DEADLINE).state is State.CANCELLED
        assert (never.reason or "").startswith("expired")

        open_gate(0)
        held.release()
        client.resume("slow")

        finished = client.wait([held.id, dated.id, after.id, doomed.id, paused.id], timeout=DEADLINE)
        assert [job.state for job in finished] == [State.SUCCEEDED] * 5
        assert client.queues().slots == 4
        started_at = dated.refresh().started_at
        assert started_at is not None
        assert started_at >= dated.at


def test_a_launcher_that_is_stopped_is_named_as_what_a_job_waits_for(mortal):
    with mortal.client() as client:
        wait_until(lambda: client.info().launcher_pid)
        launcher = client.info().launcher_pid
        assert launcher is not None
        readyz = f"http://127.0.0.1:{urlsplit(client.info().http).port}/readyz"
        os.kill(launcher, signal.SIGSTOP)
        try:
            job = client.submit(["/bin/true"])
            wait_until(lambda: f"kill -CONT {launcher}" in mortal.bgctl("explain", str(job.id)).stdout)
            assert f"kill -CONT {launcher}" in mortal.bgctl("show", str(job.id)).stdout
            with pytest.raises(HTTPError, match="503") as refused:
                urlopen(readyz)
            assert f"the launcher (process {launcher}) is stopped" in refused.value.read().decode()
        finally:
            os.kill(launcher, signal.SIGCONT)
        assert job.wait(DEADLINE).state is State.SUCCEEDED
        assert urlopen(readyz).read() == b"ready\n"
    log = (mortal.folder / "bgd.log").read_text()
    assert log.count(f"the launcher (process {launcher}) is stopped") == 1
    assert log.count(f"the launcher (process {launcher}) is no longer stopped") == 1


def test_a_job_that_exited_while_the_launcher_was_stopped_is_not_called_suspended(mortal):
    with mortal.client() as client:
        job = client.submit(["sleep", "100"])
        wait_until(lambda: job.attempts() and job.attempts()[0].pid)
        launcher = client.info().launcher_pid
        assert launcher is not None
        os.kill(launcher, signal.SIGSTOP)
        try:
            wait_until(lambda: _is_stopped(launcher))
            os.kill(job.attempts()[0].pid or 0, signal.SIGKILL)
            for words in (["suspend", "last"], ["signal", "--signal", "TERM", "last"], ["continue", "last"]):
                told = mortal.bgctl(*words)
                assert told.returncode != 0
                assert f"is not reached yet: the launcher (process {launcher}) is stopped" in told.stderr
        finally:
            os.kill(launcher, signal.SIGCONT)
        assert job.wait(DEADLINE).outcome is Outcome.SIGNAL


def test_a_suspended_job_stays_stopped_until_it_is_continued(mortal):
    with mortal.client() as client:
        # a shell that is stopped while it starts a program does not count as stopped, so it execs
        job = client.submit(["sh", "-c", "echo tick; exec sleep 60"], timeout=3600)
        wait_until(lambda: b"tick" in b"".join(part.data for part in client.logs(job.id)))
        job.suspend()
        wait_until(lambda: _is_stopped(job.refresh().attempts()[0].pid))
        mortal.die_and_live_again()
        assert job.refresh().suspended
        assert _is_stopped(job.attempts()[0].pid)

        job.continue_()

        wait_until(lambda: not _is_stopped(job.attempts()[0].pid))
        assert job.cancel() is State.STOPPING
        assert job.wait(DEADLINE).state is State.CANCELLED


def test_jobs_after_one_that_fails_while_the_daemon_is_away_are_cancelled(mortal):
    with mortal.client() as client:
        before, open_gate = gated(client, mortal, "gate")
        after = client.submit(["true"], after=[before])
        last = client.submit(["true"], after=[after])
        anyhow = client.submit(["true"], after_any=[before])
        mortal.process.send_signal(signal.SIGKILL)
        mortal.process.wait(DEADLINE)
        open_gate(3)
        mortal.start()

        client.wait([last.id, anyhow.id], timeout=DEADLINE)

        states = [job.refresh().state for job in (before, after, last, anyhow)]
        assert states == [State.FAILED, State.CANCELLED, State.CANCELLED, State.SUCCEEDED]
        assert after.reason == f"job {before.id}, which had to succeed first, failed"


def _is_stopped(pid: int | None) -> bool:
    """Tell whether a process is stopped; `pid` is None while the daemon does not know it."""
    return pid is not None and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
