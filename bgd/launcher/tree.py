"""The process tree of an attempt, even of processes that try to escape, and the stop ladder.

A process belongs to an attempt if it is in the first process's group or session or in the attempt's control
group, has its tag, has its output pipe or terminal open and not another attempt's tag, carries its mark in
the environment, or descends from a process that belongs. A process older than the attempt never belongs: a
service that was given the pipe is not in the tree.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import signal
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from enum import IntEnum
from functools import partial
from typing import Protocol

from msgspec import Struct

from bgd.launcher.cgroup import Group, Usage
from bgd.launcher.deadlines import Deadline, Deadlines, readable, settle
from bgd.launcher.process import SHORTAGES, TICKS, Process, StreamId, name_of, open_pidfd, send_signal, tag_of
from bgd.launcher.scan import Scan, Scanner
from bgd.system.clock import elapsed
from bgd.wire.launching import AttemptKey

log = logging.getLogger(__name__)


# --- The stop ladder (R8): TERM to the whole process tree at once, grace, then KILL until nothing is left.


class Ladder:
    """End one tree; the KILLs begin at the latest `grace` seconds from now.

    Args:
        first: the signal that asks the processes to end.
        dump: called when the grace is over, shortly before the KILLs; returns whether to wait for its effect.

    Attributes:
        found: the processes that it found first, in words; empty until then, or if there were none.
    """

    def __init__(
        self,
        tree: Tree,
        scanner: Scanner,
        deadlines: Deadlines,
        grace: float,
        first: int = signal.SIGTERM,
        dump: Callable[[], bool] = lambda: False,
    ) -> None:
        self._tree = tree
        self._dump = dump
        self._first = first
        self._scanner = scanner
        self._deadlines = deadlines
        self._grace_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._deadline: Deadline | None = None
        self._reached_all = True  # with the latest signal, and can watch all; False if descriptors are short
        self.found = ""
        self.hasten(grace)

    def hasten(self, grace: float) -> None:
        """Shorten the grace time to this many seconds."""
        if self._grace_over.done() or (self._deadline and self._deadline.at <= elapsed() + grace):
            return
        if self._deadline:
            self._deadline.cancel()
        if grace <= 0:
            settle(self._grace_over)
        else:
            self._deadline = self._deadlines.after(grace, partial(settle, self._grace_over))

    async def bring_down(self) -> None:
        """Wait until no process of the tree is left that can be killed."""
        while not self._grace_over.done():
            living = await self._signal(self._first)
            if not living:
                break
            await self._wait_for_deaths(living, self._grace_over)
            if self._grace_over.done() and self._dump():
                await self._wait_for_deaths(living, dumped := self._deadlines.timer(_DUMP_PATIENCE))
                dumped.cancel()
        began = elapsed()
        # a process that forks and ends between being listed and being read hides itself and its child
        empty_scans = 0
        if self._tree.group is not None:
            self._tree.group.kill()
        while empty_scans < _EMPTY_SCANS:
            living = await self._signal(signal.SIGKILL)
            empty_scans = 0 if living else empty_scans + 1
            if living and elapsed() - began > UNKILLABLE:
                # a killed process runs no more of its program, so it counts as gone
                log.warning(
                    "job %d has processes that do not die: %s",
                    self._tree.key.job,
                    ", ".join(str(p.pid) for p in living),
                )
                break
            if living:
                await self._wait_for_deaths(living, again := self._deadlines.timer(_KILL_INTERVAL))
                again.cancel()
        if self._deadline:
            self._deadline.cancel()

    async def _signal(self, signum: int) -> list[Process]:
        """Send the whole tree a signal as if at one instant, and let it react; return the members."""
        living = self._tree.living(await self._scanner.scan(self._tree.first_tick))
        self.found = self.found or _in_words(living)
        if len(living) > 1:
            living, _ = await self._tree.stop_all(self._scanner)
        self._reached_all = True
        # a stopped process reacts only once it is continued, no matter what stopped it
        for each_signum in (signum,) if signum == signal.SIGKILL else (signum, signal.SIGCONT):
            for process in reversed(living):  # children first: see `stop_all`
                self._reached_all &= self._tree.signal(process, each_signum)
        return living

    async def _wait_for_deaths(self, processes: list[Process], until: asyncio.Future[None]) -> None:
        """Wait until these processes have ended or `until` is done, or briefly if descriptors are short."""
        try:
            for process in processes if self._reached_all else ():
                if (pidfd := open_pidfd(process)) is not None:
                    try:
                        await readable(pidfd, until)
                    finally:
                        os.close(pidfd)
                if until.done():
                    return
        except OSError:
            self._reached_all = False
        if not self._reached_all:
            await self._deadlines.wait(_KILL_INTERVAL, until)


def _in_words(processes: list[Process]) -> str:
    named = [f"{name_of(each.pid)} (pid {each.pid})" for each in processes[:_MAX_NAMED]]
    more = len(processes) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


_MAX_NAMED = 5  # processes
_EMPTY_SCANS = 2  # scans in a row that must find no member
_DUMP_PATIENCE = 0.2  # seconds for a process to write its stacks
_KILL_INTERVAL = 1.0  # seconds until remaining processes are killed again, or the next scan
UNKILLABLE = 10.0  # seconds to wait for a process that is stuck in the kernel


# --- The tree: which processes belong to an attempt, and signals to all of them.


class Tree:
    """What is known of one attempt's processes.

    Args:
        key: the attempt.
        stream: returns what its output is now: the number of a closed terminal may be another one's. None if
            unknown.
        since: elapsed clock, before the first process was started.
        pid: the first process; None if unknown.
        ticks: start time of the first process; required if this launcher is not its parent, because the pid
            alone then proves nothing.
        tag: the number that its processes inherit (see bgd.launcher.process); None if it has none.
        group: its control group; None if it has none.
    """

    def __init__(
        self,
        key: AttemptKey,
        stream: Callable[[], StreamId] | None,
        since: float,
        pid: int | None,
        ticks: int | None = None,
        *,
        tag: int | None = None,
        group: Group | None = None,
    ) -> None:
        self.key = key
        self.group = group
        self.first_tick = math.floor(since * TICKS) - 1  # the kernel rounds differently
        self.since = since
        self.was_signalled = False  # whether the first process was, while it lived
        self._mark = mark(key)
        self._stream = stream
        self.pid = pid
        self._ticks = ticks
        self.tag = tag
        # the number of a group is not reused while it has a process, even a zombie
        self._has_group = pid is not None and ticks is None
        self._found: dict[int, int] = {}  # pid -> ticks of members seen alive
        self._sent: set[tuple[int, int, int]] = set()  # pid, ticks, signal
        self._out_of_reach: set[tuple[int, int]] = set()  # another user's

    def has_group(self) -> bool:
        """Return whether the first process's group has others; call once, right after it was reaped."""
        try:
            os.killpg(self.pid or 0, 0)
        except ProcessLookupError:
            self._has_group = False
        except PermissionError:
            pass  # another user's process is there
        return self._has_group

    def left_any(self, orphans: Iterable[int]) -> bool:
        """Return whether one of these orphans, or a process in the control group, belongs to this attempt."""
        if self.group is not None and self.group.is_populated:
            return True
        return self.tag is not None and any(tag_of(pid) == self.tag for pid in orphans)

    def living(self, scan: Scan) -> list[Process]:
        """Return the living members that can be signalled: the oldest first, parents before children."""
        if self._ticks is not None and self.pid is not None and self.pid in scan.processes:
            self._has_group |= scan.processes[self.pid].ticks == self._ticks
        members = {pid: each for pid, each in scan.processes.items() if self._is_root(each, scan)}
        grouped = self.group.pids() if self.group else set[int]()
        members.update((pid, scan.processes[pid]) for pid in grouped & scan.processes.keys())
        self._has_group = self._has_group and any(map(self._is_of_group, members.values()))
        parents = list(members)
        while parents:
            children = [child for pid in parents for child in scan.children.get(pid, [])]
            parents = [child.pid for child in children if child.pid not in members]
            members.update((child.pid, child) for child in children)
        self._found = {pid: each.ticks for pid, each in members.items()}
        return [each for each in _by_age(members, scan) if _name(each) not in self._out_of_reach]

    async def stop_all(
        self, scanner: Scanner, *, is_wanted: Callable[[], bool] = lambda: True
    ) -> tuple[list[Process], list[Process]]:
        """Stop every member (SIGSTOP), also those started meanwhile.

        While all are stopped, each can be sent a signal before one of them reacts to the end of another:
        otherwise a shell whose child dies first would run the next command of its script. Parents
        are stopped before their children and must be continued after them (`reversed`): a shell with job
        control goes on with its script when it sees a stopped child, and the kernel sends SIGHUP to stopped
        processes whose group is orphaned by the end of a parent.

        Returns:
            The living members, and those of them that this call stopped. It does not touch processes that are
            stopped already, and returns early once `is_wanted` returns False.
        """
        stopped: dict[tuple[int, int], Process] = {}
        still_scans = 0
        for _ in range(_MAX_SCANS):
            living = self.living(await scanner.scan(self.first_tick))
            running = [each for each in living if each.state != "T" and _name(each) not in stopped]
            # a process in the middle of a fork stops after it, and then no scan may have seen its child yet
            late = any(each.state in _MAY_FORK for each in living)
            still_scans = 0 if running or late else still_scans + 1
            if still_scans == _STILL_SCANS or not is_wanted():
                break
            if late and not running:
                await asyncio.sleep(_LATE_PAUSE)
            for number, each in enumerate(running):
                if is_wanted() and self.signal(each, signal.SIGSTOP):
                    stopped[_name(each)] = each
                if number % _BATCH == _BATCH - 1:
                    await asyncio.sleep(0)
        else:
            log.warning("job %d: not all of its processes stop", self.key.job)
        return living, [each for each in living if _name(each) in stopped]

    def signal(self, process: Process, signum: int) -> bool:
        """Send a member a signal; return False if descriptors are short.

        A signal that asks it to end, such as TERM, is sent only once.
        """
        sent = (process.pid, process.ticks, signum)
        if signum not in _SENT_AGAIN and sent in self._sent:
            return True
        try:
            was_there = send_signal(process, signum)
        except PermissionError:
            log.warning("job %d: process %d belongs to another user and runs on", self.key.job, process.pid)
            self._out_of_reach.add(_name(process))
            return True
        except OSError as error:
            if error.errno not in SHORTAGES:
                raise
            return False
        if signum not in {signal.SIGSTOP, signal.SIGCONT}:
            self._sent.add(sent)
            self.was_signalled |= was_there and process.pid == self.pid
        return True

    async def signal_all(self, scanner: Scanner, signum: int) -> None:
        """Send every member a signal as if at one instant, even one that was sent before."""
        if signum in {signal.SIGSTOP, signal.SIGCONT}:
            living = self.living(await scanner.scan(self.first_tick))
            for process in living if signum == signal.SIGSTOP else reversed(living):
                await self._signal_once(process, signum)
            return
        living, stopped = await self.stop_all(scanner)
        for process in reversed(living):
            await self._signal_once(process, signum)
        for process in reversed(stopped):
            await self._signal_once(process, signal.SIGCONT)

    async def _signal_once(self, process: Process, signum: int) -> None:
        """Send one process a signal, once descriptors allow it, without the records of `signal`."""
        while True:
            try:
                send_signal(process, signum)
            except OSError as error:
                if error.errno in SHORTAGES:
                    await asyncio.sleep(_SHORTAGE_PAUSE)
                    continue
                log.warning(
                    "job %d: cannot send signal %d to process %d: %s",
                    *(self.key.job, signum, process.pid, error.strerror),
                )
            return

    def kill_unseen(self) -> None:
        """Kill without a scan what certainly belongs to it: control group and process group."""
        if self.group is not None:
            self.group.kill()
        if self._has_group and self.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _is_root(self, process: Process, scan: Scan) -> bool:
        """Return whether a process belongs by itself, not by descent."""
        return process.ticks >= self.first_tick and (
            self._found.get(process.pid) == process.ticks
            or (self._has_group and self._is_of_group(process))
            or (self._has_output(process, scan) and not self._has_another_tag(process))
            or scan.marks.get(process.pid) == self._mark
            or (self.tag is not None and process.tag == self.tag)
        )

    def _has_output(self, process: Process, scan: Scan) -> bool:
        return self._stream is not None and self._stream() in scan.streams.get(process.pid, ())

    def _has_another_tag(self, process: Process) -> bool:
        """Return whether a process is tagged, and not as this attempt's.

        A process that the launcher is just starting has the pipes of all attempts open, until its exec closes
        them.
        """
        return self.tag is not None and process.tag not in {None, self.tag}

    def _is_of_group(self, process: Process) -> bool:
        return self.pid in (process.group, process.session)


