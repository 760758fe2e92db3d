"""Suspending an attempt: every process of its tree is stopped, and let go on later."""

from __future__ import annotations

import asyncio
import logging
import signal

from bgd.launcher.look import Looker
from bgd.launcher.tree import Tree

log = logging.getLogger(__name__)


class Suspension:
    """What `is_on` was last set to holds, once the `carry_out` that follows has returned."""

    def __init__(self, tree: Tree, looker: Looker) -> None:
        self._tree = tree
        self._looker = looker
        self._turn = asyncio.Lock()  # they must not get in each other's way
        self.is_on = False

    async def carry_out(self) -> None:
        """Stop every process, also those that are started meanwhile, or let all go on."""
        async with self._turn:
            if self.is_on:
                await self._stop_all()
            else:
                await self._tree.tell_all(self._looker, signal.SIGCONT)

    async def _stop_all(self) -> None:
        stopped: set[tuple[int, int]] = set()
        for _ in range(_LOOKS):
            living = self._tree.living(await self._looker.look(self._tree.first_tick))
            new = [each for each in living if (each.pid, each.ticks) not in stopped]
            if not self.is_on or not new:
                return
            for each in new:
                self._tree.tell(each, signal.SIGSTOP)
                stopped.add((each.pid, each.ticks))
        log.warning(
            "job %d: starts processes faster than they can be stopped: not all of it is suspended",
            self._tree.key.job,
        )


_LOOKS = 20  # a look finds all but what was started during it, and who is stopped starts nothing
