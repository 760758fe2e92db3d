"""An attempt asks its executor for the same things, whatever that is: here one of some lines."""

from __future__ import annotations

import asyncio
import signal
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from bgd.core.explain import Cause
from bgd.core.job import Outcome
from bgd.core.spec import ExecutorKind
from bgd.launcher.attempt import Attempt
from bgd.launcher.problems import CannotStart
from bgd.launcher.tree import StopReason
from bgd.wire.launching import AttemptEnded, AttemptStarted, Place
from tests.launcher.host import launch_of

PLACE = Place(executor="toy", kind=ExecutorKind.SLURM)
LAUNCH = replace(launch_of("true"), place=PLACE)


class ToyRun:
    """Notes what it is asked for, and ends when it is stopped."""

    has_exited = is_over = False
    node, tree = "toy-1", None

    def __init__(self, attempt: Attempt) -> None:
        self.pid: int | None = None
        self.asked: list[Any] = []
        self._attempt = attempt
        self._end: asyncio.Future[AttemptEnded] = asyncio.get_running_loop().create_future()

    def begin(self) -> None:
        self.pid, self._attempt.logged = 4711, 7
        self._attempt.runs()

    def stop(self, grace: float, told: StopReason) -> None:
        self.asked.append((grace, told))
        if not self._end.done():
            self._end.set_result(self._attempt.never_ran(self._attempt.reason or Outcome.SUCCEEDED, None))

    def signal(self, signum: int, *, whole_tree: bool) -> None:
        self.asked.append((signum, whole_tree))

    def steer(self, *, is_suspended: bool) -> None:
        self.asked.append(is_suspended)

    async def settled(self) -> bool:
        return not self._end.done()

    async def ended(self) -> AttemptEnded:
        return await self._end

    def abandon(self) -> None:
        self.asked.append("abandon")

    def acknowledge(self) -> None:
        self.asked.append("acknowledge")


class Toy:
    """Starts once a test lets it."""

    def __init__(self) -> None:
        self.may_start = asyncio.Event()
        self.run: ToyRun | None = None
        self.problem: CannotStart | None = None

    async def execute(self, attempt: Attempt) -> ToyRun | None:
        await self.may_start.wait()
        if self.problem is not None:
            raise self.problem
        if attempt.stop_asked.done():
            return None
        self.run = ToyRun(attempt)
        return self.run


@pytest.fixture
async def begin():
    """Return a function that begins an attempt by the toy; return both, its life, and what was reported."""

    async def retry(_what: str, action: Any, _stop: Any, waits: Any) -> Any:
        waits("a shortage")
        return await action()

    context: Any = SimpleNamespace(retry=retry)

    def begin() -> tuple[Attempt, Toy, asyncio.Task[AttemptEnded], list[AttemptStarted]]:
        toy, said = Toy(), list[AttemptStarted]()
        attempt = Attempt(LAUNCH, context, toy.execute, said.append, lambda: None)
        return attempt, toy, asyncio.get_running_loop().create_task(attempt.live()), said

    return begin


async def test_what_is_asked_while_it_starts_is_done_as_soon_as_it_runs(begin):
    attempt, toy, life, said = begin()
    attempt.signal(signal.SIGUSR1, whole_tree=False)
    attempt.signal(signal.SIGUSR1, whole_tree=True)
    attempt.suspend()
    await asyncio.sleep(0)

    toy.may_start.set()
    await asyncio.sleep(0)

    assert toy.run is not None
    assert toy.run.asked == [True, (signal.SIGUSR1, True)]
    assert [each.waits.cause if each.waits else None for each in said] == [Cause.START, None]
    assert (said[-1].pid, said[-1].suspended) == (4711, True)
    assert said[-1].place == replace(PLACE, node="toy-1")
    attempt.stop(Outcome.CANCELLED, 3.0, StopReason.CANCELLED)
    attempt.stop(Outcome.TIMEOUT, 9.0)
    assert (await life).outcome is Outcome.CANCELLED
    assert toy.run.asked[2:] == [(3.0, StopReason.CANCELLED)] * 2


async def test_what_is_stopped_while_it_starts_never_runs(begin):
    attempt, toy, life, _ = begin()
    attempt.stop(Outcome.INTERRUPTED, 1.0)

    toy.may_start.set()

    assert ((await life).outcome, toy.run) == (Outcome.INTERRUPTED, None)


async def test_what_cannot_start_says_why(begin):
    _, toy, life, _ = begin()
    toy.problem = CannotStart("cannot start: the toy is broken")

    toy.may_start.set()

    ended = await life
    assert (ended.outcome, ended.problem) == (Outcome.NOT_STARTED, "cannot start: the toy is broken")


async def test_an_error_in_the_launcher_ends_what_runs(begin):
    attempt, toy, life, _ = begin()
    toy.may_start.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    ended = attempt.abandon("an error in the launcher")

    assert (ended.outcome, ended.log_bytes, toy.run and toy.run.asked) == (Outcome.UNKNOWN, 7, ["abandon"])
    life.cancel()