def members_of(trees: Collection[Tree], scan: Scan) -> dict[AttemptKey, list[Process]]:
    """Return the living members of trees whose first processes run, in one pass over a scan without details.

    A process that has left the group and session of its tree, and whose parent has ended, is a child of this
    process: only the tags of these are read.
    """
    of_group = {tree.pid: tree.key for tree in trees}
    of_tag: dict[int | None, AttemptKey] = {tree.tag: tree.key for tree in trees if tree.tag is not None}
    found: dict[int, AttemptKey] = {}
    for pid, process in scan.processes.items():
        key = of_group.get(pid) or of_group.get(process.group) or of_group.get(process.session)
        if key is None and process.parent == os.getpid():
            key = of_tag.get(tag_of(pid))
        if key is not None:
            found[pid] = key
    parents = list(found)
    members: dict[AttemptKey, list[Process]] = {tree.key: [] for tree in trees}
    for pid in parents:
        members[found[pid]].append(scan.processes[pid])
        for child in scan.children.get(pid, []):
            if child.pid not in found:
                found[child.pid] = found[pid]
                parents.append(child.pid)
    return members


def _name(process: Process) -> tuple[int, int]:
    """Return the identity of a process: no other process ever has both."""
    return process.pid, process.ticks


def _by_age(members: dict[int, Process], scan: Scan) -> list[Process]:
    """Return these processes, the oldest first; of those started in the same tick, parents first."""
    descending = [each for each in members.values() if each.parent not in members]
    for each in descending:
        descending += scan.children.get(each.pid, [])
    # through reused pids two processes may seem each other's parent: these are not in `descending`
    return sorted(({each.pid: each for each in descending} | members).values(), key=lambda each: each.ticks)


