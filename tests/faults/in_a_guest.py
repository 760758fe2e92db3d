"""Tests that need a virtual machine: to reset or suspend it, to set its clock, or for all of cgroup v2.

No test run collects this file, because it needs minutes, qemu and a downloaded kernel. Name it to run it, as
`make faults` does.
"""

from __future__ import annotations

import json
import re
import sys

import pytest

from tests.faults import asleep, wall_clock
from tests.faults.figures import SHARE, record, times
from tests.faults.guest import Guest, why_not

RESETS = times(5, 1)
SLOWNESS = "20"
JOBS = 19  # jobs that a day leaves
DAY = (sys.executable, "-m", "tests.faults.day", "/run/disk")
_ROW = re.compile(r'\{"file": .*\}\}')


@pytest.fixture
def guest():
    with machine() as guest:
        yield guest


@pytest.fixture
def guest_in_memory():
    with machine(in_memory=True) as guest:
        yield guest


def machine(*, in_memory: bool = False) -> Guest:
    reason = why_not()
    if reason is not None:
        pytest.skip(f"NO MACHINE WAS RESET OR SUSPENDED: {reason}")
    return Guest(in_memory=in_memory)


def test_everything_acknowledged_survives_a_reset_of_the_machine(guest: Guest):
    for day in range(RESETS + 1):
        last = ["last"] if day == RESETS else []
        console = guest.run(*DAY, *last, TESTS_SLOWNESS=SLOWNESS)
        assert f"day: {JOBS if day else 0} jobs are right\n" in console
    record(
        "a virtual machine is reset (sysrq b) while jobs run, wait and have finished",
        resets=RESETS,
        jobs=RESETS * JOBS,
        lost=0,
        wrong_ends=0,
        started_twice=0,
    )


@pytest.mark.parametrize(
    "tests",
    [
        ["tests/launcher/test_cgroup.py", "-k", "memory or fork_bomb or processors"],
        ["tests/launcher/test_trees.py", "-k", "in and groups and not bomb"],
    ],
    ids=["controllers", "trees"],
)
def test_no_process_of_a_job_escapes_on_a_kernel_with_all_controllers(guest: Guest, tests: list[str]):
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-rs", "--color=no", *tests]
    console = guest.run(*command, BGD_FAULTS=str(SHARE), TESTS_SLOWNESS=SLOWNESS)
    rows = [json.loads(found) for found in _ROW.findall(console)]
    assert rows, console
    assert "NOT RUN" not in console
    for row in rows:
        record(f"in a virtual machine: {row['what']}", **row["found"])


@pytest.mark.parametrize(("file", "series"), [("asleep", 1), ("wall_clock", 2), ("fast_clock", 1)])
def test_waits_and_limits_hold_while_the_clock_is_set_runs_fast_or_the_machine_is_suspended(
    guest_in_memory: Guest, file: str, series: int
):
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-rs", "--color=no", f"tests/faults/{file}.py"]
    allowed = {asleep.MAY_SUSPEND: "1", wall_clock.MAY_SET: "1", "TESTS_SLOWNESS": SLOWNESS}
    console = guest_in_memory.run(*command, **allowed)
    rows = [json.loads(found) for found in _ROW.findall(console)]
    assert len(rows) == series, console
    for row in rows:
        record(f"in a virtual machine: {row['what']}", **row["found"])
