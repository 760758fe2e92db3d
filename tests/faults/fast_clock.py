"""The wall clock runs 3,600 times too fast while jobs wait and run: in a virtual machine of in_a_guest.

The clock is set ahead again and again; nothing else makes it fast for those who wait on it in the kernel. No
test run collects this file, and it does nothing unless it is told that it may set the clock.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Self

import pytest

from bgd.core.job import Outcome, State
from bgd.core.spec import JobSpec
from bgd.system.clock import elapsed
from bgd.wire.replies import End, ErrorCode, Failed, Stats, Submitted
from bgd.wire.requests import GetStats, Show, SubmitMany
from tests.end_to_end.chaos import Caller, Rig
from tests.faults.figures import record
from tests.faults.wall_clock import HOUR, MAY_SET, WAIT, mark, marks, submit
from tests.faults.watching import processor_seconds
from tests.support import DEADLINE, ROOT, wait_until

TIMES = 3600
EVERY = 0.1  # seconds
WAITING = 10_000
MANY = 1000  # jobs in one request
LONG = 1e6  # seconds that jobs wait which never start
DAY = 24 * HOUR
KEPT = 3 * DAY  # longer than finished jobs are kept
DATE = 10 * HOUR
NARROW = 0.01  # seconds; the clock that jobs read has a resolution of 0.01 s
LATE = WAIT / 2  # the machine is emulated
CONFIGURATION = """
[retention]
succeeded_for = "2d"
[http]
listen = "unix:{pages}"
auth = "none"
"""
NEGATIVE = re.compile(r"(?<![\w-])-\d+(\.\d+)?(ms|s|m|h|d)\b")


class FastClock:
    """Makes the wall clock run TIMES too fast, and sets it right afterwards."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._shown: list[tuple[float, float]] = []  # elapsed time, wall time

    def __enter__(self) -> Self:
        self._right = time.time() - elapsed()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        time.clock_settime(time.CLOCK_REALTIME, self._right + elapsed())

    def showed(self, wall: float) -> float:
        """Return the elapsed time at which the wall clock reached `wall`."""
        return next(at for at, shown in self._shown if shown >= wall)

    def _run(self) -> None:
        begun = elapsed()
        while not self._stop.wait(EVERY):
            at = elapsed()
            wall = self._right + begun + TIMES * (at - begun)
            time.clock_settime(time.CLOCK_REALTIME, wall)
            self._shown.append((at, wall))


@pytest.mark.skipif(MAY_SET not in os.environ, reason="NO CLOCK WAS SET: it is everybody's")
def test_a_fast_clock_only_hurries_dates(tmp_path: Path):
    rig = Rig(tmp_path, more=CONFIGURATION.format(pages=tmp_path / "pages"))
    rig.start()
    try:
        with closing(Caller(rig.socket)) as caller:
            fill(caller)
            with FastClock() as clock:
                begun, used_before = elapsed(), processor_seconds(rig.pid)
                delayed = submit(caller, mark(tmp_path / "delayed", 0), delay=WAIT)
                again = {"retries": 1, "retry_delay": WAIT, "jitter": 0.0}
                retried = submit(caller, mark(tmp_path / "retried", 1), **again)
                limited = submit(caller, ("sleep", "1000"), timeout=WAIT)
                running = submit(caller, ("sleep", f"{WAIT:g}"))
                expired = submit(caller, ("true",), hold=True, expires=WAIT)
                date = time.time() + DATE
                dated = submit(caller, mark(tmp_path / "dated", 0), at=date)
                done = submit(caller, ("true",))
                caller.wait([delayed, retried, limited, running, dated, done])
                first, second = marks(tmp_path / "retried")
                errors = [
                    marks(tmp_path / "delayed")[0] - begun - WAIT,
                    second - first - WAIT,
                    marks(tmp_path / "dated")[0] - clock.showed(date),
                ]
                assert caller.show(limited)[0].outcome is Outcome.TIMEOUT
                assert caller.show(running)[0].outcome is Outcome.SUCCEEDED
                wait_until(lambda: caller.show(expired)[0].state is State.CANCELLED)
                show_no_time_below_zero(rig, caller, retried)
                wait_until(lambda: len(list((rig.socket.parent / "backups").glob("*.db"))) > 1)  # daily
                wait_until(lambda: elapsed() - begun > KEPT / TIMES)
                is_kept = not is_gone(caller, done)  # jobs age on a clock that runs as it should
                used = processor_seconds(rig.pid) - used_before
                took = elapsed() - begun
    finally:
        rig.close()
    assert is_kept
    assert min(errors) >= -NARROW
    assert max(errors) < LATE
    record(
        f"the clock is set ahead by {TIMES * EVERY:g} s every {EVERY:g} s while jobs wait and run",
        jobs_waiting=WAITING,
        days_shown=round(took * TIMES / DAY),
        waits_of_s=f"{WAIT:g}",
        late_by_at_most_s=f"{max(errors):.2f}",
        too_early=0,
        of_a_processor_used=f"{used / took:.0%}",
    )


def fill(caller: Caller) -> None:
    """Submit many jobs that only wait."""
    spec = JobSpec(argv=("true",), env={}, cwd="/", delay=LONG)
    for _ in range(0, WAITING, MANY):
        assert isinstance(caller.ask(SubmitMany(id=1, specs=[spec] * MANY)), Submitted)


def is_gone(caller: Caller, job: int) -> bool:
    reply = caller.ask(Show(1, job))
    if isinstance(reply, Failed):
        return reply.code is ErrorCode.NO_SUCH_JOB
    while not isinstance(reply, End):
        reply = caller.next()
    return False


def show_no_time_below_zero(rig: Rig, caller: Caller, job: int) -> None:
    """Check that no negative duration is shown, neither in a terminal nor on a page."""
    stats = caller.ask(GetStats(id=1, window=300 * DAY))
    assert isinstance(stats, Stats)
    assert min(each or 0.0 for each in (stats.wait_median, stats.run_median, stats.run_p95)) >= 0
    for verb in (["list", "--limit", "20"], ["show", str(job)], ["stats"]):
        command = [sys.executable, "-m", "bgctl", "--socket", str(rig.socket), *verb]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert shown
        assert not NEGATIVE.search(shown), shown
    for path in ("/job-logs", f"/job-logs/{job}"):
        shown = page(rig.folder / "pages", path)
        assert not NEGATIVE.search(shown), shown


def page(file: Path, path: str) -> str:
    """Return a page. Pages are on a unix socket, because a port would need a kernel module."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(str(file))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(partial(connection.recv, 1 << 16), b"")).decode()
    assert answer.startswith("HTTP/1.1 200 "), answer
    return answer
