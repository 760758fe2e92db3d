"""Batches in the simulation, and the laws that they keep."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from bgd.core.batches import BatchEvent
from bgd.core.job import ACTIVE, FINAL, State
from bgd.core.scheduler import SUBMIT
from bgd.core.spec import JobSpec
from bgd.errors import BgdError
from bgd.wire.replies import Reply
from bgd.wire.requests import (
    BatchPlace,
    Cancel,
    CloseBatch,
    GetBatch,
    NewBatch,
    Retry,
    Selection,
    Submit,
    SubmitMany,
)
from bgd.wire.views import EventView, JobView
from tests.simulation.clients import UNSENT, Receiver
from tests.simulation.launcher import QUEUES
from tests.simulation.machine import Machine, SupervisorLife

SHARE = 0.35  # of all steps in histories with batches
SLACK = 1.0  # seconds: while bgd reads a follow-up from a slow disk, more lines may join the ended batch
COUNTS = ("pending", "running", "succeeded", "failed", "cancelled")


class Batcher:
    """A client that makes batches, adds to them, closes, cancels and retries them, and reads no answers."""

    def __init__(self, machine: Machine, seed: int) -> None:
        self._machine = machine
        self._dice = random.Random(~seed)  # its own, so that other histories stay as they were
        self._tokens: list[bytes] = []

    def step(self) -> str:
        """Ask for something if the daemon is up; return what, in words."""
        life, dice = self._machine.life, self._dice
        if life.handler is None:
            return "nothing about batches"
        batch = dice.randint(1, 1 + len(self._tokens))
        request = dice.choice(
            [
                None,
                None,
                None,
                Submit(UNSENT, self._spec(batch=batch)),
                CloseBatch(UNSENT, batch, cancel=dice.random() < 0.2),
                Cancel(UNSENT, where=Selection(words=f"batch:{batch}")),
                Retry(UNSENT, where=Selection(words=f"batch:{batch}", states=[State.FAILED])),
            ]
        )
        life.loop.create_task(self._lines(life) if request is None else self._ask(life, request))
        return f"batches: {request}"

    async def _lines(self, life: SupervisorLife) -> None:
        """Send the first lines of a new batch, or more of an earlier one."""
        dice = self._dice
        if not self._tokens or dice.random() < 0.7:
            self._tokens.append(dice.randbytes(16))
        token = dice.choice(self._tokens[-3:])
        last = await self._ask(life, GetBatch(id=UNSENT, batch=token))
        after = getattr(last, "last", 0)
        specs = [self._spec() for _ in range(dice.randint(1, 4))]
        follow_ups: dict[str, Any] = {
            name: self._spec() for name in ("then", "catch", "finally_") if dice.random() < 0.8
        }
        new = NewBatch(**follow_ups, is_whole=dice.random() < 0.7)
        place = BatchPlace(token, after, [(after + 1, len(specs))])
        await self._ask(life, SubmitMany(id=UNSENT, specs=specs, place=place, batch=new))

    async def _ask(self, life: SupervisorLife, request: object) -> Reply | None:
        heard: list[Reply] = []
        receiver, handler = Receiver(heard.append), life.handler
        assert handler is not None
        with suppress(BgdError):
            if isinstance(request, SubmitMany):
                if handler.may_be_duplicate(request):
                    await handler.submit_once([request], receiver.uid)
                else:
                    handler.submit_many([request], receiver.uid, receiver.send)
            elif isinstance(request, Submit):
                handler.submit(request, receiver.uid, receiver.send)
            else:
                await handler.answer(request, receiver)  # type: ignore[arg-type]  # one of those above
        return next((each for each in heard if hasattr(each, "last")), None)

    def _spec(self, batch: int | None = None) -> JobSpec:
        dice = self._dice
        return JobSpec(
            argv=("/job", str(dice.choice([0.0, 0.5, 3.0])), str(dice.choice([0, 0, 0, 3])), "0"),
            env={},
            cwd="/",
            retries=dice.choice([0, 0, 1]),
            queue=dice.choice(["default", *QUEUES]),
            delay=dice.choice([0.0, 0.0, 0.3]),
            batch=batch,
        )


def jobs_of_batches(views: Iterable[JobView]) -> set[int]:
    """Return the jobs of batches, and those that follow them."""
    return {view.id for view in views if view.batch or (view.cause is not None and view.cause.of_batch)}


def check_batches(
    disk: sqlite3.Connection, views: Mapping[int, JobView], stream: list[EventView]
) -> Counter[str]:
    """Check that counts equal the jobs, and that each event came at most once, and once when it was due.

    Return how often each event came.
    """
    came: Counter[str] = Counter()
    jobs: defaultdict[int, list[JobView]] = defaultdict(list)
    following: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
    for view in views.values():
        if view.batch is not None:
            jobs[view.batch].append(view)
        if view.cause is not None and view.cause.of_batch:
            following[view.cause.id, view.cause.event].append(view.id)
    has_failed = {event.job for event in stream if event.state is State.FAILED}
    _check_starts(views, stream)
    for row in disk.execute("SELECT * FROM job_batches").fetchall():
        number, members = row["id"], jobs.pop(row["id"], [])
        counted = Counter(_counted(view.state) for view in members)
        stored = {name: row[name] for name in COUNTS if row[name]}
        assert stored == counted, f"batch {number} counts {stored}, and its jobs are {counted}"
        assert bool(row["finished_at"]) == bool(row["is_whole"]), f"batch {number} has a wrong end"
        due = {
            BatchEvent.CATCH: any(view.id in has_failed for view in members),
            BatchEvent.FINALLY: bool(row["is_whole"]),
            BatchEvent.THEN: bool(row["is_whole"]) and counted["succeeded"] == len(members),
        }
        for event, is_due in due.items():
            started = following.pop((number, event), [])
            assert len(started) <= 1, f"{event} of batch {number} started twice: {started}"
            assert row[f"{event}_job"] == (started[0] if started else None), f"{event} of batch {number}"
            if row[f"{event}_spec"] is not None and is_due:
                assert started, f"{event} of batch {number} started 0 times"
            came[f"{event} of a batch"] += len(started)
    assert not jobs, f"there are no batches of these jobs: {jobs}"
    assert not following, f"there are no batches that these follow: {following}"
    return came


def _check_starts(views: Mapping[int, JobView], stream: list[EventView]) -> None:
    """Check that each job that follows a batch was due when it was submitted."""
    states: defaultdict[int, dict[int, State]] = defaultdict(dict)
    had_failures: set[int] = set()
    joined_at: dict[int, float] = {}
    for event in stream:
        view = views.get(event.job)
        if view is not None and view.batch is not None:
            if event.what == SUBMIT:
                joined_at[event.job] = event.at
            states[view.batch][event.job] = event.state
            had_failures |= {view.batch} if event.state is State.FAILED else set()
        elif view is not None and view.cause is not None and view.cause.of_batch and event.what == SUBMIT:
            number, what = view.cause.id, view.cause.event
            counted = {
                state
                for job, state in states[number].items()
                if state is State.SUCCEEDED or joined_at[job] < event.at - SLACK
            }
            is_due = {
                BatchEvent.CATCH: number in had_failures,
                BatchEvent.FINALLY: counted <= FINAL,
                BatchEvent.THEN: counted <= {State.SUCCEEDED},
            }
            assert is_due[BatchEvent(what)], f"{what} of batch {number} started too early: {states[number]}"


def _counted(state: State) -> str:
    return state.value if state in FINAL else "running" if state in ACTIVE else "pending"
