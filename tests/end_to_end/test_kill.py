"""Nothing is lost and nothing starts twice, whoever is killed: bgd, the launcher, or both."""

import os
import random
import signal
from pathlib import Path

import pytest

from tests.end_to_end.chaos import Load, Rig, check_history

CYCLES = int(os.environ.get("BGD_CHAOS_CYCLES", "40"))  # 1,000 for the long run


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    (tmp_path / "truth").touch()
    rig.start()
    yield rig
    rig.close()


@pytest.mark.parametrize("victim", ["bgd", "launcher", "both"])
def test_killing_loses_nothing_and_starts_nothing_twice(rig: Rig, victim: str):
    dice = random.Random(victim)
    with Load(rig, seed=7) as load:
        for _ in range(CYCLES):
            load.run_for(dice.uniform(0.15, 0.5))
            launcher = rig.launcher_pid()
            if victim != "launcher":
                rig.kill()
            if victim != "bgd":
                os.kill(launcher, signal.SIGKILL)
            if victim != "launcher":
                rig.start()
    assert len(load.acknowledged) > CYCLES, "the load was no load"
    outcomes = check_history(rig, load, may_be_unseen=victim != "bgd")
    assert outcomes["succeeded"] > CYCLES
    assert outcomes["timeout"] > 0
    if victim != "bgd":
        assert outcomes["unknown"] > 0, "no kill ever met a running attempt"
    assert processes_of(rig.folder) == []
    print(f"{victim}: {CYCLES} kills, {len(load.acknowledged)} jobs, {dict(outcomes)}")


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of jobs of the load that are still alive."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(folder) in command and b"/bin/sh" in command:
                found.append(command.decode(errors="replace"))
    return found
