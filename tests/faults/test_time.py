"""Jobs that wait for a time are never early and hardly late, even if the machine is suspended meanwhile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from msgspec.structs import replace

from bgd.core.job import Outcome, State
from bgd.core.spec import JobSpec
from bgd.system.clock import elapsed
from bgd.wire.views import AttemptView, JobView
from tests.end_to_end.chaos import Caller, Rig
from tests.faults.figures import record, times
from tests.faults.test_load import finish
from tests.faults.wall_clock import mark, marks, submit
from tests.support import DEADLINE, ROOT, wait_until

SUSPENDED = 3600.0  # seconds
LITTLE = 10.0  # seconds of a wait that are left after it, when bgd runs again
NEXT = 30.0  # seconds; all other timers of the launcher are later
NARROW = 0.01  # seconds; the clock that jobs read has a resolution of 0.01 s
SLEW = 0.001  # seconds; reported times are wall times, and the clock may be slewed
SPREAD = 0.02  # seconds between two of many events in a row
LATEST = 5.0  # seconds; more than on any busy machine


def test_what_became_due_during_a_suspend_happens_on_time(tmp_path: Path):
    asleep = ["unshare", "--time", "--boottime", f"{SUSPENDED:.0f}", "--"]
    need_namespace(asleep)
    rig = Rig(tmp_path)
    rig.start()
    try:
        with closing(Caller(rig.socket)) as caller:
            begun = elapsed()
            past = submit(caller, mark(tmp_path / "past", 0), delay=SUSPENDED / 2)
            soon = submit(caller, mark(tmp_path / "soon", 0), delay=SUSPENDED + LITTLE)
            later = submit(caller, ("true",), delay=SUSPENDED * 2)
            pause = SUSPENDED + LITTLE
            retries = {"retries": 1, "retry_delay": pause, "max_delay": pause, "jitter": 0.0}
            retried = submit(caller, mark(tmp_path / "retried", 1), **retries)
            expired = submit(caller, ("true",), hold=True, expires=SUSPENDED / 2)
            kept = submit(caller, ("true",), hold=True, expires=SUSPENDED * 2)
            dated = submit(caller, ("true",), at=time.time() + SUSPENDED / 2)
            wait_until(lambda: caller.show(retried)[0].state is State.SCHEDULED)
            launcher = rig.launcher_pid()
        rig.stop()
        wait_until(lambda: not Path(f"/proc/{launcher}").exists())  # it would keep its old clock
        rig.take(bgd(rig, asleep))
        with closing(Caller(rig.socket)) as caller:
            limited = submit(caller, ("sleep", "1000"), timeout=1.0)
            caller.wait([past, soon, retried, expired, limited])
            first, second = marks(tmp_path / "retried")
            errors = [marks(tmp_path / "soon")[0] - begun - pause, second - first - pause]
            overdue = marks(tmp_path / "past")[0] - begun - SUSPENDED
            assert caller.show(past)[0].state is State.SUCCEEDED
            assert caller.show(expired)[0].state is State.CANCELLED
            assert caller.show(limited)[0].outcome is Outcome.TIMEOUT
            assert [caller.show(job)[0].state for job in (later, kept)] == [State.SCHEDULED, State.HELD]
            assert caller.show(dated)[0].state is State.SCHEDULED  # the wall clock has not changed
    finally:
        rig.close()
    assert min(errors) >= -NARROW
    assert max(errors) < DEADLINE
    assert 0 < overdue < DEADLINE  # not yet another delay later
    record(
        f"the machine is suspended for {SUSPENDED:.0f} s (a time namespace) while bgd is down and jobs wait",
        late_by_at_most_s=f"{max(errors):.2f}",
        too_early=0,
    )


def test_timers_use_a_clock_that_counts_suspend(tmp_path: Path):
    """The kernel tells which clock, because no running process can be put into another time namespace.

    Only dates are awaited on the wall clock.
    """
    rig = Rig(tmp_path)
    rig.start()
    try:
        with closing(Caller(rig.socket)) as caller:
            submit(caller, ("true",), delay=NEXT)
            submit(caller, ("sleep", "1000"), timeout=NEXT)
            for pid in (rig.pid, rig.launcher_pid()):
                wait_until(partial(is_set_to_ring, pid, time.CLOCK_BOOTTIME, NEXT))
                assert {clock for clock, _ in armed(pid)} <= {time.CLOCK_BOOTTIME, time.CLOCK_REALTIME}
    finally:
        rig.close()


def late_start(job: JobView, attempts: list[AttemptView]) -> float:
    (attempt,) = attempts
    return length(job.created_at, attempt.started_at) - job.delay


def late_retry(job: JobView, attempts: list[AttemptView]) -> float:
    first, second = attempts
    assert isinstance(job.retry_delay, float)
    return length(first.finished_at, second.started_at) - job.retry_delay


def late_end(job: JobView, attempts: list[AttemptView]) -> float:
    (attempt,) = attempts
    assert attempt.outcome is Outcome.TIMEOUT
    return length(attempt.started_at, attempt.finished_at) - (job.timeout or 0)


@pytest.mark.parametrize(
    ("what", "argv", "options", "key", "late_by"),
    [
        ("start after a delay", ("/bin/true",), {}, "delay", late_start),
        ("are tried again", ("/bin/false",), {"retries": 1, "jitter": 0.0}, "retry_delay", late_retry),
        ("are ended when their time is over", ("/bin/sleep", "1000"), {}, "timeout", late_end),
    ],
    ids=["delay", "retry", "limit"],
)
def test_nothing_happens_too_early_or_much_too_late(
    tmp_path: Path,
    what: str,
    argv: tuple[str, ...],
    options: dict[str, Any],
    key: str,
    late_by: Callable[[JobView, list[AttemptView]], float],
):
    count = times(300, 30)
    waits = [1.0 + SPREAD * number for number in range(count)]
    rig = Rig(tmp_path, slots=count)  # no job waits for a slot
    rig.start()
    try:
        with closing(Caller(rig.socket)) as caller:
            spec = JobSpec(argv=argv, env={}, cwd="/", **options)
            specs = [replace(spec, **{key: wait}) for wait in waits]
            late = sorted(late_by(*caller.show(job)) for job in finish(caller, specs))
    finally:
        rig.close()
    assert late[0] >= -SLEW
    assert late[-1] < LATEST
    record(
        f"jobs {what}, {SPREAD * 1000:g} ms apart",
        jobs=count,
        too_early=0,
        late_by_ms=f"{1000 * median(late):.1f}",
        the_latest_by=f"{1000 * late[-1]:.1f}",
    )


def need_namespace(asleep: list[str]) -> None:
    """Skip the test if the kernel cannot give a process another clock."""
    reason = "NOTHING WAS SUSPENDED: unshare is not installed"
    if shutil.which("unshare") is not None:
        done = subprocess.run([*asleep, "cat", "/proc/uptime"], capture_output=True, text=True, check=False)
        if done.returncode == 0 and float(done.stdout.split()[0]) > elapsed() + SUSPENDED / 2:
            return
        reason = f"NOTHING WAS SUSPENDED: no time namespace is to be had here: {done.stderr.strip()}"
    pytest.skip(reason)


def bgd(rig: Rig, command: list[str]) -> subprocess.Popen[bytes]:
    """Start a rig's daemon through a command that executes it."""
    return subprocess.Popen(
        [*command, sys.executable, "-m", "bgd", "--config", str(rig.config)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )


def is_set_to_ring(pid: int, clock: int, within: float) -> bool:
    return any(each == clock and rest <= within for each, rest in armed(pid))


def armed(pid: int) -> list[tuple[int, float]]:
    """Return clock and seconds left for each armed timer of a process."""
    found = []
    for file in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            fields = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
            if "it_value" in fields:
                seconds, nanoseconds = fields["it_value"].strip(" ()").split(",")
                if rest := int(seconds) + int(nanoseconds) / 1e9:
                    found.append((int(fields["clockid"]), rest))
    return found


def length(since: float | None, until: float | None) -> float:
    assert since is not None
    assert until is not None
    return until - since
