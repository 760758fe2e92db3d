"""A second daemon on the same folder says who has it, and changes nothing."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

from bgd.wire.replies import Info
from bgd.wire.requests import GetInfo
from tests.end_to_end.chaos import Caller, Rig
from tests.faults.figures import record, times

STARTS = times(100, 3)


def test_a_second_daemon_leaves_the_first_alone(tmp_path: Path):
    rig = Rig(tmp_path)
    rig.start()
    try:
        before = rig.socket.stat().st_ino
        first = pid_of(rig)
        for _ in range(STARTS):
            command = [sys.executable, "-m", "bgd", "--config", str(rig.config)]
            second = subprocess.run(command, capture_output=True, text=True, check=False)
            assert second.returncode == 1
            (line,) = second.stderr.splitlines()
            assert f"a bgd with pid {first} already serves" in line
            assert rig.socket.stat().st_ino == before
            assert pid_of(rig) == first
    finally:
        rig.close()
    record("a second daemon is started on the folder of another", starts=STARTS, steals=0)


def pid_of(rig: Rig) -> int:
    with contextlib.closing(Caller(rig.socket)) as caller:
        info = caller.ask(GetInfo(1))
        assert isinstance(info, Info)
        return info.pid
