from __future__ import annotations

import pytest

from bgd.wire.limits import Abilities, Limits, problem_with_limits

EVERYTHING = Abilities(controllers=["memory", "cpu", "pids"])
NOTHING = Abilities(problem="there is none", least_nice=5, most_open_files=1024, most_core=0)


@pytest.mark.parametrize(
    "limits",
    [
        Limits(),
        Limits(nice=5, open_files=1024, core_max=0),
        Limits(nice=19, open_files=16),
    ],
)
def test_limits_that_every_process_may_set_need_nothing(limits):
    assert problem_with_limits(limits, NOTHING) is None
    assert problem_with_limits(limits, EVERYTHING) is None


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        (
            Limits(memory_max=2**30),
            "memory_max needs the memory controller of cgroup v2: there is none",
        ),
        (Limits(cpu_max=50), "cpu_max needs the cpu controller of cgroup v2: there is none"),
        (Limits(pids_max=1), "pids_max needs the pids controller of cgroup v2: there is none"),
        (Limits(nice=4), "nice 4 is not permitted: the lowest for bgd is 5"),
        (Limits(open_files=1025), "open_files 1025 is not permitted: the launcher's own hard limit is 1024"),
        (Limits(core_max=1), "core_max 1 is not permitted: the launcher's own hard limit is 0"),
    ],
)
def test_a_limit_that_cannot_be_set_is_named_in_one_line(limits, problem):
    assert problem_with_limits(limits, NOTHING) == problem
    assert problem_with_limits(limits, EVERYTHING) is None


def test_a_missing_controller_is_named_although_others_exist():
    able = Abilities(controllers=["cpu"], problem="no memory")

    assert problem_with_limits(Limits(cpu_max=50), able) is None
    assert "memory controller" in str(problem_with_limits(Limits(cpu_max=50, memory_max=2**30), able))


def test_limits_name_the_controllers_they_need():
    assert Limits(nice=5, open_files=100, core_max=0).controllers == []
    assert Limits(memory_max=2**30, pids_max=5, cpu_max=1).controllers == ["memory", "cpu", "pids"]
