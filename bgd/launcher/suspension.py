"""Suspending an attempt: every process of its tree is stopped, and let go on later."""

from __future__ import annotations

import asyncio
import signal

from bgd.launcher.look import Looker
from bgd.launcher.tree import Tree


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
                await self._tree.stop_all(self._looker, is_wanted=lambda: self.is_on)
            else:
                await self._tree.tell_all(self._looker, signal.SIGCONT)

    async def tell_all(self, signum: int) -> None:
        """Send every process a signal as if at one instant; who was stopped before stays stopped."""
        async with self._turn:
            await self._tree.tell_all(self._looker, signum)
