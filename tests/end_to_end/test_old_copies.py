"""An older copy of the database is put in its place, or strangers greet the launcher: nothing runs twice."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from bgd.daemon.storage.recovery import MARGIN
from bgd.wire.framing import frame
from bgd.wire.launching import MAX_LAUNCHING_FRAME, Goodbye, Greeting, encode
from tests.support import DEADLINE, Daemon, wait_until


@pytest.fixture
def home(tmp_path):
    running = Daemon(tmp_path)
    running.start()
    yield running
    if running.process.poll() is None:
        running.stop()
    running.process.wait(DEADLINE)


def runs_of(home):
    return (home.folder / "runs").read_text().split()


def put_back(home, copy):
    """Stop bgd and replace the database with a backup, as people do by hand."""
    home.process.send_signal(signal.SIGTERM)
    home.process.wait(DEADLINE)
    (home.state_dir / "bgd.db-wal").unlink(missing_ok=True)
    shutil.copyfile(copy, home.state_dir / "bgd.db")


def backed_up(home):
    copy = home.folder / "old.db"
    done = home.bgctl("backup", str(copy))
    assert done.returncode == 0, done.stderr
    return copy


def refused_start(home):
    """Start a bgd that refuses to serve; return its messages."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "bgd"],
        env=home.env,
        cwd=home.folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 74
    return done.stderr


@pytest.mark.parametrize("restarts", [0, 5])
def test_jobs_in_an_older_copy_of_the_database_are_held_and_not_run_again(home, restarts):
    with home.client() as client:
        # keeps the launcher, which remembers the jobs it ran, alive
        client.submit(["sleep", "600"])
        waiting = client.submit(["sh", "-c", "echo $BGD_JOB_ID >> runs"], cwd=str(home.folder), hold=True)
        copy = backed_up(home)
        waiting.release()
        waiting.wait(DEADLINE)
    for _ in range(restarts):
        home.process.send_signal(signal.SIGTERM)
        home.process.wait(DEADLINE)
        home.start()
    with home.client() as client:
        client.submit(["true"]).wait(DEADLINE)
    put_back(home, copy)
    log = refused_start(home)
    assert "is an older copy: the launcher has run jobs that it does not know" in log
    assert "Traceback" not in log

    home.start()
    with home.client() as client:
        new = client.submit(["true"])
        assert new.id > MARGIN
        new.wait(DEADLINE)
        assert client.job(waiting.id).state == "held"
    assert runs_of(home) == [str(waiting.id)]


def test_an_older_copy_uses_no_id_twice(home):
    home.submit("true")
    copy = backed_up(home)
    latest = home.submit("true")
    home.bgctl("wait", latest)
    put_back(home, copy)

    first = home.bgctl("submit", "true")
    second = home.bgctl("submit", "true")

    assert (first.returncode, first.stdout) == (69, "")
    assert "is an older copy" in first.stderr
    assert int(second.stdout) > MARGIN
    assert home.bgctl("shutdown").returncode == 0  # of the daemon that bgctl has started


def test_an_older_copy_is_noticed_while_the_launcher_does_not_answer(home):
    with home.client() as client:
        client.submit(["sleep", "600"])
        copy = backed_up(home)
        client.submit(["true"]).wait(DEADLINE)
        launcher = client.info().launcher_pid
    os.kill(launcher, signal.SIGSTOP)
    try:
        put_back(home, copy)
        assert "is an older copy" in refused_start(home)
    finally:
        os.kill(launcher, signal.SIGCONT)
    home.start()


def test_an_older_copy_is_noticed_even_if_no_job_has_started_since(home):
    copy = backed_up(home)
    held = int(home.submit("--hold", "true"))
    put_back(home, copy)
    assert "is an older copy" in refused_start(home)

    home.start()
    assert int(home.submit("true")) > held


def recovered(home, copy):
    """Stop bgd, lose its database, and have `bgd --recover` restore the copy; return its report."""
    home.process.send_signal(signal.SIGTERM)
    home.process.wait(DEADLINE)
    for lost in home.state_dir.glob("bgd.db*"):
        lost.unlink()
    command = [sys.executable, "-P", "-m", "bgd", "--recover", str(copy)]
    return subprocess.check_output(command, env=home.env, cwd=home.folder, text=True, timeout=DEADLINE)


def put_back_and_refused(home, copy):
    put_back(home, copy)
    return refused_start(home)


@pytest.mark.parametrize(
    "ways",
    [
        [put_back_and_refused, put_back_and_refused],
        [recovered, put_back_and_refused],
        [put_back_and_refused, recovered],
        [recovered, recovered],
    ],
)
def test_the_same_copy_put_back_twice_uses_no_id_twice_although_no_job_wrote_a_log(home, ways):
    with home.client() as client:
        client.submit(["sleep", "600"])  # keeps the launcher alive, which knows the jobs it runs
        copy = backed_up(home)
        ids = {client.submit(["sleep", "600"]).id}
    for number, replace in enumerate(ways):
        report = replace(home, copy)
        home.start()
        with home.client() as client:
            script = f"until [ -e go{number} ]; do sleep 0.05; done; touch ran{number}"
            job = client.submit(["sh", "-c", script], cwd=str(home.folder))
            assert job.id not in ids
            assert f"new jobs get ids from {job.id} on" in report.lower()
            ids.add(job.id)
            (home.folder / f"go{number}").touch()
            job.wait(DEADLINE)
            assert (home.folder / f"ran{number}").exists()
            ids.add(client.submit(["sleep", "600"]).id)


def test_a_job_that_ran_at_the_time_of_the_copy_and_has_ended_since_is_not_run_again(home):
    with home.client() as client:
        client.submit(["sleep", "600"])
        script = "echo $BGD_JOB_ID >> runs; until [ -e go ]; do sleep 0.05; done"
        job = client.submit(["sh", "-c", script], cwd=str(home.folder), rerun=True)
        wait_until((home.folder / "runs").exists)
        copy = backed_up(home)
        (home.folder / "go").touch()
        job.wait(DEADLINE)
    put_back(home, copy)
    refused_start(home)

    home.start()
    with home.client() as client:
        client.submit(["true"]).wait(DEADLINE)
        ended = client.job(job.id)
        assert (ended.state, ended.outcome) == ("failed", "unknown")
    assert runs_of(home) == [str(job.id)]


def test_a_stranger_who_greets_the_launcher_stops_nothing(home):
    with home.client() as client:
        sleeper = client.submit(["sleep", "600"])
        client.submit(["true"]).wait(DEADLINE)
        store = client.info().store_id
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(home.state_dir / "launcher.sock"))
            stranger.sendall(frame(encode(Greeting(1, store, 10**9)), MAX_LAUNCHING_FRAME))
            stranger.sendall(frame(encode(Goodbye()), MAX_LAUNCHING_FRAME))
            stranger.settimeout(DEADLINE)
            assert stranger.recv(1)
        client.submit(["true"]).wait(DEADLINE)
        assert client.job(sleeper.id).state == "running"
    assert "continuing as generation 1000000001" in (home.folder / "bgd.log").read_text()
    home.process.send_signal(signal.SIGTERM)
    assert home.process.wait(DEADLINE) == os.EX_OK
    home.start()
    with home.client() as client:
        client.submit(["true"]).wait(DEADLINE)
