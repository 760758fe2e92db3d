"""The pool and its pilots alone: without processes, and with a controller that says what a test lets it."""

from __future__ import annotations

import asyncio
import errno
import os
from math import inf
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from msgspec.structs import replace

from bgd.core.job import Outcome
from bgd.launcher.cluster.controller import SlurmJob
from bgd.launcher.cluster.folder import Leftovers
from bgd.launcher.cluster.pilot import Pilot, Stage
from bgd.launcher.cluster.pilots import PilotPool
from bgd.launcher.cluster.run import PilotRun
from bgd.launcher.journal import Began, Journal, JournalContents, read
from bgd.system.clock import elapsed
from bgd.wire.launching import Acknowledge, AttemptEnded, AttemptKey, PilotNode
from tests.daemon.waiting import until
from tests.launcher.host import STORE, launch_of

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from bgd.launcher.context import Context
    from tests.launcher.scripted_slurm import ScriptedSlurm

KEY = AttemptKey(STORE, 1, 1)


def begin_nothing(action: Any, _: str) -> asyncio.Future[None]:
    action.close()
    return asyncio.get_running_loop().create_future()


async def test_one_retry_is_due_while_the_journal_is_full_however_many_jobs_wait(
    slurm: ScriptedSlurm,
) -> None:
    due: list[Any] = []
    given: list[Any] = []
    is_full = True

    def give(attempt: Any) -> None:
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        given.append(attempt)

    journal = SimpleNamespace(instance=SimpleNamespace(covers=["the one before"]))
    deadlines = SimpleNamespace(after=lambda _, call: due.append(call))
    context = cast("Context", SimpleNamespace(journal=journal, deadlines=deadlines, begin=begin_nothing))
    pool = PilotPool(
        context, lambda _: cast("Any", a_controller()), launch_of("true", slurm=slurm.pilot_start)
    )
    pilot = SimpleNamespace(
        own=None,
        stage=Stage.WORKING,
        slurm=slurm.pilot_start,
        is_starting=False,
        has_room=lambda _: True,
        give=give,
        obstacle="",
        time_for=lambda *_: inf,
        close_if_spent=lambda: None,
    )
    pool._shared["pilot"] = cast("Pilot", pilot)
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


async def test_there_are_never_more_than_twice_as_many_pilots_as_nodes_and_one_is_late_for_each(
    slurm: ScriptedSlurm,
) -> None:
    """None of them has the time for what waits."""
    begun: list[Any] = []
    journal = SimpleNamespace(instance=SimpleNamespace(covers=["the one before"]))
    deadlines = SimpleNamespace(after=lambda *_: None)
    context = cast("Context", SimpleNamespace(journal=journal, deadlines=deadlines, begin=begin_nothing))
    start = replace(slurm.pilot_start, pilot=replace(slurm.pilot_start.pilot, nodes=2))
    pool = PilotPool(context, lambda _: cast("Any", a_controller()), launch_of("true", slurm=start))
    for number in range(2):
        pilot = SimpleNamespace(
            own=None,
            stage=Stage.WORKING,
            slurm=start,
            is_starting=False,
            has_room=lambda _: False,
            is_large_enough=lambda _: True,
            obstacle="",
            time_for=lambda *_: 0.0,
            close_if_spent=lambda: None,
        )
        pool._shared[str(number)] = cast("Pilot", pilot)

    def begin(*_: object) -> None:
        begun.append(
            SimpleNamespace(
                **vars(pilot) | {"is_starting": True, "stage": Stage.WAITING, "time_for": lambda *_: inf}
            )
        )
        pool._shared[f"begun {len(begun)}"] = begun[-1]

    pool._begin = begin  # type: ignore[method-assign, assignment]
    launch = launch_of("true", slurm=start)
    pool.add(cast("Any", SimpleNamespace(launch=launch, start=start.pilot, wait_for=lambda _: None)))
    counts = [len(begun)]
    for _ in range(3):
        pool.assign()
        counts.append(len(begun))
    assert counts == [1, 2, 2, 2]
    for each in begun:
        each.time_for = lambda *_: 0.0
        each.is_starting = False
    pool.assign()
    assert len(begun) == 2

    for each in pool._shared.values():
        each.stage = Stage.CLOSING
    for _ in range(2):  # once for all that are ending
        pool.assign()
    assert len(begun) == 3


async def test_a_pilot_that_got_the_node_of_one_that_ended_does_not_show_how_long_slurm_needs(
    slurm: ScriptedSlurm,
) -> None:
    journal = SimpleNamespace(instance=SimpleNamespace(covers=["the one before"]))
    context = cast("Context", SimpleNamespace(journal=journal, begin=begin_nothing))
    pool = PilotPool(
        context, lambda _: cast("Any", a_controller()), launch_of("true", slurm=slurm.pilot_start)
    )
    pool.note_wait(600.0)
    assert pool.lead == 600.0
    pool._ended_at = elapsed()
    pool.note_wait(900.0)
    assert pool.lead == 600.0
    pool.note_wait(5.0)
    assert pool.lead == 5.0


