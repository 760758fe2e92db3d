"""The pool and its pilots alone: without processes, and with a controller that says what a test lets it."""

from __future__ import annotations

import asyncio
import errno
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from bgd.clock import elapsed
from bgd.core.job import Outcome
from bgd.launcher.cluster.controller import SlurmEnd, SlurmJob
from bgd.launcher.cluster.folder import Leftovers
from bgd.launcher.cluster.pilot import Pilot
from bgd.launcher.cluster.pilots import PilotPool
from bgd.launcher.cluster.run import PilotRun
from bgd.launcher.journal import Began, Journal, JournalContents, read
from bgd.wire.launching import AttemptEnded, AttemptKey, PilotNode
from tests.launcher.host import STORE, launch_of

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from bgd.launcher.context import Context
    from tests.launcher.scripted_slurm import ScriptedSlurm

KEY = AttemptKey(STORE, 1, 1)


async def test_one_retry_is_due_while_the_journal_is_full_however_many_jobs_wait(
    slurm: ScriptedSlurm,
) -> None:
    due: list[Any] = []
    given: list[Any] = []
    is_full = True

    def begin(action: Any, _: str) -> asyncio.Future[None]:
        action.close()
        return asyncio.get_running_loop().create_future()

    def give(attempt: Any) -> None:
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        given.append(attempt)

    journal = SimpleNamespace(instance=SimpleNamespace(covers=["the one before"]))
    deadlines = SimpleNamespace(after=lambda _, call: due.append(call))
    context = cast("Context", SimpleNamespace(journal=journal, deadlines=deadlines, begin=begin))
    pool = PilotPool(context, cast("Any", None), launch_of("true", slurm=slurm.pilot_start))
    pilot = SimpleNamespace(own=None, is_starting=False, has_room=lambda _: True, give=give)
    pool._pilots["pilot"] = cast("Pilot", pilot)
    for _ in range(3):
        launch = launch_of("true", slurm=slurm.pilot_start)
        start = slurm.pilot_start.pilot
        pool.add(cast("Any", SimpleNamespace(launch=launch, start=start, wait_for=lambda _: None)))

    assert len(due) == 1
    due.pop()()
    assert len(due) == 1
    is_full = False
    due.pop()()
    assert (len(given), due) == (3, [])


async def test_a_job_of_a_pilot_that_bgd_cancelled_since_it_hung_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [{"pilot": SlurmJob("77", "RUNNING", "None")}]
    ends: list[AttemptEnded] = []

    async def do_nothing(*_: object) -> None:
        """Take no time."""

    async def is_not(*_: object) -> bool:
        return False

    async def jobs() -> dict[str, SlurmJob]:
        return answers.pop() if answers else {}

    async def end_of(*_: str) -> SlurmEnd:
        return SlurmEnd("CANCELLED", "n1")

    async def left() -> Leftovers:
        return Leftovers(node="n1")

    controller = SimpleNamespace(jobs=jobs, end_of=end_of, cancel=do_nothing, silent_since=None)
    deadlines = SimpleNamespace(after=lambda *_: SimpleNamespace(cancel=lambda: None), timer=do_nothing)
    pool = SimpleNamespace(
        context=SimpleNamespace(deadlines=deadlines),
        controller=controller,
        slurm=SimpleNamespace(folder="/shared", python="python3"),
        start=SimpleNamespace(keep_idle=600.0),
        reason=lambda *_: None,
        ended=lambda *_: None,
    )
    pilot = Pilot(cast("PilotPool", pool), "pilot", 77)
    pilot.is_starting, pilot.node = False, PilotNode(name="n1")
    pilot._attempts[KEY] = cast("Any", SimpleNamespace(finish=ends.append, is_overdue=False))
    pilot._heard_at = elapsed() - 1000.0
    monkeypatch.setattr(pilot, "_is_over", is_not)
    monkeypatch.setattr(pilot, "_serve", is_not)
    monkeypatch.setattr(pilot, "_left", left)

    await pilot.live()

    problem = "its pilot on node n1 is gone (CANCELLED): outcome unknown"
    assert [(each.outcome, each.problem) for each in ends] == [(Outcome.UNKNOWN, problem)]


async def test_an_attempt_that_no_pilot_has_begun_is_forgotten_until_the_next_has_it(
    slurm: ScriptedSlurm, tmp_path: Path
) -> None:
    path = tmp_path / "launcher.journal"
    journal = Journal(path, "boot:one", JournalContents())
    launch = launch_of("true", slurm=slurm.pilot_start)
    record = Began(launch.key, 0, 0.0, 0.0, launch=launch, pilot=("pilot", 77))
    journal.add_step(record)
    attempt = SimpleNamespace(launch=launch, adopted=record, waits=None, report=lambda: None)
    run = PilotRun(*cast("Any", (attempt, SimpleNamespace(journal=journal), None)))

    assert run.is_taken_back()

    assert not read(path).attempts  # else the next launcher looks for that pilot, and finds none
    run.steer(is_suspended=True)
    assert not read(path).attempts
    journal.close()
