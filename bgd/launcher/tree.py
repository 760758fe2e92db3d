"""A whole process tree: who belongs to an attempt, however it tried to get away.

A process belongs to an attempt if it is of the first process's group or session or in the attempt's control
group, holds its output pipe or terminal, has its stamp, carries its mark in the environment, or descends
from one that does. Nothing older than the attempt ever does: a service that was handed the pipe is not of its
tree.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress

from bgd.launcher.cgroup import Group
from bgd.launcher.look import Look, Looker
from bgd.launcher.process import SHORTAGES, TICKS, Channel, Process, send, stamp_of
from bgd.wire.launching import Key

log = logging.getLogger(__name__)


def mark(key: Key) -> str:
    """Return what stands in BGD_RUN of every process of the attempt."""
    return f"{key.store}.{key.job}.{key.attempt}"


def key_of(mark: str) -> Key | None:
    """Return the attempt that a mark names, None if it is not one of ours."""
    found = _MARK.fullmatch(mark)
    return found and Key(found[1], int(found[2]), int(found[3]))


class Tree:
    """What is known of one attempt's processes.

    `channel`: its output, `pid`: the first process, each None where nobody knows; `since`: elapsed
    clock, before the first process was started. `ticks`: that one's start time, to be given where this
    launcher is not its parent, so that the pid alone proves nothing. `stamp`: see there, `group`: its
    control group, None: it has none.
    """

    def __init__(
        self,
        key: Key,
        channel: Channel | None,
        since: float,
        pid: int | None,
        ticks: int | None = None,
        *,
        stamp: int | None = None,
        group: Group | None = None,
    ) -> None:
        self.key = key
        self.group = group
        self.first_tick = math.floor(since * TICKS) - 1  # the kernel and this clock round differently
        self.was_signalled = False  # the first process, while it lived
        self._mark = mark(key)
        self._channel = channel
        self._pid = pid
        self._ticks = ticks
        self._stamp = stamp
        # while the group has a process, even a dead one, its number is not another's
        self._has_group = pid is not None and ticks is None
        self._found: dict[int, int] = {}  # pid -> ticks of those seen alive
        self._told: set[tuple[int, int, int]] = set()  # pid, ticks, signal
        self._out_of_reach: set[tuple[int, int]] = set()  # another user's

    def has_group(self) -> bool:
        """Whether the first process's group has others; to be asked once, right after it was reaped."""
        try:
            os.killpg(self._pid or 0, 0)
        except ProcessLookupError:
            self._has_group = False
        except PermissionError:
            pass  # somebody is there
        return self._has_group

    def left_any(self, orphans: Iterable[int]) -> bool:
        """Whether one of these processes, whose parents have ended, is of this attempt, or any that lives."""
        if self.group is not None and self.group.is_populated:
            return True
        return self._stamp is not None and any(stamp_of(pid) == self._stamp for pid in orphans)

    def living(self, look: Look) -> list[Process]:
        """Return the members that live and can be signalled: the oldest first, parents before children."""
        if self._ticks is not None and self._pid is not None and self._pid in look.processes:
            self._has_group |= look.processes[self._pid].ticks == self._ticks
        members = {pid: each for pid, each in look.processes.items() if self._is_root(each, look)}
        grouped = self.group.pids() if self.group else set[int]()
        members.update((pid, look.processes[pid]) for pid in grouped & look.processes.keys())
        self._has_group = self._has_group and any(map(self._is_of_group, members.values()))
        parents = list(members)
        while parents:
            children = [child for pid in parents for child in look.children.get(pid, [])]
            parents = [child.pid for child in children if child.pid not in members]
            members.update((child.pid, child) for child in children)
        self._found = {pid: each.ticks for pid, each in members.items()}
        return [each for each in _by_age(members, look) if _name(each) not in self._out_of_reach]

    async def stop_all(
        self, looker: Looker, *, is_wanted: Callable[[], bool] = lambda: True
    ) -> tuple[list[Process], list[Process]]:
        """Stop every member (SIGSTOP), also those that are started meanwhile.

        While all of them are stopped, each can be given a signal before any of them acts on another's end:
        a shell whose child dies first would run its script's next command. Parents are stopped before their
        children, and have to be let go on after them (`reversed`): a shell with job control goes on with its
        script when it sees a stopped child, and the kernel sends SIGHUP to stopped processes whose group is
        orphaned by the end of a parent.

        Returns:
            The members that live, and those of them that this call stopped: it leaves alone who was stopped
            already, and ends early once `is_wanted` says so.
        """
        stopped: dict[tuple[int, int], Process] = {}
        for _ in range(_LOOKS):
            living = self.living(await looker.look(self.first_tick))
            running = [each for each in living if not each.is_stopped and _name(each) not in stopped]
            if not running or not is_wanted():
                break
            for number, each in enumerate(running):
                if is_wanted() and self.signal(each, signal.SIGSTOP):
                    stopped[_name(each)] = each
                if number % _BREATH == _BREATH - 1:
                    await asyncio.sleep(0)
        else:
            log.warning("job %d: starts processes faster than they can be stopped", self.key.job)
        return living, [each for each in living if _name(each) in stopped]

    def signal(self, process: Process, signum: int) -> bool:
        """Send a member a signal: TERM once, others as often as asked. False: no descriptor for that now."""
        told = (process.pid, process.ticks, signum)
        if signum == signal.SIGTERM and told in self._told:
            return True
        try:
            was_there = send(process, signum)
        except PermissionError:
            log.warning("job %d: process %d is another user's and is left alone", self.key.job, process.pid)
            self._out_of_reach.add(_name(process))
            return True
        except OSError as error:
            if error.errno not in SHORTAGES:
                raise
            return False
        if signum in {signal.SIGTERM, signal.SIGKILL}:
            self._told.add(told)
            self.was_signalled |= was_there and process.pid == self._pid
        return True

    async def tell_all(self, looker: Looker, signum: int) -> None:
        """Send every member a signal as if at one instant, however often that was done before."""
        if signum in {signal.SIGSTOP, signal.SIGCONT}:
            living = self.living(await looker.look(self.first_tick))
            for process in living if signum == signal.SIGSTOP else reversed(living):
                self.tell(process, signum)
            return
        living, stopped = await self.stop_all(looker)
        for process in reversed(living):
            self.tell(process, signum)
        for process in reversed(stopped):
            self.tell(process, signal.SIGCONT)

    def tell(self, process: Process, signum: int) -> None:
        """Send one process a signal as it is; who is gone hears nothing."""
        try:
            send(process, signum)
        except OSError as error:
            log.warning(
                "job %d: cannot send signal %d to process %d: %s",
                *(self.key.job, signum, process.pid, error.strerror),
            )

    def kill_unseen(self) -> None:
        """Kill without looking what is surely its own: its control group, the first process's group."""
        if self.group is not None:
            self.group.kill()
        if self._has_group and self._pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)

    def _is_root(self, process: Process, look: Look) -> bool:
        """Whether it belongs by itself, not by descent."""
        return process.ticks >= self.first_tick and (
            self._found.get(process.pid) == process.ticks
            or (self._has_group and self._is_of_group(process))
            or self._channel in look.channels.get(process.pid, ())
            or look.marks.get(process.pid) == self._mark
            or (self._stamp is not None and process.stamp == self._stamp)
        )

    def _is_of_group(self, process: Process) -> bool:
        return self._pid in (process.group, process.session)


def _name(process: Process) -> tuple[int, int]:
    """Return what no other process ever has."""
    return process.pid, process.ticks


def _by_age(members: dict[int, Process], look: Look) -> list[Process]:
    """Return these, the oldest first, and of those that were started in the same tick parents first."""
    descending = [each for each in members.values() if each.parent not in members]
    for each in descending:
        descending += look.children.get(each.pid, [])
    # reused numbers may make two seem each other's parent: these are not among the descending
    return sorted(({each.pid: each for each in descending} | members).values(), key=lambda each: each.ticks)


_LOOKS = 20  # a look finds all but what was started during it, and who is stopped starts nothing
_BREATH = 50  # processes that are signalled in a row, some milliseconds, before others have a turn

_MARK = re.compile(r"(.+)\.([0-9]{1,19})\.([0-9]{1,19})", re.DOTALL)