async def test_a_job_of_a_pilot_that_bgd_cancelled_since_it_hung_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [{"pilot": SlurmJob("77", "RUNNING", "main", inf, inf, "None")}]
    ends: list[AttemptEnded] = []

    async def do_nothing(*_: object) -> None:
        """Take no time."""

    async def is_not(*_: object) -> bool:
        return False

    async def jobs(_: float) -> dict[str, SlurmJob]:
        return answers.pop() if answers else {}

    async def end_of(*_: str) -> tuple[str, str]:
        return "CANCELLED", "n1"

    async def left() -> Leftovers:
        return Leftovers(node="n1")

    def lost(problem: str) -> AttemptEnded:
        return AttemptEnded(key=KEY, outcome=Outcome.UNKNOWN, finished_at=1.0, problem=problem)

    controller = a_controller(jobs=jobs, end_of=end_of, cancel=do_nothing, asked_at=inf)
    deadlines = SimpleNamespace(after=lambda *_: SimpleNamespace(cancel=lambda: None), wait=do_nothing)
    pool = SimpleNamespace(
        context=SimpleNamespace(deadlines=deadlines),
        controller_of=lambda _: controller,
        start=SimpleNamespace(keep_idle=600.0),
        reason=lambda *_: None,
        ended=lambda *_: None,
        assign=lambda: None,
        first=None,
    )
    pilot = pilot_in(pool, "pilot")
    pilot.stage, pilot.node = Stage.WORKING, PilotNode(name="n1")
    attempt = SimpleNamespace(finish=ends.append, is_overdue=False, lost=lost)
    pilot._attempts[KEY] = cast("Any", attempt)
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


def pilot_in(pool: object, name: str) -> Pilot:
    slurm = SimpleNamespace(folder="/shared", python="python3")
    return Pilot(cast("PilotPool", pool), cast("Any", slurm), name, 77, None)


def a_pool(**more: object) -> SimpleNamespace:
    """Return what a pilot needs of its pool."""
    deadlines = SimpleNamespace(after=lambda *_: SimpleNamespace(cancel=lambda: None), timer=no_time)
    return SimpleNamespace(
        context=SimpleNamespace(deadlines=deadlines),
        controller_of=lambda _: a_controller(),
        start=SimpleNamespace(keep_idle=600.0),
        **more,
    )


def a_controller(**more: object) -> SimpleNamespace:
    return SimpleNamespace(
        idle={},
        short=set(),
        unusable={},
        nodes_asked_at=-inf,
        note_shortage=lambda *_, **__: None,
        silent_since=None,
        **more,
    )


async def no_time(*_: object) -> None:
    """Take no time."""


async def test_a_folder_that_hangs_when_it_is_removed_delays_no_acknowledgement(
    slurm: ScriptedSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    async def retry(_: str, action: Any) -> None:
        await action()

    def begin(action: Any, _: str) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(action)

    journal = SimpleNamespace(instance=SimpleNamespace(covers=["the one before"]), make_durable=no_time)
    deadlines = SimpleNamespace(timer=no_time, after=lambda *_: None)
    context = cast("Context", SimpleNamespace(journal=journal, deadlines=deadlines, begin=begin, retry=retry))
    monkeypatch.setattr(PilotPool, "_release_leftovers", no_time)
    pool = PilotPool(
        context, lambda _: cast("Any", a_controller()), launch_of("true", slurm=slurm.pilot_start)
    )
    gone, working = pilot_in(pool, "gone"), pilot_in(pool, "working")
    gone.stage = Stage.GONE
    monkeypatch.setattr(gone._folder, "remove", hang)
    heard: list[object] = []
    monkeypatch.setattr(working, "send", heard.append)

    pool.acknowledge(gone, KEY)
    pool.acknowledge(working, other := AttemptKey(STORE, 2, 1))
    await until(lambda: bool(heard))

    assert heard == [Acknowledge(other)]
    await pool.end()  # which does not wait for the folder either
    await until(lambda: len(asyncio.all_tasks()) == 1)


async def test_an_error_in_the_launcher_delays_the_ends_of_a_pilot_that_is_gone_by_no_half_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    tries: list[str] = []
    pilot = pilot_in(a_pool(), "gone")

    async def fail_once() -> None:
        tries.append("try")
        if len(tries) < 3:
            raise RuntimeError("a bug")

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(pilot, "_live", fail_once)
    monkeypatch.setattr(pilot, "_wait", wait)

    await pilot.live()

    assert waits == [0.25, 0.5]


async def test_many_jobs_with_pilots_of_their_own_are_not_all_looked_at_for_each(
    slurm: ScriptedSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Pilot] = []
    given: list[str] = []

    def begin(action: Any, _: str) -> asyncio.Future[None]:
        action.close()
        return asyncio.get_running_loop().create_future()

    def has_room(pilot: Pilot, _: object) -> bool:
        looked.append(pilot)
        return True

    journal = SimpleNamespace(instance=SimpleNamespace(covers=["the one before"]))
    deadlines = SimpleNamespace(after=lambda *_: SimpleNamespace(cancel=lambda: None))
    context = cast("Context", SimpleNamespace(journal=journal, deadlines=deadlines, begin=begin))
    pool = PilotPool(context, lambda _: cast("Any", a_controller()), launch_of("true", slurm=slurm.own_pilot))
    monkeypatch.setattr(Pilot, "has_room", has_room)
    monkeypatch.setattr(Pilot, "give", lambda pilot, _: given.append(pilot.name))
    for number in range(20):
        launch = replace(launch_of("true", slurm=slurm.own_pilot), key=AttemptKey(STORE, number, 1))
        start = slurm.own_pilot.pilot
        pool.add(cast("Any", SimpleNamespace(launch=launch, start=start, wait_for=lambda _: None)))

    for pilot in list(pool._pilots):
        pool.connected(pilot)

    assert len(given) == len(looked) == 20
