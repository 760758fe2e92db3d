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
from typing import Protocol

from msgspec import Struct

from bgd.clock import elapsed
from bgd.launcher.cgroup import Group
from bgd.launcher.deadlines import Deadline, Deadlines
from bgd.launcher.process import (
    SHORTAGES,
    TICKS,
    Channel,
    Process,
    hold,
    send,
    stamp_of,
)
from bgd.launcher.scan import Look, Looker
from bgd.wire.launching import AttemptKey

log = logging.getLogger(__name__)


def mark(key: AttemptKey) -> str:
    """Return what stands in BGD_RUN of every process of the attempt."""
    return f"{key.store}.{key.job}.{key.attempt}"


def key_of(mark: str) -> AttemptKey | None:
    """Return the attempt that a mark names, None if it is not one of ours."""
    found = _MARK.fullmatch(mark)
    return found and AttemptKey(found[1], int(found[2]), int(found[3]))


class Tree:
    """What is known of one attempt's processes.

    `channel`: its output, `pid`: the first process, each None where nobody knows; `since`: elapsed
    clock, before the first process was started. `ticks`: that one's start time, to be given where this
    launcher is not its parent, so that the pid alone proves nothing. `stamp`: see there, `group`: its
    control group, None: it has none.
    """

    def __init__(
        self,
        key: AttemptKey,
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


# --- What an attempt runs in: its first process, from the start on, whoever its parent is.


class Usage(Struct, frozen=True):
    """What a process used; None: not known."""

    user_seconds: float | None = None
    system_seconds: float | None = None
    max_rss_bytes: int | None = None


class Execution(Protocol):
    """`result`: descriptor of the file it writes its result to, None if it is to write none."""

    @property
    def pid(self) -> int: ...

    @property
    def result(self) -> int | None: ...

    @property
    def is_over(self) -> bool: ...

    def signal(self, signum: int) -> None:
        """Send the process a signal; nothing once it is over.

        Raises:
            OSError: it cannot be sent.
        """

    async def wait(self) -> int:
        """Return its exit code, or the negated number of the signal that ended it."""

    def usage(self) -> Usage:
        """Return what it used, once it is over."""

    def has_left_others(self, tree: Tree) -> bool:
        """Whether there are other processes of its group; to be asked once, right after `wait`."""

    def release(self, *, is_intact: bool) -> None:
        """Give back what was lent, once nothing of the attempt is left; `is_intact`: as it was before."""


# --- The stop ladder (R8): TERM to a whole process tree at once, grace, then KILL until nothing is left.


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
