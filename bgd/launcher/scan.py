"""A scan of all processes of the machine, one for all who ask at the same time."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from functools import partial

import msgspec
from msgspec import Struct

from bgd.launcher.children import Children, all_from, fork
from bgd.launcher.mounts import Mounts
from bgd.launcher.process import (
    SHORTAGES,
    Channel,
    Process,
    channels_of,
    mark_of,
    pids,
    read_process,
    read_silent,
    stamp_of,
)

log = logging.getLogger(__name__)


class Look(Struct, frozen=True):
    """The living at about one moment; of those too old to matter no `channels`, `marks` and stamps.

    `silent`: those that did not answer in time, of which only a part is known.
    """

    processes: dict[int, Process] = {}
    children: dict[int, list[Process]] = {}
    channels: dict[int, set[Channel]] = {}
    marks: dict[int, str] = {}
    silent: set[int] = set()

    def add(self, pid: int, first_tick: int) -> None:
        """Look at one process, and closely if it is of this start time or younger."""
        process = read_process(pid)
        if process is None or process.is_dead:
            return
        if process.ticks < first_tick:
            self.processes[pid] = process
            return
        self.processes[pid] = msgspec.structs.replace(process, stamp=stamp_of(pid))
        self.channels[pid] = channels_of(pid)
        marked = mark_of(pid)
        if marked is not None:
            self.marks[pid] = marked

    def add_silent(self, silent: Iterable[int]) -> None:
        """Add what can be known of processes that do not answer."""
        for pid in silent:
            process = self.processes.get(pid) or read_silent(pid)
            if process is not None and not process.is_dead:
                self.processes[pid] = process
                self.silent.add(pid)

    def with_children(self) -> Look:
        """Return it once all are added and `children` was filled in."""
        for process in self.processes.values():
            self.children.setdefault(process.parent, []).append(process)
        return self


class Looker:
    """Looks on behalf of many, for all who ask meanwhile at once.

    `apart`: pids of what works for attempts and is of none, however it may look: it is not shown.
    """

    def __init__(self, group: asyncio.TaskGroup, mounts: Mounts, children: Children) -> None:
        self.apart = {os.getpid()}
        self._group = group
        self._mounts = mounts
        self._children = children
        self._asked: list[tuple[int, asyncio.Future[Look]]] = []
        self._is_looking = False
        self._turn = asyncio.Lock()  # one fork at a time
        self._forks: set[int] = set()  # those that are not reaped
        self._silent: set[int] = set()

    async def look(self, first_tick: int) -> Look:
        """Return a look begun after this call, with channels and so on of all from `first_tick` on."""
        answer: asyncio.Future[Look] = asyncio.get_running_loop().create_future()
        self._asked.append((first_tick, answer))
        if not self._is_looking:
            self._is_looking = True
            self._group.create_task(self._answer_all())
        return await answer

    async def see(self, wanted: Collection[int]) -> dict[int, Process]:
        """Return these processes, as far as they live.

        Raises:
            OSError: one of SHORTAGES.
        """
        if self._mounts.had_any:
            look = await self._taken_apart(wanted, _NEVER)
            if look is not None:
                return look.processes
        return {pid: process for pid in wanted if (process := read_process(pid)) is not None}

    async def _answer_all(self) -> None:
        await asyncio.sleep(0)  # let all who ask in this turn of the loop do so
        while self._asked:
            asked, self._asked = self._asked, []
            await self._answer(asked)
        self._is_looking = False

    async def _answer(self, asked: list[tuple[int, asyncio.Future[Look]]]) -> None:
        try:
            look = await self._taken_in_the_end(min(first_tick for first_tick, _ in asked))
        except Exception as error:  # noqa: BLE001  theirs to deal with who asked
            for _, answer in asked:
                if not answer.done():
                    answer.set_exception(error)
            return
        for _, answer in asked:
            if not answer.done():
                answer.set_result(look)

    async def _taken_in_the_end(self, first_tick: int) -> Look:
        """Begin again as long as descriptors are short: half a look would make living processes seem gone."""
        was_told = False
        while True:
            try:
                return (await self._taken(first_tick)).with_children()
            except OSError as error:
                if error.errno not in SHORTAGES:
                    raise
                if not was_told:
                    log.warning("cannot look at the processes yet: %s", error.strerror)
                was_told = True
            await asyncio.sleep(_SHORTAGE)

    async def _taken(self, first_tick: int) -> Look:
        if self._mounts.had_any:
            look = await self._taken_apart(None, first_tick)
            if look is not None:
                return look
        look = Look()
        give_way_at = time.monotonic() + _SLICE
        for pid in pids():
            if pid not in self.apart:
                look.add(pid, first_tick)
            if time.monotonic() > give_way_at:
                await asyncio.sleep(0)
                give_way_at = time.monotonic() + _SLICE
        return look

    async def _taken_apart(self, wanted: Collection[int] | None, first_tick: int) -> Look | None:
        """Return a look at these, or at all, that a fork took; None: no fork can be had, or it failed."""
        async with self._turn:
            while True:
                # a thread that not even SIGKILL ends keeps its fork: then nobody asks the silent any more
                doubtful = self._silent if len(self._forks) < _MOST_FORKS else set[int]()
                unasked = self._silent - doubtful
                tell = partial(_tell, wanted, self.apart | unasked, doubtful, first_tick)
                try:
                    pid, reader = fork(tell)
                except OSError:  # a job may have taken all processes that this user may have
                    return None
                self._own(pid)
                answer = all_from(reader, _is_whole)
                await asyncio.wait({answer}, timeout=_LONGEST)
                if answer.done():
                    break
                answer.cancel()
                self._children.kill(pid)
                log.warning("process %d, which scans the processes, was too slow: another one does it", pid)
        told = bytearray(answer.result())
        if not _is_whole(told):
            return None
        look = _decoder.decode(memoryview(told)[_LENGTH.size :])
        look.add_silent(unasked if wanted is None else ())
        self._note_silent(look, wanted)
        return look

    def _own(self, pid: int) -> None:
        self.apart.add(pid)
        self._forks.add(pid)

        def forget(_: int) -> None:
            self.apart.discard(pid)
            self._forks.discard(pid)
            self._children.take_usage(pid)

        self._children.watch(pid, forget)

    def _note_silent(self, look: Look, wanted: Collection[int] | None) -> None:
        for pid in look.silent - self._silent:
            log.warning("process %d hangs in the middle of an exec or in its memory: %s", pid, _SILENT)
        if wanted is None:
            self._silent = look.silent
        else:
            self._silent = (self._silent - set(wanted)) | look.silent


_SLICE = 0.001  # seconds of looking in a row: a start waits no longer for it
_SHORTAGE = 0.2  # seconds until the next try where descriptors are short
_LONGEST = 30.0  # seconds for a fork, which needs a second or some more
_MOST_FORKS = 8
_NEVER = sys.maxsize  # the first tick of a look that looks closely at nobody
_SILENT = "only its parent, group, session and stamp tell whose it is"
_LENGTH = struct.Struct("=Q")
_decoder = msgspec.msgpack.Decoder(Look)


def _is_whole(told: bytearray) -> bool:
    """Tell whether the fork has said all: it may never end, so that the pipe may never end either."""
    size = _LENGTH.size
    return len(told) >= size and len(told) == size + _LENGTH.unpack_from(told)[0]


def _tell(
    wanted: Collection[int] | None,
    skipped: Collection[int],
    doubtful: Collection[int],
    first_tick: int,
    writer: int,
) -> None:
    # the launcher ends its jobs when it is told to end, and what tells it may tell its whole process group
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    asked = pids() if wanted is None else wanted
    here = {*skipped, *doubtful, os.getpid()}
    left = deque(pid for pid in asked if pid not in here)
    left.extend(pid for pid in doubtful if pid in asked)
    look = Scan(first_tick, left, frozenset(doubtful)).run()
    said = msgspec.msgpack.encode(look)
    rest = memoryview(_LENGTH.pack(len(said)) + said)
    while rest:
        rest = rest[os.write(writer, rest) :]


class Scan:
    """Reads processes in threads: one that does not answer holds up its thread, and the next goes on.

    Those in doubt, which were silent before, are at the right end of `left`, and are given less time.
    """

    def __init__(self, first_tick: int, left: deque[int], doubtful: frozenset[int]) -> None:
        self._first_tick = first_tick
        self._left = left
        self._doubtful = doubtful
        self._look = Look()
        self._since: dict[int, float] = {}  # of those that are being read
        self._threads = 0
        self._ended = threading.Semaphore(0)
        self._failure: BaseException | None = None

    def run(self) -> Look:
        for _ in range(min(len(self._doubtful), _MOST_THREADS // 2)):
            self._begin(self._left.pop)
        self._begin(self._left.popleft)
        while self._threads:
            if self._ended.acquire(timeout=_STEP):
                self._threads -= 1
                continue
            now = time.monotonic()
            waits = {pid: now - since for pid, since in self._since.copy().items()}
            overdue = [
                pid for pid, wait in waits.items() if wait > (_STEP if pid in self._doubtful else _PATIENCE)
            ]
            has_room = self._left and self._threads < _MOST_THREADS
            if not has_room and len(overdue) == self._threads:
                break
            if has_room and len(waits) == self._threads and min(waits.values()) > _STEP:
                self._begin(self._left.popleft)
        if self._failure is not None:
            raise self._failure
        self._look.add_silent([*self._since, *self._left])
        return self._look

    def _begin(self, following: Callable[[], int]) -> None:
        self._threads += 1
        threading.Thread(target=self._read, args=(following,), daemon=True).start()

    def _read(self, following: Callable[[], int]) -> None:
        try:
            while self._left:
                pid = following()
                self._since[pid] = time.monotonic()
                self._look.add(pid, self._first_tick)
                del self._since[pid]
        except IndexError:  # another thread took the last one
            pass
        except BaseException as error:  # noqa: BLE001  raised by `run`
            self._failure = error
        self._ended.release()


_STEP = 0.05  # seconds after which a process is taken for one that may not answer
_PATIENCE = 1.0  # seconds until it is taken for silent
_MOST_THREADS = 64
