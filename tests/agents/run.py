"""Run many agents, kill bgd and its launcher meanwhile, and check the laws."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from tests.agents.agent import Agent
from tests.agents.laws import Ledger
from tests.agents.world import World
from tests.support import wait_until

_PAUSES = (0.3, 2.0)  # seconds between two kills
_SEED = 20


class Found(Struct, frozen=True):
    """What became of the agents: violated laws in words, and figures."""

    violations: list[str]
    figures: dict[str, int]


def run_agents(
    folder: Path, *, commands: int, sessions: int, at_once: int, plant: Path | None = None
) -> Found:
    """Let agents run commands in sessions, some at once; `plant`: with the bugs of this folder."""
    world, ledger = World(folder, plant), Ledger()
    world.start()
    try:
        with world.killing(_SEED, _PAUSES), ThreadPoolExecutor(at_once) as pool:
            shares = [commands // sessions + (number < commands % sessions) for number in range(sessions)]
            agents = [Agent(world, ledger, number, share) for number, share in enumerate(shares)]
            for each in [pool.submit(agent.live) for agent in agents]:
                each.result()
        violations = ledger.violations(
            world.jobs(), world.codes(), launcher_was_killed=bool(world.kills["launcher"])
        )
        wait_until(lambda: not world.processes())
    finally:
        world.stop()
    told = [told for told in ledger.told if told.by != "wait"]
    figures = {
        "sessions": sessions,
        "commands": commands,
        "calls": len(ledger.calls),
        "calls_cut_off": ledger.counts["cut off"],
        "agents_killed": ledger.counts["deaths"],
        "kills_of_bgd": world.kills["bgd"],
        "kills_of_launcher": world.kills["launcher"],
        "calls_of_the_server": sum(call.words[0] == "mcp" for call in ledger.calls),
        "stops_blocked": sum(each.blocked for each in told),
        "ends_told": len({each.job for each in ledger.told}),
        "woken_for_known_ends": ledger.counts["woken for known ends"],
        "told_again_as_redelivered": len(told) - len({each.job for each in told}),
        "longest_answer": max(call.size for call in ledger.calls),
    }
    return Found(violations, figures)