_MAX_SCANS = 100
_STILL_SCANS = 2  # scans in a row in which nothing runs: the first may have missed the child of a late fork
_SHORTAGE_PAUSE = 0.2  # seconds until the next try if descriptors are short
_LATE_PAUSE = 0.02  # seconds for a process to stop after SIGSTOP: on a busy machine that takes time
_MAY_FORK = frozenset("RS")  # states; with D it waits for the exec of its child, which may be stopped before
_BATCH = 50  # processes signalled in a row, some milliseconds, before the event loop gets a turn
_SENT_AGAIN = {signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL}

_MARK = re.compile(r"(.+)\.([0-9]{1,19})\.([0-9]{1,19})", re.DOTALL)


def mark(key: AttemptKey) -> str:
    """Return the value of BGD_RUN in the environment of the attempt's processes."""
    return f"{key.store}.{key.job}.{key.attempt}"


def key_from_mark(mark: str) -> AttemptKey | None:
    """Return the attempt that a mark names, None if bgd did not write the mark."""
    found = _MARK.fullmatch(mark)
    return found and AttemptKey(found[1], int(found[2]), int(found[3]))


# --- Execution: the first process of an attempt from its start on, whatever process is its parent.


class StopReason(IntEnum):
    """Why an attempt is stopped, for its process. bgd/worker/stopping.py has the same numbers."""

    TIMEOUT = 1
    CANCELLED = 2
    OTHER = 3  # it may run again, for example, so nothing is raised in it


DUMP_SIGNAL = signal.SIGRTMAX
"""Makes the process of a Python class job write its stacks to its log; it would end any other process."""


class ProcessEnd(Struct, frozen=True):
    """How a first process has ended.

    `code`: its exit code, or the negated number of the signal that ended it. `result`: None if it cannot have
    one. `left_others`: whether it has left processes; None: its group tells.
    """

    code: int
    usage: Usage
    result: bytes | None
    left_others: bool | None = None


class Execution(Protocol):
    """The first process."""

    @property
    def pid(self) -> int:
        """The pid of the first process."""

    @property
    def is_over(self) -> bool:
        """Whether the first process has ended."""

    def signal(self, signum: int) -> None:
        """Send the process a signal; do nothing once it is over.

        Raises:
            OSError: the signal cannot be sent.
        """

    def note_stop(self, reason: StopReason) -> None:
        """Let it read why it will get its stop signal, if it can; do nothing once it is over."""

    async def wait(self) -> ProcessEnd:
        """Wait for its end."""

    def release(self, *, is_intact: bool) -> None:
        """Release it once nothing of the attempt is left; `is_intact`: no signal disturbed it."""
