"""A stop reaches a whole process tree as if at one instant: no script runs its next command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.figures import record, times
from tests.support import ROOT

STOPS = times(1000, 24)


def test_a_stopped_script_does_not_run_its_next_command(tmp_path: Path):
    namespace = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if os.geteuid() != 0 or subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("NO JOB WITH WRAPPED PROCESS NUMBERS WAS STOPPED: that takes root and a PID namespace")

    done = subprocess.run(
        [*namespace, sys.executable, "-m", "tests.faults.wrapped_pids", tmp_path, str(STOPS)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )

    assert done.stdout == "0\n", "scripts went on"
    record(
        "jobs are cancelled or out of time, and children have lower process numbers than their shell",
        stops=STOPS,
        scripts_that_went_on=0,
    )
