"""An attempt that runs in a warm worker itself, which has it alone as long as it lasts."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable

from bgd.launcher.children import Children
from bgd.launcher.execution import Usage
from bgd.launcher.tree import Tree
from bgd.launcher.warm.line import Said

Totals = tuple[float, float, int]
"""Of a worker since it began: seconds for the user and in the system, its peak of memory in KiB."""


class Reused:
    """`before`: what the worker had used when it began with this.

    `returned` is called once it is no longer needed: whether it is fit for another attempt.
    """

    def __init__(
        self, pid: int, result: int, before: Totals, children: Children, returned: Callable[[bool], None]
    ) -> None:
        self.pid = pid
        self.result: int | None = result
        self._children = children
        self._before = before
        self._returned = returned
        self._usage = Usage()
        self._has_left_children = False
        self._is_worker_dead = False
        self._is_spent = False
        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def is_over(self) -> bool:
        return self._end.done()

    def signal(self, signum: int) -> None:
        if not self.is_over:
            self._children.kill(self.pid, signum)

    async def wait(self) -> int:
        return await self._end

    def usage(self) -> Usage:
        return self._usage

    def has_left_others(self, tree: Tree) -> bool:
        return tree.has_group() if self._is_worker_dead else self._has_left_children

    def release(self, *, is_intact: bool) -> None:
        """Give the worker back."""
        self._returned(is_intact and not self._is_spent and not self._has_left_children)

    def hear(self, said: Said) -> None:
        """Take what the worker says of it."""
        if said.code is not None and said.usage is not None:
            self._has_left_children = said.left_children
            self._is_spent = said.spent
            self._finish(said.code, said.usage)

    def lose_worker(self, code: int, usage: resource.struct_rusage | None) -> None:
        """Take that the worker has ended so, by the job's own doing or another's."""
        self._is_worker_dead = True
        self._finish(code, usage and (usage.ru_utime, usage.ru_stime, usage.ru_maxrss))

    def _finish(self, code: int, totals: Totals | None) -> None:
        if self._end.done():
            return
        if totals is not None:
            user, system, peak = totals
            self._usage = Usage(
                round(user - self._before[0], 6), round(system - self._before[1], 6), peak * 1024
            )
        self._end.set_result(code)
