"""When the launcher may exit (R6)."""

from __future__ import annotations

import asyncio
import logging

from bgd.launcher.deadlines import Deadline, Deadlines
from bgd.launcher.supervisors import KnownAttempts, Supervisors

log = logging.getLogger(__name__)


class IdleExit:
    """Let the launcher exit when no attempt runs: on request, after a goodbye, or idle for `idle` seconds.

    Idle means without a supervisor. With `idle` None it exits only on request, as a service does. Ends that
    no supervisor has acknowledged are no reason to stay: the journal keeps them.

    `lease`: a pilot ends its jobs and itself after so many seconds without a message, or up to twice as many.
    """

    _attempts: KnownAttempts
    _supervisors: Supervisors

    def __init__(self, deadlines: Deadlines, idle: float | None, lease: float | None = None) -> None:
        self._deadlines = deadlines
        self._idle = idle
        self._lease = lease
        self._received = 0  # messages, when the lease was looked at last
        self._is_requested = False
        self._idle_deadline: Deadline | None = None
        self._may_exit = asyncio.Event()

    def attach(self, attempts: KnownAttempts, supervisors: Supervisors) -> None:
        """Set what can keep the launcher; to be called before anything happens to them."""
        self._attempts = attempts
        self._supervisors = supervisors
        if self._lease is not None:
            self._deadlines.after(self._lease, self._look_at_lease)

    def _look_at_lease(self) -> None:
        assert self._lease is not None  # noqa: S101  else this is not called
        if self._supervisors.received == self._received:
            log.warning("no message from bgd for %g s: ending its jobs", self._lease)
            self.request()
            return
        self._received = self._supervisors.received
        self._deadlines.after(self._lease, self._look_at_lease)

    def request(self) -> None:
        """Stop all attempts, and exit when they have ended."""
        self._is_requested = True
        self._attempts.interrupt()
        self.check()

    def check(self) -> None:
        """Check whether the launcher may exit; to be called when an attempt ended or a supervisor changed."""
        if self._idle_deadline is not None:
            self._idle_deadline.cancel()
            self._idle_deadline = None
        if self._attempts.running:
            return
        if self._is_requested:
            self._may_exit.set()
        elif self._idle is None:
            return
        elif self._supervisors.has_goodbye:
            self._may_exit.set()
        elif not self._supervisors.has_active:
            self._idle_deadline = self._deadlines.after(self._idle, self._may_exit.set)

    async def wait(self) -> None:
        """Return when the launcher may exit and no attempt was launched since."""
        while not self._may_exit.is_set() or self._attempts.running:
            self._may_exit.clear()
            await self._may_exit.wait()
