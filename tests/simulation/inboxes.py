"""Readers of inboxes in the simulation, and the laws that inboxes keep."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import count

from bgd.core.job import FINAL
from bgd.core.spec import JobSpec
from bgd.errors import BgdError
from bgd.wire.replies import Done, InboxPart, Reply
from bgd.wire.requests import AcknowledgeEnds, GetInbox, Request
from bgd.wire.views import EventView, JobEnd
from tests.simulation.machine import Machine, SupervisorLife

SHARE = 0.35  # of all steps in histories with inboxes
SESSIONS = (None, "one", "two")
MAX_READERS = 3
REMOVED = "remove"


def session_of(spec: JobSpec) -> str | None:
    """Return the session of a job; roll no dice, so that each seed keeps its history."""
    return SESSIONS[(spec.priority or 0) % len(SESSIONS)]


class Readers:
    """Programs that read inboxes, acknowledge what they got, and are killed at any moment.

    Attributes:
        known: the ends that have reached a reader, by event.
        problems: what must not happen, in words.
    """

    def __init__(self, machine: Machine, seed: int) -> None:
        self._machine = machine
        self._dice = random.Random(~seed)  # dice of its own, so that other histories do not change
        self._open: list[Reader] = []
        self._acknowledged: set[int] = set()
        self.known: dict[int, JobEnd] = {}
        self.problems: list[str] = []
        self.counts = Counter[str]()

    def step(self) -> str:
        """Let a reader do something if the daemon is up; return what, in words."""
        life, dice = self._machine.life, self._dice
        self._open = [reader for reader in self._open if reader.life is life]
        if life.handler is None:
            return "nothing about inboxes"
        if not self._open or (len(self._open) < MAX_READERS and dice.random() < 0.4):
            self._open.append(Reader(life, self._heard))
        reader = dice.choice(self._open)
        if reader.held and dice.random() < 0.4:
            reader.acknowledge()
            return f"a reader acknowledges {[*reader.held]}"
        if reader.is_used and dice.random() < 0.4:
            self._open.remove(reader)
            reader.leave()
            return f"a reader leaves with {[*reader.held]}"
        limit, wait, peek = dice.choice([1, 2, 100]), dice.random() < 0.6, dice.random() < 0.1
        reader.ask(dice.choice(["one", "two"]), wait=wait, peek=peek, limit=limit)
        return f"a reader asks for {limit} ends{' and waits' if wait else ''}"

    def read_all(self, run_out: Callable[[], None]) -> None:
        """Read all inboxes to their end; `run_out` runs the machine until nothing happens any more."""
        for reader in self._open:
            reader.leave()
        reader, self._open = Reader(self._machine.life, self._heard), []
        for session in filter(None, SESSIONS):
            is_empty = False
            while not (is_empty or self.problems):
                reader.ask(session, limit=2)
                run_out()
                is_empty = not reader.held
                reader.acknowledge()
                run_out()

    def _heard(self, reader: Reader, reply: Reply) -> None:
        if isinstance(reply, Done):
            for event in reader.asked.pop(reply.id):
                self._acknowledged.add(event)
                reader.held.pop(event, None)
                self.counts["end acknowledged"] += 1
        if not isinstance(reply, InboxPart):
            return
        others = [each for each in self._open if each is not reader and each.life is reader.life]
        for end in reply.ends:
            if reply.id in reader.peeks:
                continue
            if end.event in self._acknowledged:
                self.problems.append(f"end {end.event} was acknowledged, and is handed out again")
            if end.event in self.known and not end.redelivered:
                self.problems.append(f"end {end.event} is handed out twice, and not marked")
            if any(end.event in other.held for other in others):
                self.problems.append(f"two readers have end {end.event}")
            self.counts["end handed out again" if end.redelivered else "end handed out"] += 1
            self.known[end.event] = reader.held[end.event] = end


class Reader:
    """Stands in for a ClientConnection, and holds the ends that came over it until they are acknowledged."""

    def __init__(self, life: SupervisorLife, heard: Callable[[Reader, Reply], None]) -> None:
        self.life = life
        self.pid = self.uid = 0
        self.when_lost: list[Callable[[], None]] = []
        self.held: dict[int, JobEnd] = {}
        self.asked: dict[int, list[int]] = {}  # events to be acknowledged, by the ids of requests
        self.peeks: set[int] = set()
        self.is_used = False
        self._heard = heard
        self._is_gone = False
        self._numbers = count(1)
        self._turn = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def ask(self, session: str, *, wait: bool = False, peek: bool = False, limit: int) -> None:
        request = GetInbox(id=next(self._numbers), session=session, wait=wait, peek=peek, limit=limit)
        if peek:
            self.peeks.add(request.id)
        self._send(request)

    def acknowledge(self) -> None:
        request = AcknowledgeEnds(next(self._numbers), [*self.held])
        self.asked[request.id] = request.events
        self._send(request)

    def leave(self) -> None:
        """Be killed: nothing that is under way arrives, and the daemon hears of it."""
        self._is_gone = True
        for task in self._tasks:
            self.life.loop.run(task.cancel)
        self.life.loop.run(lambda: [callback() for callback in self.when_lost])

    def send(self, reply: Reply) -> None:
        if not self._is_gone:
            self._heard(self, reply)

    async def send_and_drain(self, reply: Reply) -> None:
        self.send(reply)

    @asynccontextmanager
    async def in_turn(self) -> AsyncGenerator[None, None]:
        async with self._turn:
            yield

    def _send(self, request: Request) -> None:
        self.is_used = True
        self._tasks.append(self.life.loop.create_task(self._answer(request)))

    async def _answer(self, request: Request) -> None:
        assert self.life.handler is not None
        try:
            await self.life.handler.answer(request, self)  # type: ignore[arg-type]  # stands for a connection
        except BgdError:
            self.asked.pop(request.id, None)


def check_inboxes(disk: sqlite3.Connection, readers: Readers, stream: Iterable[EventView]) -> Counter[str]:
    """Check that each end of a job with a session has reached a reader once, and has left its inbox.

    A job that ends twice in one transaction has one end: the first was never on disk.
    """
    assert not readers.problems, readers.problems[0]
    (left,) = disk.execute("SELECT count(*) FROM inbox").fetchone()
    assert not left, f"{left} ends were acknowledged, and are still there"
    transactions = [last for (last,) in disk.execute("SELECT last FROM events ORDER BY last")]
    of_jobs: defaultdict[tuple[int, int], list[EventView]] = defaultdict(list)
    for event in stream:
        if event.what != REMOVED:
            of_jobs[event.job, bisect_left(transactions, event.id)].append(event)
    ends = Counter(job for (job, _), events in of_jobs.items() if events[-1].state in FINAL)
    told = Counter(end.job for end in readers.known.values())
    sessions = dict(disk.execute("SELECT id, session FROM jobs").fetchall())
    for job in ends.keys() | told.keys():
        if job not in sessions:  # removed, perhaps before its end was read
            assert told[job] <= ends[job], f"job {job} ended {ends[job]} times: {told[job]} are told"
        else:
            expected = ends[job] if sessions[job] else 0
            assert told[job] == expected, f"job {job} ended {expected} times: {told[job]} are told"
    return readers.counts
