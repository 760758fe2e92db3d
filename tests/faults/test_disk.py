"""Any sync of the disk may fail: no acknowledged job is lost, and the daemon says why it ends."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bgd.core.spec import JobSpec
from bgd.wire.replies import Submitted
from bgd.wire.requests import Submit
from tests.end_to_end.chaos import Caller, Gone, Rig
from tests.end_to_end.checks import listed
from tests.faults.figures import SHARE, record
from tests.support import DEADLINE, wait_until

# The first dozen make a new database and its generation; then each submit has one
POSITIONS = range(1, 51) if SHARE else (1, 2, 12, 36)
BROKEN = 74  # exit code of a daemon whose disk has failed
HELD = JobSpec(argv=("/bin/true",), env={}, cwd="/", hold=True)
MOST = 200  # submits after which each of the syncs has happened


@pytest.fixture(autouse=True)
def _strace():
    if shutil.which("strace") is None:
        pytest.skip("NO SYNC HAS FAILED: strace is not installed")
    traced = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
    if traced.returncode:
        pytest.skip(f"NO SYNC HAS FAILED: strace may not trace: {traced.stderr.decode().strip()}")


def test_a_failing_sync_ends_the_daemon_and_loses_no_acknowledged_job(tmp_path: Path):
    acknowledged = 0
    for position in POSITIONS:
        folder = tmp_path / str(position)
        folder.mkdir()
        acknowledged += fail_at(position, folder)
    assert acknowledged > 0
    record(
        "fdatasync answers EIO (strace), at each of its calls in turn",
        positions=len(POSITIONS),
        right_exits=len(POSITIONS),
        jobs_acknowledged=acknowledged,
        lost=0,
    )


def fail_at(position: int, folder: Path) -> int:
    """Let a sync and all later ones fail; return how many jobs were acknowledged and still exist after it."""
    rig = Rig(folder)
    inject = f"inject=fdatasync:error=EIO:when={position}+"
    command = ["strace", "-f", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", inject]
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [*command, sys.executable, "-m", "bgd", "--config", str(rig.config), "--await-launcher"],
            stdout=log,
            stderr=log,
        )
    told = submitted(rig, daemon)
    assert daemon.wait(DEADLINE) == BROKEN, (folder / "log").read_text()
    words = (folder / "log").read_text()
    assert "Traceback" not in words
    assert "the disk failed" in words.splitlines()[-1]
    rig.start()
    try:
        assert set(told) <= {view.id for view in listed(rig, None)}
    finally:
        rig.close()
    return len(told)


def submitted(rig: Rig, daemon: subprocess.Popen[bytes]) -> list[int]:
    """Submit until the daemon ends; return the ids that it acknowledged."""
    told: list[int] = []
    wait_until(lambda: answers(rig) or daemon.poll() is not None)
    try:
        with contextlib.closing(Caller(rig.socket)) as caller:
            for number in range(MOST):
                reply = caller.ask(Submit(number, HELD))
                assert isinstance(reply, Submitted), reply
                told += reply.jobs
    except Gone:
        pass
    return told


def answers(rig: Rig) -> bool:
    """Tell whether a daemon listens; its socket exists a moment earlier."""
    try:
        Caller(rig.socket).close()
    except Gone:
        return False
    return True
