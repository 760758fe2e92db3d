"""An upgrade while jobs run: from earlier releases, and to one that changes the tables or fails to."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from bgd import Client, JobFailed
from bgd.core.job import Outcome, State
from bgd.core.spec import JobSpec
from bgd.daemon.storage.schema import FIRST, VERSION
from bgd.wire.replies import Submitted
from bgd.wire.requests import SubmitMany
from tests.end_to_end.chaos import Caller, Rig
from tests.faults.figures import record, times
from tests.faults.prober import Prober
from tests.support import DEADLINE, ROOT, wait_until

RUNNING = 20
WAITING = 5

# The commit with the oldest tables, launcher and journal that every later bgd has to work with
OLDEST, TABLES = "4fbb595b", FIRST
KILLS = times(50, 5)
LONGEST_START = 0.5  # seconds until it is killed
# Twenty of these wait at a time, and each look is a process: a short sleep would take half a processor
JOB = 'echo began >> "$1"; until test -e "$2"; do sleep 0.5; done; exit "$3"'

# The program of a future release, which changes the tables once more
NEXT = """
import sys
from bgd.daemon.storage import schema
schema.MIGRATIONS += (sys.argv.pop(1),)
schema.VERSION += 1
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
        rig.start()  # the old release again, on the unchanged file
        assert states(rig, jobs) == [State.RUNNING] * RUNNING
        rig.stop()
        rig.take(next_version(rig, GOOD))
        assert states(rig, jobs) == [State.RUNNING] * RUNNING
        finish(rig, tmp_path, jobs)
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


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of the oldest bgd, for all tests, so that Python compiles it once."""
    return source_at(OLDEST, tmp_path_factory.mktemp("oldest") / "release")


def test_jobs_run_on_through_an_upgrade_from_an_older_release(tmp_path: Path, source: Path):
    rig = Rig(tmp_path, slots=RUNNING)
    rig.start(source)
    try:
        jobs = start_jobs(rig, tmp_path, RUNNING + WAITING)
        assert (version_of(rig), source_of(rig.launcher_pid())) == (TABLES, str(source))
        with Prober(rig.socket) as prober:
            rig.stop()
            rig.start()
            assert version_of(rig) == VERSION
            assert states(rig, jobs) == [State.RUNNING] * RUNNING + [State.QUEUED] * WAITING
        finish(rig, tmp_path, jobs)
    finally:
        (tmp_path / "gate").touch()
        rig.close()
    assert prober.answered > 0
    record(
        "an upgrade from the oldest tables and launcher that bgd works with",
        jobs_running=RUNNING,
        right_ends=RUNNING,
        jobs_queued=WAITING,
        lost=0,
        started_twice=0,
        connects_answered=prober.answered,
        connects_refused=prober.refused,
        without_an_answer=f"{prober.longest_gap * 1000:.0f} ms",
    )


def test_an_upgrade_that_is_killed_again_and_again_succeeds_in_the_end(tmp_path: Path):
    rig = Rig(tmp_path, slots=RUNNING)
    rig.start()
    try:
        jobs = start_jobs(rig, tmp_path)
        rig.stop()
        before = 0  # kills that came before the tables had changed
        for number in range(KILLS):  # each one gets a little further
            starting = next_version(rig, GOOD)
            with contextlib.suppress(subprocess.TimeoutExpired):
                starting.wait(LONGEST_START * number / KILLS)
            starting.kill()
            assert starting.wait() == -signal.SIGKILL
            before += version_of(rig) == VERSION
        rig.take(next_version(rig, GOOD))
        assert version_of(rig) == VERSION + 1
        assert states(rig, jobs) == [State.RUNNING] * RUNNING
        finish(rig, tmp_path, jobs)
    finally:
        (tmp_path / "gate").touch()
        rig.close()
    record(
        "an upgrade that changes the tables is killed (kill -9) on its way, and begun again",
        kills=KILLS,
        before_the_tables_had_changed=before,
        jobs_running=RUNNING,
        right_ends=RUNNING,
        started_twice=0,
    )


WORK = """
import os, time

def add(one, two):
    return one + two

def process():
    return os.getpid()

def boom():
    raise KeyError("no such report")

def leave(code):
    os._exit(code)
