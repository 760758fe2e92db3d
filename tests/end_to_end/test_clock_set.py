"""The times that jobs waited and ran stay right when the wall clock is set by years, either way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bgd.system.clock import elapsed
from tests.support import DEADLINE, Daemon, wait_until

YEARS = 50 * 365 * 86_400  # seconds, about the time from 1970 to the present

# a machine has only one wall clock, so this one is only wrong for the processes of the test
WRONG_CLOCK = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (syscall(SYS_clock_gettime, clock, now)) return -1;
    if (clock == CLOCK_REALTIME) {
        char text[32] = "";
        int file = open(FILE_OF_OFFSET, O_RDONLY | O_CLOEXEC);
        if (file >= 0) {
            if (read(file, text, sizeof text - 1) > 0) now->tv_sec += atol(text);
            close(file);
        }
    }
    return 0;
}
"""

SetClock = Callable[[int], None]


@pytest.fixture
def set_clock(tmp_path: Path) -> SetClock:
    def set_by(seconds: int) -> None:
        new = tmp_path / "offset.new"
        new.write_text(str(seconds))
        new.replace(tmp_path / "offset")

    return set_by


@pytest.fixture
def daemon(home: Daemon, tmp_path: Path) -> Daemon:
    """A daemon that reads, like the programs beside it, a clock that the test sets."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("NO CLOCK WAS SET: there is no C compiler")
    library, source = tmp_path / "clock.so", tmp_path / "clock.c"
    source.write_text(WRONG_CLOCK)
    offset = f'-DFILE_OF_OFFSET="{tmp_path / "offset"}"'
    subprocess.run([compiler, "-shared", "-fPIC", offset, "-o", library, source], check=True)
    home.env["LD_PRELOAD"] = str(library)
    home.start()
    return home


@pytest.mark.parametrize("jump", [YEARS, -YEARS], ids=["ahead", "back"])
def test_durations_are_right_after_the_clock_was_set(
    daemon: Daemon, tmp_path: Path, set_clock: SetClock, jump: int
):
    begun = elapsed()
    waiting = daemon.submit("--hold", "true")
    ended, running = (
        daemon.submit("sh", "-c", f"until test -e {tmp_path / name}; do sleep 0.05; done") for name in "ab"
    )
    wait_until(lambda: all(daemon.shown(job)["attempts"] for job in (ended, running)))
    all_run_since = elapsed()
    wait_until(lambda: elapsed() - all_run_since > 1)  # so that durations are seconds

    set_clock(jump)
    (tmp_path / "a").touch()
    daemon.bgctl("release", waiting)
    assert daemon.bgctl("wait", ended, waiting).returncode == 0

    longest = elapsed() - begun
    assert shown_clock_is_ahead_by(daemon) == pytest.approx(jump, abs=DEADLINE)
    took = daemon.shown(ended)["attempts"][0]["run_seconds"]
    assert 1 < took < longest
    assert daemon.shown(ended)["run_seconds"] == took
    assert 1 < daemon.shown(waiting)["waited_seconds"] < longest
    assert 1 < daemon.shown(running)["run_seconds"] < elapsed() - begun
    stats = json.loads(daemon.bgctl("stats", "--json").stdout)
    assert 1 < stats["run_p95"] < longest
    assert 1 < stats["wait_p95"] < longest
    assert f"took       {took:.1f}s" in daemon.bgctl("show", ended).stdout
    times = {line.split()[0]: line.split()[6] for line in daemon.bgctl("list").stdout.splitlines()[1:]}
    assert times[ended] == f"{took:.1f}s"
    assert 1 < float(times[running].removesuffix("s")) < elapsed() - begun
    (tmp_path / "b").touch()


def shown_clock_is_ahead_by(daemon: Daemon) -> float:
    """Return how many seconds the programs' clock is ahead."""
    code = "import time; print(time.time())"
    read = subprocess.run(
        ["python3", "-c", code], env=os.environ | daemon.env, capture_output=True, text=True, check=True
    )
    return float(read.stdout) - time.time()


@pytest.mark.parametrize("jump", [YEARS, -YEARS], ids=["ahead", "back"])
def test_a_clock_that_is_wrong_for_a_while_deletes_no_finished_job(
    daemon: Daemon, set_clock: SetClock, jump: int
):
    jobs = [daemon.submit(program) for program in ("true", "false")]
    daemon.bgctl("wait", *jobs)

    set_clock(jump)
    wrong = daemon.bgctl("prune", "--yes")
    set_clock(0)
    right = daemon.bgctl("prune", "--yes")

    assert (wrong.returncode, right.returncode) == (0, 0)
    assert [daemon.shown(job)["state"] for job in jobs] == ["succeeded", "failed"]
