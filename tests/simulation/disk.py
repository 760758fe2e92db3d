"""A database in memory that outlives every supervisor, and the thread on which a supervisor uses it."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from typing import Any, Protocol

from bgd.daemon.storage import read
from bgd.daemon.storage.schema import VERSION, create_tables
from tests.simulation.event_queue import EventQueue
from tests.simulation.loop import SimulatedLoop

WRITING = (0.0, 0.0, 0.0002, 0.003, 0.1)  # seconds before and after a call on a database thread


def new_disk() -> sqlite3.Connection:
    """Return a new database."""
    disk = sqlite3.connect(":memory:", isolation_level=None)
    disk.deserialize(EMPTY_DISK)
    read.prepare(disk)
    return disk


class HasDisk(Protocol):
    """A Machine, which this module cannot import."""

    event_queue: EventQueue
    dice: random.Random
    disk: sqlite3.Connection


class SimulatedDatabase:
    """Replaces DatabaseConnection: one thread that runs its calls one after the other."""

    def __init__(self, machine: HasDisk, loop: SimulatedLoop) -> None:
        self._machine = machine
        self._loop = loop
        self._free_at = 0.0

    async def call(self, function: Callable[..., Any], *args: object, **options: object) -> Any:
        """Run a function; it also runs if the caller is cancelled, but not after a kill."""
        event_queue, dice = self._machine.event_queue, self._machine.dice
        done = self._loop.create_future()
        self._free_at = max(self._free_at, event_queue.time) + dice.choice(WRITING)
        work = partial(function, self._machine.disk, *args, **options)
        event_queue.after(self._free_at - event_queue.time, lambda: self._do(done, work))
        return await done

    def _do(self, done: asyncio.Future[Any], work: Callable[[], Any]) -> None:
        if self._loop.is_dead:
            return
        try:
            tell = partial(_tell, done.set_result, work())
        except Exception as error:  # noqa: BLE001 - any error goes to the caller
            tell = partial(_tell, done.set_exception, error)
        self._machine.event_queue.after(self._machine.dice.choice(WRITING), lambda: self._loop.run(tell))


def _tell(how: Callable[[Any], None], what: object) -> None:
    with suppress(asyncio.InvalidStateError):  # the caller was cancelled
        how(what)


def _empty_disk() -> bytes:
    with closing(sqlite3.connect(":memory:")) as db:
        create_tables(db, VERSION)
        db.commit()
        return db.serialize()


EMPTY_DISK = _empty_disk()