"""
CLASS_JOBS = """
[security]
allowed_classes = ["work.*"]
[python]
path = ["{folder}"]
[retry]
retries = 0
"""


def test_the_launcher_of_an_earlier_release_runs_what_a_new_bgd_gives_it(tmp_path: Path, source: Path):
    (tmp_path / "work.py").write_text(WORK)
    rig = Rig(tmp_path, slots=4, more=CLASS_JOBS.format(folder=tmp_path))
    rig.start(source)
    try:
        with Client(str(rig.socket), timeout=DEADLINE) as client:
            before = client.submit(
                ["sh", "-c", f"until test -e {tmp_path}/gate; do sleep 0.05; done; exit 7"]
            )
            wait_until(lambda: before.refresh().state == State.RUNNING)
            rig.stop()
            rig.start()
            launcher = rig.launcher_pid()
            codes = {code: client.submit(["sh", "-c", f"echo {code}; exit {code}"]) for code in (0, 3, 255)}
            killed = client.submit(["sh", "-c", "kill -9 $$"])
            late = client.submit(["sleep", "60"], timeout=0.2)
            missing = client.submit(["/no/such/program"], check=False)
            cancelled = client.submit(["sleep", "60"])
            wait_until(lambda: cancelled.refresh().state == State.RUNNING)
            cancelled.cancel()
            added = [client.call("work:add", [2, 3], isolation=how) for how in ("fork", "spawn", "reuse")]
            failed = [client.call("work:boom", isolation=how) for how in ("fork", "spawn", "reuse")]
            left = [client.call("work:leave", [9], isolation=how) for how in ("fork", "spawn", "reuse")]
            (tmp_path / "gate").touch()

            for code, job in {7: before, **codes}.items():
                assert job.wait(DEADLINE).exit_code == code
            assert [bytes(part.data) for part in codes[3].logs()] == [b"3\n"]
            assert (killed.wait(DEADLINE).outcome, killed.view.signal) == (Outcome.SIGNAL, 9)
            assert late.wait(DEADLINE).outcome == Outcome.TIMEOUT
            assert missing.wait(DEADLINE).outcome == Outcome.NOT_STARTED
            assert cancelled.wait(DEADLINE).state == State.CANCELLED
            assert [job.result(DEADLINE) for job in added] == [5, 5, 5]
            for job in failed:
                with pytest.raises(JobFailed, match="no such report"):
                    job.result(DEADLINE)
            assert [job.wait(DEADLINE).exit_code for job in left] == [9, 9, 9]
            assert all(len(job.attempts()) == 1 for job in (before, killed, late, *added, *failed, *left))
            assert (rig.launcher_pid(), source_of(launcher)) == (launcher, str(source))
    finally:
        (tmp_path / "gate").touch()
        rig.close()


def source_at(commit: str, folder: Path) -> Path:
    """Write the source of a commit to a new folder."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip("NO EARLIER RELEASE WAS TRIED: the history of this checkout is not complete")
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return folder


def start_jobs(rig: Rig, folder: Path, number: int = RUNNING) -> list[int]:
    """Submit jobs that wait at a gate; return when all slots are taken."""
    specs = [
        JobSpec(
            argv=("/bin/sh", "-c", JOB, "job", str(folder / "began"), str(folder / "gate"), str(code)),
            cwd="/",
            env={"PATH": "/usr/bin:/bin"},
        )
        for code in range(number)
    ]
    with contextlib.closing(Caller(rig.socket)) as caller:
        reply = caller.ask(SubmitMany(id=1, specs=specs))
        assert isinstance(reply, Submitted), reply
    began = folder / "began"
    wait_until(lambda: began.exists() and began.read_text().count("began") == RUNNING)
    return reply.jobs


def finish(rig: Rig, folder: Path, jobs: list[int]) -> None:
    """Open the gate; check that each job started once and ended as expected."""
    (folder / "gate").touch()
    with contextlib.closing(Caller(rig.socket)) as caller:
        caller.wait(jobs)
        for code, job in enumerate(jobs):
            view, attempts = caller.show(job)
            assert (view.exit_code, len(attempts)) == (code, 1)
    assert (folder / "began").read_text().count("began") == len(jobs)


def version_of(rig: Rig) -> int:
    """Return the version of the tables, whether or not a daemon has the file open."""
    path = rig.folder / "copy.db"
    path.unlink(missing_ok=True)
    backup = [sys.executable, "-m", "bgctl", "--socket", str(rig.socket), "backup", str(path)]
    if subprocess.run(backup, capture_output=True, check=False).returncode:
        path = rig.socket.with_name("bgd.db")
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        return int(version)


def source_of(pid: int) -> str:
    """Return the folder in which a process looks for bgd."""
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(variable.split("=", 1) for variable in variables if variable)["PYTHONPATH"]


def next_version(rig: Rig, step: str) -> subprocess.Popen[bytes]:
    return begin(rig, "-c", NEXT, step)


def begin(rig: Rig, *program: str) -> subprocess.Popen[bytes]:
    """Start a daemon for this folder without waiting for it."""
    command = [sys.executable, *program, "--config", str(rig.config)]
    with (rig.folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def states(rig: Rig, jobs: list[int]) -> list[State]:
    with contextlib.closing(Caller(rig.socket)) as caller:
        return [caller.show(job)[0].state for job in jobs]
