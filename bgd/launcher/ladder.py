"""The stop ladder (R8): TERM to a whole process tree at once, grace, then KILL until nothing is left."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

from bgd.clock import elapsed
from bgd.launcher.deadlines import Deadline, Deadlines
from bgd.launcher.look import Looker
from bgd.launcher.process import SHORTAGES, Process, hold
from bgd.launcher.tree import Tree

log = logging.getLogger(__name__)


class Ladder:
    """Brings one tree down; `grace` seconds from now at the latest the KILLs begin."""

    def __init__(self, tree: Tree, looker: Looker, deadlines: Deadlines, grace: float) -> None:
        self._tree = tree
        self._looker = looker
        self._deadlines = deadlines
        self._no_mercy: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._deadline: Deadline | None = None
        self._is_all_told = True  # as far as it was signalled last: descriptors may have been short
        self.hasten(grace)

    def hasten(self, grace: float) -> None:
        """Let the grace end in so many seconds, if that is sooner."""
        if self._no_mercy.done() or (self._deadline and self._deadline.at <= elapsed() + grace):
            return
        if self._deadline:
            self._deadline.cancel()
        self._deadline = None if grace <= 0 else self._deadlines.after(grace, self._end_grace)
        if self._deadline is None:
            self._end_grace()

    async def bring_down(self) -> None:
        """Return when nothing of the tree is left that can be ended."""
        while not self._no_mercy.done():
            living = await self._signal(signal.SIGTERM)
            if not living:
                break
            await self._deaths(living, self._no_mercy)
        began = elapsed()
        # who forks and ends between being listed and being read shows neither itself nor its child
        looks_in_vain = 0
        if self._tree.group is not None:
            self._tree.group.kill()
        while looks_in_vain < _BELIEVED:
            living = await self._signal(signal.SIGKILL)
            looks_in_vain = 0 if living else looks_in_vain + 1
            if living and elapsed() - began > UNKILLABLE:
                # the kernel lets a killed process run no more of its program, so it is as good as gone
                log.warning(
                    "job %d: does not die: %s", self._tree.key.job, ", ".join(str(p.pid) for p in living)
                )
                break
            if living:
                await self._deaths(living, again := self._deadlines.passed(_KILL_AGAIN))
                again.cancel()
        if self._deadline:
            self._deadline.cancel()

    def _end_grace(self) -> None:
        if not self._no_mercy.done():
            self._no_mercy.set_result(None)

    async def _signal(self, signum: int) -> list[Process]:
        """Send the whole tree a signal as if at one instant, and let it act on it; return who lived then."""
        living = self._tree.living(await self._looker.look(self._tree.first_tick))
        if len(living) > 1:
            living, _ = await self._tree.stop_all(self._looker)
        self._is_all_told = True
        # a stopped process acts on TERM only once it goes on, also one that somebody else stopped
        for each_signum in (signum,) if signum == signal.SIGKILL else (signum, signal.SIGCONT):
            for process in reversed(living):  # children first: see `stop_all`
                self._is_all_told &= self._tree.signal(process, each_signum)
        return living

    async def _deaths(self, processes: list[Process], until: asyncio.Future[None]) -> None:
        """Wait until these (the first of them, if there are many) have ended, or `until` is done."""
        loop = asyncio.get_running_loop()
        all_ended = loop.create_future()
        pidfds, is_short = _hold_some(processes)
        left = set(pidfds)
        ends = {all_ended, until}
        is_to_look_again = not self._is_all_told or (is_short and not left)
        if is_to_look_again:
            ends.add(again := self._deadlines.passed(_KILL_AGAIN))

        def ended(pidfd: int) -> None:
            loop.remove_reader(pidfd)
            left.discard(pidfd)
            if not left and not all_ended.done():
                all_ended.set_result(None)

        try:
            for pidfd in pidfds:
                loop.add_reader(pidfd, ended, pidfd)
            if left or is_to_look_again:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if is_to_look_again:
                again.cancel()
            for pidfd in pidfds:
                loop.remove_reader(pidfd)
                os.close(pidfd)
            _held.difference_update(pidfds)


_HELD = 16  # processes a ladder waits for at a time: each costs a descriptor
_MOST_HELD = 64  # processes all ladders wait for at a time
_BELIEVED = 2  # looks in a row that must find nothing
_KILL_AGAIN = 1.0  # seconds until those still there are killed again, or are looked for again
UNKILLABLE = 10.0  # seconds after which waiting for a process stuck in the kernel is given up

_held: set[int] = set()  # pidfds, of all ladders


def _hold_some(processes: list[Process]) -> tuple[set[int], bool]:
    """Return pidfds of the first of these, and whether there would be more were descriptors not short."""
    pidfds: set[int] = set()
    for each in processes[:_HELD]:
        if len(_held) >= _MOST_HELD:
            return pidfds, True
        try:
            pidfd = hold(each)
        except OSError as error:
            if error.errno in SHORTAGES:
                return pidfds, True
            for held in pidfds:
                os.close(held)
            _held.difference_update(pidfds)
            raise
        if pidfd is not None:
            pidfds.add(pidfd)
            _held.add(pidfd)
    return pidfds, False
