"""What running attempts use now. It is read only when asked: nothing here runs by itself."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Mapping

from bgd.core.spec import Isolation
from bgd.launcher.attempt import Attempt
from bgd.launcher.cgroup import PresentUsage
from bgd.launcher.context import Context
from bgd.launcher.process import TICKS, Process
from bgd.launcher.scan import NEVER
from bgd.launcher.tree import Tree, members_of
from bgd.system.clock import elapsed
from bgd.wire.launching import AttemptKey, AttemptUsage


class UsageReader:
    """Reads the control groups of attempts, or else all their processes in one scan.

    It keeps the latest reading, from which the next one computes the load of the processors. One that is too
    old for that is replaced first; one that is very young is given again, so that any number of callers costs
    at most a reading a second.

    Args:
        attempts: those that have not ended.
    """

    def __init__(self, context: Context, attempts: Mapping[AttemptKey, Attempt]) -> None:
        self._context = context
        self._attempts = attempts
        self._at = -math.inf  # elapsed clock
        self._seconds: dict[AttemptKey, float] = {}  # processor time of each until then
        self._latest: list[AttemptUsage] = []

    async def read(self) -> list[AttemptUsage]:
        """Return what the attempts use that have processes on this machine."""
        age = elapsed() - self._at
        if age < _YOUNG:
            return self._latest
        if age > _OLD:
            await self._take()
            await self._context.deadlines.timer(_FIRST_INTERVAL)
        before, earlier = self._at, self._seconds
        self._latest = []
        for attempt, usage in (await self._take()).items():
            key = attempt.launch.key
            since, seconds = before, earlier.get(key)
            if seconds is None and not _may_be_older(attempt):  # it has started since then
                since, seconds = attempt.since, 0.0
            percent = None if seconds is None else _percent(usage.cpu_seconds - seconds, self._at - since)
            self._latest.append(AttemptUsage(key, percent, usage.memory, usage.processes))
        return self._latest

    async def _take(self) -> dict[Attempt, PresentUsage]:
        """Read what each attempt uses, and remember its processor time."""
        trees = {tree: attempt for attempt in self._attempts.values() if (tree := attempt.tree) is not None}
        found: dict[Tree, PresentUsage] = {}
        for tree in trees:
            if tree.group is not None and (usage := tree.group.present_usage()) is not None:
                found[tree] = usage
                await asyncio.sleep(0)  # others go on: with many groups this takes long
        if rest := trees.keys() - found.keys():
            members = members_of(rest, await self._context.scanner.scan(NEVER))
            found.update((tree, _sum_of(members[tree.key])) for tree in rest if members[tree.key])
        self._at = elapsed()
        self._seconds = {tree.key: usage.cpu_seconds for tree, usage in found.items()}
        return {trees[tree]: usage for tree, usage in found.items()}


def _sum_of(processes: list[Process]) -> PresentUsage:
    ticks, memory = sum(each.cpu_ticks for each in processes), sum(each.memory for each in processes)
    return PresentUsage(ticks / TICKS, memory, len(processes))


def _may_be_older(attempt: Attempt) -> bool:
    """Return whether its first process may have run other attempts before."""
    return attempt.launch.warm is not None and attempt.launch.warm.isolation is Isolation.REUSE


def _percent(used: float, seconds: float) -> float:
    """Return the load, within what is possible.

    The time of a process is missing after its death until its parent waits for it, or for good.
    """
    most = 100.0 * (os.cpu_count() or 1)
    return round(min(max(100 * used / max(seconds, 1 / TICKS), 0.0), most), 1)


_YOUNG = 1.0  # seconds
_OLD = 10.0  # seconds
_FIRST_INTERVAL = 0.3  # seconds between two readings if there was none; the kernel counts hundredths
