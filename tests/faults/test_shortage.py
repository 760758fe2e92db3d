"""Descriptors or processes run out: clients beyond the limit are told, jobs wait, and all recovers."""

from __future__ import annotations

import resource
import select
import socket
import time
from contextlib import closing
from pathlib import Path

from bgd.core.job import State
from bgd.core.spec import Isolation, JobSpec
from bgd.wire.replies import Submitted
from bgd.wire.requests import SubmitMany
from tests.end_to_end.chaos import Caller, Rig
from tests.faults.figures import record, seconds, times
from tests.faults.watching import connected, injected

FEW = 64  # descriptors
CLASSES = '[security]\nallowed_classes = ["work.*"]\n[python]\npath = ["{folder}"]\n'
FORKS = "clone,clone3,fork,vfork"


def test_a_connection_beyond_the_limit_is_told_and_leaves_the_others_alone(tmp_path: Path):
    rig = Rig(tmp_path, more='[http]\nlisten = ""\n')
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, before[1]))
    try:
        rig.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    tries = times(500, 100)
    try:
        with closing(Caller(rig.socket)) as first:
            lines = lines_in(rig)
            began = time.monotonic()
            connections = [connected(rig, greet=False) for _ in range(tries)]
            answers = [connection.recv(1000) for connection in connections if told(connection)]
            assert sum(b"too many connections" in answer for answer in answers) == len(answers)
            assert 0 < tries - len(answers) < FEW
            assert ran(first, [JobSpec(argv=("/bin/true",), env={}, cwd="/")])
            said = lines_in(rig) - lines
            assert said <= time.monotonic() - began + 1
            for connection in connections:
                connection.close()
            with closing(Caller(rig.socket)) as next_one:
                assert ran(next_one, [JobSpec(argv=("/bin/true",), env={}, cwd="/")])
    finally:
        rig.close()
    record(
        f"{tries} clients connect to a daemon that may open {FEW} files",
        told_that_they_are_too_many=len(answers),
        served=tries - len(answers),
        log_lines=said,
    )


def test_jobs_wait_while_no_process_can_be_started(tmp_path: Path):
    (tmp_path / "work.py").write_text("def f(path):\n    open(path, 'a').write('start\\n')\n")
    rig = Rig(tmp_path, slots=8, more=CLASSES.format(folder=tmp_path))
    truth = tmp_path / "truth"
    command = JobSpec(argv=("/bin/sh", "-c", 'echo start >> "$0"', str(truth)), env={}, cwd="/")
    calls = [
        JobSpec(target="work:f", arguments=f'{{"args": ["{truth}"]}}', retries=0, cwd="/", isolation=each)
        for each in (Isolation.FORK, Isolation.SPAWN)
    ]
    jobs = [command, *calls] * times(20, 5)
    rig.start()
    try:
        with closing(Caller(rig.socket)) as caller:
            with injected(rig.launcher_pid(), FORKS, "error=EAGAIN", "NO START HAS FAILED"):
                began, lines = time.monotonic(), lines_in(rig)
                submitted = caller.ask(SubmitMany(id=1, specs=jobs))
                assert isinstance(submitted, Submitted)
                select.select([], [], [], seconds(10.0, 2.5))  # the time in which nothing can be started
                assert not truth.exists()
                assert {caller.show(job)[0].state for job in submitted.jobs} <= {State.RUNNING, State.QUEUED}
            over_at = time.monotonic()
            caller.wait(submitted.jobs)
            late = time.monotonic() - over_at
            said = lines_in(rig) - lines
            assert said <= time.monotonic() - began + 1
            for job in submitted.jobs:
                view, attempts = caller.show(job)
                assert (view.state, len(attempts)) == (State.SUCCEEDED, 1)
    finally:
        rig.close()
    assert truth.read_text().split() == ["start"] * len(jobs)
    record(
        f"no process can be started for {seconds(10.0, 2.5):g} s (EAGAIN, by strace)",
        jobs=len(jobs),
        failed=0,
        started_twice=0,
        log_lines=said,
        all_done_after_s=round(late),
    )


def told(connection: socket.socket) -> bool:
    """Tell whether the daemon says something to a silent client at once: that there are too many."""
    return bool(select.select([connection], [], [], 0.05)[0])


def ran(caller: Caller, specs: list[JobSpec]) -> bool:
    submitted = caller.ask(SubmitMany(id=1, specs=specs))
    assert isinstance(submitted, Submitted), submitted
    caller.wait(submitted.jobs)
    return all(caller.show(job)[0].state is State.SUCCEEDED for job in submitted.jobs)


def lines_in(rig: Rig) -> int:
    return len((rig.folder / "log").read_text().splitlines())
