"""The power is cut while clients submit and jobs finish: everything acknowledged survives."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from subprocess import PIPE

import psutil  # type: ignore[import-untyped]  # it has no types
import pytest
from msgspec import Struct

from bgd.core.job import FINAL
from bgd.core.spec import JobSpec
from bgd.wire.replies import JobsPart, Submitted
from bgd.wire.requests import Submit, Wait
from bgd.wire.views import JobView
from tests.end_to_end.chaos import Caller, ClientThreads, Gone, Rig
from tests.end_to_end.checks import listed
from tests.faults.figures import record, seconds, times
from tests.faults.power import Disk, why_not
from tests.support import wait_until

CUTS = times(100, 4)
LONGEST = seconds(1.0, 0.5)  # seconds until the next cut
CLIENTS = 4
JOBS_BEFORE_CUT = 20
HELD = JobSpec(argv=("/bin/true",), env={}, cwd="/", hold=True)
QUICK = JobSpec(argv=("/bin/true",), env={}, cwd="/")


class Told(Struct):
    """What clients were told: for each job, its view after it finished, or None if it was only accepted."""

    jobs: dict[int, JobView | None] = {}

    def has(self, jobs: int) -> bool:
        return len(self.jobs) >= jobs


@pytest.fixture
def disk() -> Iterator[Disk]:
    reason = why_not()
    if reason is not None:
        pytest.skip(f"NO POWER WAS CUT: {reason}")
    with Disk() as disk:
        yield disk


def test_everything_acknowledged_survives_a_power_cut(disk: Disk, tmp_path: Path):
    dice = random.Random(5)
    told = Told()
    rig = Rig(tmp_path, slots=4, state=disk.path / "state")
    rig.start()
    for _ in range(CUTS):
        crowd = ClientThreads(
            [lambda stop: submit(rig, told, stop)] * CLIENTS + [lambda stop: finish(rig, told, stop)]
        )
        with crowd:
            wait_until(partial(told.has, len(told.jobs) + JOBS_BEFORE_CUT))  # else little need survive
            crowd.run_for(dice.uniform(0.2, LONGEST))
            keep_from_answering(rig.pid)
            disk.cut()
            rig.kill()
            kill_launchers(disk.path)
        disk.restore()
        check_whole(disk.path / "state/bgd.db")
        rig.start()
    check(rig, told)
    rig.close()
    finished = sum(view is not None for view in told.jobs.values())
    assert finished > 0
    record(
        f"the power is cut while {CLIENTS} clients submit and jobs finish",
        cuts=CUTS,
        jobs_acknowledged=len(told.jobs),
        ends_reported=finished,
        lost=0,
        damaged_databases=0,
    )


def test_a_disk_is_restored_although_another_mount_namespace_holds_it(disk: Disk):
    kept = disk.path / "kept"
    kept.touch()
    os.sync()
    with subprocess.Popen(["unshare", "--mount", "sh", "-c", "echo; cat"], stdin=PIPE, stdout=PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        disk.cut()
        disk.restore()
        assert kept.exists()
        (disk.path / "new").touch()


def keep_from_answering(pid: int) -> None:
    """Stop a daemon. Its threads may still be within a write or a sync, but nobody hears of the result.

    In a real power cut nobody would. Around this one the kernel says of some syncs that they succeeded,
    although nothing reached the disk: jbd2_complete_transaction returns 0 for a transaction thrown away.
    """
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")


def kill_launchers(folder: Path) -> None:
    """Kill all launchers of this folder: bgd may have started another when the first saw its disk fail."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "bgd.launcher" in words and any(word.startswith(str(folder)) for word in words):
            process.kill()


def submit(rig: Rig, told: Told, stop: threading.Event) -> None:
    """Submit until the daemon dies or reports that its disk has failed."""
    with contextlib.suppress(Gone), contextlib.closing(Caller(rig.socket)) as caller:
        while not stop.is_set() and isinstance(reply := caller.ask(Submit(1, HELD)), Submitted):
            told.jobs[reply.jobs[0]] = None


def finish(rig: Rig, told: Told, stop: threading.Event) -> None:
    """Run quick jobs until then, and remember what is reported about their ends."""
    with contextlib.suppress(Gone), contextlib.closing(Caller(rig.socket)) as caller:
        while not stop.is_set() and isinstance(reply := caller.ask(Submit(1, QUICK)), Submitted):
            told.jobs[reply.jobs[0]] = None
            if not isinstance(part := caller.ask(Wait(2, reply.jobs)), JobsPart):
                return
            told.jobs[reply.jobs[0]] = part.jobs[0]
            caller.next()


def check_whole(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def check(rig: Rig, told: Told) -> None:
    """Check every job that a client was told about."""
    found = {view.id: view for view in listed(rig, None)}
    for job, view in told.jobs.items():
        assert job in found, f"job {job} was acknowledged and is lost"
        if view is not None:
            now = found[job]
            assert view.state in FINAL
            assert (now.state, now.outcome, now.exit_code) == (view.state, view.outcome, view.exit_code)
