"""When the launcher may leave (R6)."""

from __future__ import annotations

import asyncio

from bgd.launcher.attempts import Attempts
from bgd.launcher.deadlines import Deadline, Deadlines
from bgd.launcher.masters import Masters


class Departure:
    """Leaves only while nothing runs: when told to, after a goodbye, or `idle` seconds without a supervisor.

    With `idle` None only when told to, as a service does.
    Ends that nobody has acknowledged are no reason to stay: the journal keeps them.
    """

    _attempts: Attempts
    _masters: Masters

    def __init__(self, deadlines: Deadlines, idle: float | None) -> None:
        self._deadlines = deadlines
        self._idle = idle
        self._is_told = False
        self._idle_end: Deadline | None = None
        self._leave = asyncio.Event()

    def oversee(self, attempts: Attempts, masters: Masters) -> None:
        """Name what can keep it; before anything happens to them."""
        self._attempts = attempts
        self._masters = masters

    def tell(self) -> None:
        """Leave once all that runs has been ended."""
        self._is_told = True
        self._attempts.interrupt()
        self.consider()

    def consider(self) -> None:
        """Look whether it is time; to be called whenever something ended, came or went."""
        if self._idle_end is not None:
            self._idle_end.cancel()
            self._idle_end = None
        if self._attempts.running:
            return
        if self._is_told:
            self._leave.set()
        elif self._idle is None:
            return
        elif self._masters.has_goodbye:
            self._leave.set()
        elif not self._masters.has_master:
            self._idle_end = self._deadlines.after(self._idle, self._leave.set)

    async def wait(self) -> None:
        """Return when it is time, and still is: somebody may have come after it was."""
        while not self._leave.is_set() or self._attempts.running:
            self._leave.clear()
            await self._leave.wait()
