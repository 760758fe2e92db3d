"""No workload costs more than its bound. These tests only count: a slow or busy machine changes nothing."""

from __future__ import annotations

import sys

import pytest

from tests.guard.bounds import BOUNDS, COUNTED_WITH
from tests.guard.counting import Counts, calls_in, count_all

LOG = """\
10 epoll_wait(3,  <unfinished ...>
11 futex(0x7f, FUTEX_WAIT, 0, NULL <unfinished ...>
10 <... epoll_wait resumed>[], 4, -1) = 1
10 vfork( <unfinished ...>
12 close(3) = 0
12 execve("/no/true", [...], ...) = -1 ENOENT (No such file or directory)
12 execve("/bin/true", [...], ... <unfinished ...>
10 <... vfork resumed>) = 12
12 <... execve resumed>) = 0
12 brk(NULL) = 0x55
12 exit_group(0) = ?
12 +++ exited with 0 +++
10 epoll_wait(3,  <detached ...>
11 <... futex resumed> <detached ...>
"""


@pytest.fixture(scope="module")
def counts() -> Counts:
    if sys.version_info[:2] != COUNTED_WITH:
        version = ".".join(map(str, COUNTED_WITH))
        pytest.skip(f"NOT GUARDED: the bounds are those of Python {version}")
    return count_all()


@pytest.mark.parametrize("what", BOUNDS)
def test_no_workload_costs_more_than_its_bound(counts, what):
    seen, bound = BOUNDS[what]
    if what not in counts:
        pytest.skip("NOT GUARDED: strace is missing or may not trace, or attempts have control groups here")

    assert counts[what] <= bound, (
        f"{what}: {counts[what]}; the bound is {bound}, and it was {seen} when the bound was set."
        " Find what has been added, or raise the bound in tests/guard/bounds.py and say why."
    )


def test_everything_that_is_counted_has_a_bound(counts):
    assert counts.keys() <= BOUNDS.keys()


def test_calls_of_a_job_and_calls_that_have_not_ended_do_not_count(tmp_path):
    log = tmp_path / "log"
    log.write_text(LOG)

    assert calls_in(log, own={"10", "11"}) == ["epoll_wait", "close", "execve", "vfork", "execve"]
