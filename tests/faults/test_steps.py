"""A step that was recorded never runs again, whatever is killed, and whenever."""

from __future__ import annotations

import os
import random
import signal
from functools import partial
from pathlib import Path

import pytest

from bgd import Job, State
from tests.faults.figures import record, times
from tests.support import DEADLINE, Daemon, wait_until

JOB_KILLS = times(1000, 20)  # of jobs that kill themselves
DAEMON_KILLS = times(100, 2)
LAUNCHER_KILLS = times(30, 1)
AT_ONCE = 4  # jobs

MODULE = """
import os, random, signal, threading, time
import bgd_job

def note(place, *words):
    with open(f"{place}/{bgd_job.current().id}", "a", buffering=1) as file:
        print(*words, file=file)

def call(place, number, pause):
    time.sleep(random.uniform(0, pause))
    note(place, "called", number)
    return number

def die_soon():
    time.sleep(random.uniform(0, 0.04))
    os.kill(os.getpid(), signal.SIGKILL)

def work(place, kills):
    bgd_job.step("begin", int)
    if bgd_job.current().attempt <= kills:
        threading.Thread(target=die_soon, daemon=True).start()
    number, pause = 0, 0 if kills else 0.06  # a job has 10,000 steps at most
    while not os.path.exists(f"{place}/enough"):
        number += 1
        assert bgd_job.step(f"step {number % 7}", call, place, number, pause) == number
        note(place, "recorded", number)
        if bgd_job.current().attempt > kills > 0:
            return number
    return number
"""
CONFIGURATION = f"""
[security]
allowed_classes = ["lives.*"]
[python]
path = ["{{folder}}"]
[daemon]
slots = {AT_ONCE}
grace = "1s"
"""
OPTIONS = {"retries": 1000, "retry_delay": 0, "rerun": True, "jitter": 0}

pytestmark = pytest.mark.daemon(CONFIGURATION, {"lives.py": MODULE})


def test_a_recorded_step_does_not_run_again_after_its_job_was_killed(daemon, tmp_path):
    each = -(-JOB_KILLS // AT_ONCE)
    with daemon.client() as client:
        jobs = [client.call("lives:work", [str(tmp_path), each], **OPTIONS) for _ in range(AT_ONCE)]
        ended = [job.wait(DEADLINE * (1 + JOB_KILLS / 100)) for job in jobs]

    assert [(job.state, job.attempt) for job in ended] == [(State.SUCCEEDED, each + 1)] * AT_ONCE
    steps = sum(check(tmp_path / str(job.id)) for job in jobs)
    record("jobs with steps are killed at any moment", kills=AT_ONCE * each, steps=steps, run_again=0)


def test_a_recorded_step_does_not_run_again_after_daemon_and_launcher_were_killed(own_daemon, tmp_path):
    kills = ["daemon"] * DAEMON_KILLS + ["launcher"] * LAUNCHER_KILLS
    random.shuffle(kills)
    with own_daemon.client() as client:
        jobs = [client.call("lives:work", [str(tmp_path), 0], **OPTIONS) for _ in range(AT_ONCE)]
    files = [tmp_path / str(job.id) for job in jobs]
    for what in kills:
        sizes = {file: size_of(file) for file in files}
        wait_until(partial(all_go_on, own_daemon, sizes))
        if what == "daemon":
            own_daemon.process.kill()
            own_daemon.process.wait(DEADLINE)
            own_daemon.start()
        else:
            wait_until(partial(launcher_killed, own_daemon))

    (tmp_path / "enough").touch()
    wait_until(lambda: all_succeeded(own_daemon, jobs))
    steps = sum(map(check, files))
    record(
        "daemon and launcher are killed while jobs record steps",
        kills_of_the_daemon=DAEMON_KILLS,
        kills_of_the_launcher=LAUNCHER_KILLS,
        steps=steps,
        run_again=0,
    )


def launcher_killed(daemon: Daemon) -> bool:
    """Kill the launcher; return False if there is none yet after the last one."""
    with daemon.client() as client:
        pid = client.info().launcher_pid
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def all_go_on(daemon: Daemon, sizes: dict[Path, int]) -> bool:
    """Return whether all jobs have written since; bgd gives up a job whose outcome was lost three times."""
    retry_failed(daemon)
    return all(size_of(file) > size for file, size in sizes.items())


def all_succeeded(daemon: Daemon, jobs: list[Job]) -> bool:
    retry_failed(daemon)
    return all(job.refresh().state is State.SUCCEEDED for job in jobs)


def retry_failed(daemon: Daemon) -> None:
    with daemon.client() as client:
        if failed := client.jobs(states=["failed"]):
            client.retry(failed)


def check(file: Path) -> int:
    """Check that no step was called after it was recorded; return how many there are."""
    recorded, called = 0, set[int]()
    for line in file.read_text().splitlines():
        what, number = line.split()
        if what == "recorded":
            recorded = max(recorded, int(number))
        else:
            assert int(number) > recorded, f"step {number} ran again"
            called.add(int(number))
    assert called == set(range(1, max(called) + 1))
    return len(called)
