"""The machine is suspended to memory while jobs wait and run: in a virtual machine, started by in_a_guest.

No test run collects this file, and it does nothing unless it is told that it may suspend the machine.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from bgd.core.job import Outcome, State
from bgd.system.clock import elapsed
from tests.end_to_end.chaos import Caller, Rig
from tests.faults.figures import record
from tests.faults.wall_clock import mark, marks, submit
from tests.support import wait_until

MAY_SUSPEND = "TESTS_MAY_SUSPEND"
MIDDLE = 60.0  # seconds from the start, while the machine is suspended
WAKING = 90.0
AFTER = 120.0
NARROW = 0.01  # seconds; the clock that jobs read has a resolution of 0.01 s
LATE = 30.0  # seconds; the machine is emulated, and much is due at once
ENDED = 'trap "cut -d\\" \\" -f1 /proc/uptime >> $0; exit" TERM; sleep 1000 & wait'


class Awaited(NamedTuple):
    """A job that records when it was due; `begun` is the elapsed time at which it was submitted."""

    job: int
    file: Path
    begun: float

    def came_at(self) -> float:
        return marks(self.file)[-1]

    def waited(self) -> float:
        """Return how long it waited: since the attempt before, if there was one."""
        *before, last = marks(self.file)
        return last - (before[0] if before else self.begun)


@pytest.mark.skipif(MAY_SUSPEND not in os.environ, reason="NOTHING WAS SUSPENDED: it is everybody's machine")
def test_what_is_due_while_the_machine_is_suspended_happens_when_it_wakes_up(tmp_path: Path):
    rig = Rig(tmp_path)
    rig.start()
    try:
        with closing(Caller(rig.socket)) as caller:
            caller.wait([submit(caller, ("true",))])  # wait for the launcher
            begun = elapsed()
            middle, after = (submit_all(caller, tmp_path, wait) for wait in (MIDDLE, AFTER))
            expired = submit(caller, ("true",), hold=True, expires=MIDDLE)
            kept = submit(caller, ("true",), hold=True, expires=2 * AFTER)
            running = submit(caller, ("sleep", f"{WAKING - MIDDLE:g}"))
            *_, retried, limited = after
            wait_until(lambda: caller.show(retried.job)[0].state is State.SCHEDULED)
            wait_until(lambda: all(caller.show(job)[1] for job in (limited.job, running)))
            assert elapsed() < begun + MIDDLE
            suspended = suspend(begun + WAKING)
            woken = elapsed()
            caller.wait([running, *(each.job for each in (*middle, *after))])
            assert {caller.show(each[-1].job)[0].outcome for each in (middle, after)} == {Outcome.TIMEOUT}
            assert caller.show(running)[0].outcome is Outcome.SUCCEEDED
            assert caller.show(expired)[0].state is State.CANCELLED
            assert caller.show(kept)[0].state is State.HELD
    finally:
        rig.close()
    assert suspended > WAKING - MIDDLE
    overdue = max(each.came_at() for each in middle) - woken
    late = [each.waited() - AFTER for each in after]
    assert min(each.waited() for each in middle) >= MIDDLE
    assert min(late) >= -NARROW
    assert max(overdue, *late) < LATE
    record(
        "the machine is suspended to memory while bgd runs, and jobs wait and run",
        suspended_s=f"{suspended:.0f}",
        too_early=0,
        what_was_due_meanwhile_came_after_s=f"{overdue:.2f}",
        what_was_due_later_came_late_by_at_most_s=f"{max(late):.2f}",
    )


def submit_all(caller: Caller, folder: Path, wait: float) -> list[Awaited]:
    """Submit jobs that wait for a time in each possible way; a retry and a time limit are the last two."""
    return [
        submit_one(caller, folder / f"delayed-{wait:g}", lambda file: mark(file, 0), delay=wait),
        submit_one(caller, folder / f"dated-{wait:g}", lambda file: mark(file, 0), at=time.time() + wait),
        submit_one(
            caller,
            folder / f"retried-{wait:g}",
            lambda file: mark(file, 1),
            retries=1,
            retry_delay=wait,
            jitter=0.0,
        ),
        submit_one(
            caller,
            folder / f"limited-{wait:g}",
            lambda file: ("/bin/sh", "-c", ENDED, str(file)),
            timeout=wait,
        ),
    ]


def submit_one(
    caller: Caller, file: Path, argv_of: Callable[[Path], tuple[str, ...]], **options: object
) -> Awaited:
    begun = elapsed()
    return Awaited(submit(caller, argv_of(file), **options), file, begun)


def suspend(until: float) -> float:
    """Suspend the machine to memory until a time of the elapsed clock; return for how many seconds."""
    before = elapsed() - time.monotonic()  # only the elapsed clock counts suspend
    alarm = Path("/sys/class/rtc/rtc0/wakealarm")
    Path("/sys/power/mem_sleep").write_text("deep")
    alarm.write_text("0")  # otherwise a new alarm could not be set
    alarm.write_text(f"+{math.ceil(until - elapsed())}")
    Path("/sys/power/state").write_text("mem")
    return elapsed() - time.monotonic() - before
