"""Batches in the simulation, and the laws that they keep."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from math import inf
from typing import Any

from msgspec import UNSET, Struct

from bgd.core.batches import BatchEvent
from bgd.core.job import ACTIVE, CANCELLED_BEFORE_START, FINAL, WAITING, Outcome, State
from bgd.core.scheduler import SUBMIT
from bgd.core.spec import JobSpec
from bgd.daemon.storage.change_stream import newest_event
from bgd.errors import BgdError
from bgd.wire.replies import BatchesPart, ErrorCode, Failed, Reply, Submitted
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
from tests.end_to_end.records import AttemptRecords
from tests.simulation.clients import UNSENT, Receiver
from tests.simulation.launcher import QUEUES
from tests.simulation.machine import Machine, SupervisorLife

SHARE = 0.35  # of all steps in histories with batches
SLACK = 1.0  # seconds: while bgd reads a follow-up from a slow disk, more lines may join the ended batch
COUNTS = ("pending", "running", "succeeded", "failed", "cancelled")


class Said(Struct):
    """What the client said of a batch: more lines may come (`opens`), no more come, or that jobs run again.

    `asked`, `answered`: the newest event on disk then; `batch`: its id or its token.
    """

    batch: object
    asked: int
    opens: bool = False
    answered: float = inf


class Batcher:
    """A client that makes batches, adds to them, closes, halts, cancels and retries them.

    `said`: what of it can let a batch end, or keeps it from ending.
    """

    def __init__(self, machine: Machine, seed: int) -> None:
        self._machine = machine
        self._dice = random.Random(~seed)  # its own, so that other histories stay as they were
        self._tokens: list[bytes] = []
        self.said: list[Said] = []

    def step(self) -> str:
        """Ask for something if the daemon is up; return what, in words."""
        life, dice = self._machine.life, self._dice
        if life.handler is None:
            return "nothing about batches"
        batch = dice.randint(max(len(self._tokens) - 2, 1), 1 + len(self._tokens))
        request = dice.choice(
            [
                None,
                None,
                None,
                CloseBatch(UNSENT, batch, reopen=True),
                CloseBatch(UNSENT, batch, reopen=True),
                Submit(UNSENT, self._spec(batch=batch)),
                CloseBatch(UNSENT, batch, cancel=dice.random() < 0.2),
                Cancel(UNSENT, where=Selection(words=f"batch:{batch}")),
                Retry(UNSENT, where=Selection(words=f"batch:{batch}", states=[State.FAILED])),
            ]
        )
        if request is None:
            life.loop.create_task(self._lines(life))
        elif isinstance(request, CloseBatch) and request.reopen:
            life.loop.create_task(self._halt(life, request))
        else:
            life.loop.create_task(self._ask(life, request))
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

    async def _halt(self, life: SupervisorLife, request: CloseBatch) -> None:
        """Do as `bgctl batch --halt` does: keep the batch open, then cancel what waits, or everything."""
        dice = self._dice
        await self._ask(life, request)
        states = list(WAITING) if dice.random() < 0.5 else None
        if dice.random() < 0.9:  # else bgctl is killed in between
            await self._ask(
                life, Cancel(UNSENT, where=Selection(words=f"batch:{request.batch}", states=states))
            )

    def _note(self, request: object) -> Said | None:
        said = Said(None, newest_event(self._machine.disk))
        if isinstance(request, CloseBatch):
            said.batch, said.opens = request.batch, request.reopen
        elif isinstance(request, SubmitMany) and request.place is not UNSET and request.batch is not UNSET:
            said.batch, said.opens = request.place.batch, not request.batch.is_whole
        elif isinstance(request, Retry) and request.where is not None:
            said.batch = int(str(request.where.words).removeprefix("batch:"))
        else:
            return None
        self.said.append(said)
        return said

    def _hear(self, said: Said, reply: Reply) -> None:
        said.answered = newest_event(self._machine.disk)
        if isinstance(reply, BatchesPart):
            said.opens = said.opens and reply.batches[0].finished_at is None
        elif not isinstance(reply, Submitted):
            said.opens = False

    async def _ask(self, life: SupervisorLife, request: object) -> Reply | None:
        heard: list[Reply] = []
        said = self._note(request)

        def hear(reply: Reply) -> None:
            heard.append(reply)
            if said is not None:
                self._hear(said, reply)

        receiver, handler = Receiver(hear), life.handler
        assert handler is not None
        try:
            if isinstance(request, SubmitMany):
                if handler.may_be_duplicate(request):
                    hear(await handler.submit_once([request], receiver.uid))
                else:
                    handler.submit_many([request], receiver.uid, receiver.send)
            elif isinstance(request, Submit):
                handler.submit(request, receiver.uid, receiver.send)
            else:
                await handler.answer(request, receiver)  # type: ignore[arg-type]  # one of those above
        except BgdError as error:
            hear(Failed(UNSENT, ErrorCode.REFUSED, str(error)))
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
    disk: sqlite3.Connection, views: Mapping[int, JobView], stream: list[EventView], said: list[Said]
) -> Counter[str]:
    """Check that counts equal the jobs, and that each event came at most once, and once when it was due.

    Return how often each event came.
    """
    came = _check_open(disk, views, stream, said)
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


def _check_open(
    disk: sqlite3.Connection, views: Mapping[int, JobView], stream: list[EventView], said: list[Said]
) -> Counter[str]:
    """Check that a batch does not end while its client may add lines, for example after a halt.

    Return how often one could have ended too early.
    """
    ends: defaultdict[int, list[int]] = defaultdict(list)
    for event in stream:
        view = views.get(event.job)
        cause = None if view is None or event.what != SUBMIT else view.cause
        if cause is not None and cause.of_batch and cause.event != BatchEvent.CATCH:
            ends[cause.id].append(event.id)
    found: Counter[str] = Counter()
    for row in disk.execute("SELECT id, token, is_whole, is_cancelled FROM job_batches").fetchall():
        of_batch = [each for each in said if each.batch in {row["id"], row["token"]}]
        for word in of_batch if not row["is_cancelled"] else ():
            if not word.opens or word.answered == inf:
                continue
            others = [each.asked for each in of_batch if not each.opens and each.answered >= word.asked]
            until = min(others, default=inf)
            if until <= word.answered:
                continue
            early = [event for event in ends[row["id"]] if word.answered < event <= until]
            assert not early, f"batch {row['id']} ended while it was open: {early}"
            assert until < inf or not row["is_whole"], f"batch {row['id']} was left open, and is whole"
            found["open batches"] += 1
    return found


def check_beginnings(stream: list[EventView], records: AttemptRecords) -> Counter[str]:
    """Check that exactly those jobs were cancelled before they started none of whose attempts has begun."""
    found: Counter[str] = Counter()
    for event in stream:
        has_begun = (event.job, event.attempt) in records.starts
        if event.reason == CANCELLED_BEFORE_START:
            assert not has_begun, f"job {event.job} was cancelled before it started, and has run"
            found["cancelled before a start"] += event.attempt
        elif event.outcome is Outcome.CANCELLED and event.reason is None and event.state is State.CANCELLED:
            assert has_begun, f"job {event.job} was cancelled, as if it had run"
    return found


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
