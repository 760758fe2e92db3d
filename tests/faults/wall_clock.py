"""The wall clock is set years ahead and back while jobs wait and run: in a virtual machine of in_a_guest.

No test run collects this file, and it does nothing unless it is told that it may set the clock.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import closing
from pathlib import Path

import pytest

from bgd.core.job import Outcome, State
from bgd.core.spec import JobSpec
from bgd.system.clock import Alarm, elapsed
from bgd.wire.replies import Stats, Submitted
from bgd.wire.requests import GetStats, Submit
from tests.end_to_end.chaos import Caller, Rig
from tests.faults.figures import record
from tests.support import DEADLINE, wait_until

MAY_SET = "TESTS_MAY_SET_THE_CLOCK"
YEARS = 10 * 365 * 86400.0  # seconds
WAIT = 20.0  # seconds that jobs wait, and that they run
HOUR = 3600.0
ENVIRONMENT = {"PATH": "/usr/bin:/bin"}
MARK = 'cut -d" " -f1 /proc/uptime >> "$0"; exit "$1"'  # elapsed time


@pytest.mark.skipif(MAY_SET not in os.environ, reason="NO CLOCK WAS SET: it is everybody's")
@pytest.mark.parametrize("jump", [YEARS, -YEARS], ids=["ahead", "back"])
def test_durations_do_not_depend_on_the_wall_clock(tmp_path: Path, jump: float):
    rig = Rig(tmp_path)
    rig.start()
    try:
        with closing(Caller(rig.socket)) as caller:
            caller.wait([submit(caller, ("true",))])  # wait for the launcher
            delayed_at = elapsed()
            delayed = submit(caller, mark(tmp_path / "delayed", 0), delay=WAIT)
            retried = submit(caller, mark(tmp_path / "retried", 1), retries=1, retry_delay=WAIT, jitter=0.0)
            limited = submit(caller, ("sleep", "1000"), timeout=WAIT)
            running = submit(caller, ("sleep", str(WAIT)))
            dated = submit(caller, ("true",), at=time.time() + HOUR)
            wait_until(lambda: all(caller.show(job)[1] for job in (retried, limited, running)))
            wait_until((tmp_path / "retried").exists)
            time.clock_settime(time.CLOCK_REALTIME, time.time() + jump)
            caller.wait([delayed, retried, limited, running])
            first, second = marks(tmp_path / "retried")
            errors = [marks(tmp_path / "delayed")[0] - delayed_at - WAIT, second - first - WAIT]
            assert caller.show(limited)[0].outcome is Outcome.TIMEOUT
            assert caller.show(running)[0].outcome is Outcome.SUCCEEDED
            if jump > 0:
                caller.wait([dated])  # its date is in the past now
            else:
                assert caller.show(dated)[0].state is State.SCHEDULED
                time.clock_settime(time.CLOCK_REALTIME, time.time() - jump + HOUR)
                caller.wait([dated])
            stats = caller.ask(GetStats(id=1, window=HOUR))
            assert isinstance(stats, Stats)
            assert min(each or 0.0 for each in (stats.wait_median, stats.run_median, stats.run_p95)) >= 0
    finally:
        rig.close()
    assert min(errors) >= -0.01  # the clock that jobs read has a resolution of 0.01 s
    record(
        f"the clock is set 10 years {'ahead' if jump > 0 else 'back'} while jobs wait and run",
        waits_of_s=f"{WAIT:g}",
        late_by_at_most_s=f"{max(errors):.2f}",
        too_early=0,
    )


@pytest.mark.skipif(MAY_SET not in os.environ, reason="NO CLOCK WAS SET: it is everybody's")
@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["ahead", "back"])
async def test_an_alarm_in_the_far_future_reports_that_the_clock_was_set(jump: float):
    rung = asyncio.Event()
    alarm = Alarm(asyncio.get_running_loop(), rung.set, on_wall_clock=True)
    alarm.set(time.time() + YEARS)
    time.clock_settime(time.CLOCK_REALTIME, time.time() + jump)
    await asyncio.wait_for(rung.wait(), DEADLINE)
    alarm.close()


@pytest.mark.skipif(MAY_SET not in os.environ, reason="NO CLOCK WAS SET: it is everybody's")
async def test_an_alarm_that_is_set_again_still_reports_that_the_clock_was_set():
    rung = asyncio.Event()
    alarm = Alarm(asyncio.get_running_loop(), rung.set, on_wall_clock=True)
    alarm.set(time.time() + YEARS)
    time.clock_settime(time.CLOCK_REALTIME, time.time() + HOUR)
    alarm.set(time.time() + 2 * YEARS)
    await asyncio.wait_for(rung.wait(), DEADLINE)
    alarm.close()


def mark(file: Path, code: int) -> tuple[str, ...]:
    return "/bin/sh", "-c", MARK, str(file), str(code)


def marks(file: Path) -> list[float]:
    return [float(line) for line in file.read_text().split()]


def submit(caller: Caller, argv: tuple[str, ...], **options: object) -> int:
    spec = JobSpec(argv=argv, env=ENVIRONMENT, cwd="/", **options)  # type: ignore[arg-type]  # as JobSpec has them
    submitted = caller.ask(Submit(1, spec))
    assert isinstance(submitted, Submitted), submitted
    return submitted.jobs[0]
