"""An upgrade while jobs run: the next version changes the tables, or fails to."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

from bgd.core.job import State
from bgd.core.spec import JobSpec
from bgd.wire.replies import Submitted
from bgd.wire.requests import SubmitMany
from tests.end_to_end.chaos import Caller, Rig
from tests.faults.figures import record
from tests.support import DEADLINE, wait_until

RUNNING = 20
JOB = 'echo began >> "$1"; until test -e "$2"; do sleep 0.05; done; exit "$3"'

# The program as it may be after the next release, with one step more for the tables
NEXT = """
import sys
from bgd.daemon.storage import schema
schema.MIGRATIONS += (sys.argv.pop(1),)
schema.VERSION = len(schema.MIGRATIONS)
from bgd.__main__ import main
sys.exit(main())
"""
GOOD = "CREATE TABLE novelty (job INTEGER PRIMARY KEY); ALTER TABLE jobs ADD COLUMN novel INTEGER;"
BAD = "CREATE TABLE novelty (job INTEGER PRIMARY KEY); ALTER TABLE no_such_table ADD COLUMN novel INTEGER;"


def test_jobs_run_on_through_an_upgrade_that_changes_the_tables(tmp_path: Path):
    rig = Rig(tmp_path, slots=RUNNING)
    rig.start()
    try:
        jobs = start_jobs(rig, tmp_path)
        rig.stop()
        failed = next_version(rig, BAD)
        assert failed.wait(DEADLINE) != 0
        assert "no_such_table" in (tmp_path / "log").read_text()
        rig.start()  # the old one again, on the file as it was
        assert states(rig, jobs) == [State.RUNNING] * RUNNING
        rig.stop()
        rig.take(next_version(rig, GOOD))
        assert states(rig, jobs) == [State.RUNNING] * RUNNING
        (tmp_path / "gate").touch()
        with contextlib.closing(Caller(rig.socket)) as caller:
            caller.wait(jobs)
            for number, job in enumerate(jobs):
                view, attempts = caller.show(job)
                assert (view.exit_code, len(attempts)) == (number, 1)
        assert (tmp_path / "began").read_text().count("began") == RUNNING
    finally:
        (tmp_path / "gate").touch()
        rig.close()
    record(
        "an upgrade that changes the tables, after one that fails to",
        jobs_running=RUNNING,
        right_ends=RUNNING,
        started_twice=0,
        file_usable_after_the_failure="yes",
    )


def start_jobs(rig: Rig, folder: Path) -> list[int]:
    specs = [
        JobSpec(
            argv=("/bin/sh", "-c", JOB, "job", str(folder / "began"), str(folder / "gate"), str(number)),
            cwd="/",
            env={"PATH": "/usr/bin:/bin"},
        )
        for number in range(RUNNING)
    ]
    with contextlib.closing(Caller(rig.socket)) as caller:
        reply = caller.ask(SubmitMany(id=1, specs=specs))
        assert isinstance(reply, Submitted), reply
    began = folder / "began"
    wait_until(lambda: began.exists() and began.read_text().count("began") == RUNNING)
    return reply.jobs


def next_version(rig: Rig, step: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", NEXT, step, "--config", str(rig.config)]
    with (rig.folder / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def states(rig: Rig, jobs: list[int]) -> list[State]:
    with contextlib.closing(Caller(rig.socket)) as caller:
        return [caller.show(job)[0].state for job in jobs]
