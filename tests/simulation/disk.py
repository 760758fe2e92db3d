"""A disk in memory that outlives every supervisor, and the thread on which a supervisor uses it."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from typing import Any, Protocol

from bgd.daemon.storage import read
from bgd.daemon.storage.schema import MIGRATIONS
from tests.simulation.agenda import Agenda
from tests.simulation.loop import SimulatedLoop

WRITING = (0.0, 0.0, 0.0002, 0.003, 0.1)  # seconds before a call is done on a database's thread, and after


def new_disk() -> sqlite3.Connection:
    """Return a database as bgd has just made it."""
    disk = sqlite3.connect(":memory:", isolation_level=None)
    disk.deserialize(EMPTY_DISK)
    read.prepare(disk)
    return disk


class HasDisk(Protocol):
    """A Machine."""

    agenda: Agenda
    dice: random.Random
    disk: sqlite3.Connection


class SimulatedDatabase:
    """Stands for a DatabaseConnection: one thread, which runs its calls one after the other."""

    def __init__(self, machine: HasDisk, loop: SimulatedLoop) -> None:
        self._machine = machine
        self._loop = loop
        self._free_at = 0.0

    async def call(self, function: Callable[..., Any], *args: object) -> Any:
        """Do it; a caller that is cancelled leaves it to run to its end, a kill before it prevents it."""
        agenda, dice = self._machine.agenda, self._machine.dice
        done = self._loop.create_future()
        self._free_at = max(self._free_at, agenda.time) + dice.choice(WRITING)
        agenda.after(
            self._free_at - agenda.time, lambda: self._do(done, lambda: function(self._machine.disk, *args))
        )
        return await done

    def _do(self, done: asyncio.Future[Any], work: Callable[[], Any]) -> None:
        if self._loop.is_dead:
            return
        try:
            tell = partial(_tell, done.set_result, work())
        except Exception as error:  # noqa: BLE001 - whatever it is, it goes to whoever asked
            tell = partial(_tell, done.set_exception, error)
        self._machine.agenda.after(self._machine.dice.choice(WRITING), lambda: self._loop.run(tell))


def _tell(how: Callable[[Any], None], what: object) -> None:
    with suppress(asyncio.InvalidStateError):  # nobody waits any more
        how(what)


def _empty_disk() -> bytes:
    with closing(sqlite3.connect(":memory:")) as db:
        for script in MIGRATIONS:
            db.executescript(script)
        db.commit()
        return db.serialize()


EMPTY_DISK = _empty_disk()
