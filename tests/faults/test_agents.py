"""Coding agents run commands below time limits, forget, and are killed with bgd: each end is told, once."""

from __future__ import annotations

from tests.agents.run import run_agents
from tests.faults.figures import record, times

COMMANDS = times(1000, 60)
SESSIONS = times(60, 6)
AT_ONCE = 6


def test_each_end_is_told_once_and_no_turn_is_spent_waiting(tmp_path):
    found = run_agents(tmp_path, commands=COMMANDS, sessions=SESSIONS, at_once=AT_ONCE)

    assert found.violations == []
    assert found.figures["ends_told"] >= COMMANDS // 2
    assert found.figures["kills_of_bgd"] > 0
    assert found.figures["kills_of_launcher"] > 0
    assert found.figures["agents_killed"] > 0
    assert found.figures["calls_cut_off"] > 0
    never = [
        "lost",
        "told_twice_unmarked",
        "wrong_codes",
        "turns_spent_waiting",
        "stops_blocked_twice",
        "jobs_left",
    ]
    record(
        "coding agents with time limits are killed, and bgd and its launcher, too",
        **found.figures,
        **dict.fromkeys(never, 0),
    )
