"""The process scan: reads all processes of the machine, once for all waiting callers."""

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

from bgd.launcher.children import Children, fork
from bgd.launcher.process import (
    SHORTAGES,
    Process,
    StreamId,
    mark_of,
    open_streams,
    pids,
    read_process,
    read_silent,
    tag_of,
)
from bgd.system.mounts import Mounts

log = logging.getLogger(__name__)

NEVER = sys.maxsize  # the first tick of a scan without details


class Scan(Struct, frozen=True):
    """The living processes at about one moment; `streams`, `marks` and tags only of those young enough.

    `silent`: processes whose files did not answer in time, so that only a part is known of them.
    """

    processes: dict[int, Process] = {}
    children: dict[int, list[Process]] = {}
    streams: dict[int, set[StreamId]] = {}
    marks: dict[int, str] = {}
    silent: set[int] = set()

    def add(self, pid: int, first_tick: int) -> None:
        """Read one process; if it started at `first_tick` or later, read its streams, mark and tag too."""
        process = read_process(pid)
        if process is None or process.is_dead:
            return
        if process.ticks < first_tick:
            self.processes[pid] = process
            return
        self.processes[pid] = msgspec.structs.replace(process, tag=tag_of(pid))
        self.streams[pid] = open_streams(pid)
        marked = mark_of(pid)
        if marked is not None:
            self.marks[pid] = marked

    def add_silent(self, silent: Iterable[int]) -> None:
        """Add what is known of processes that do not answer."""
        for pid in silent:
            process = self.processes.get(pid) or read_silent(pid)
            if process is not None and not process.is_dead:
                self.processes[pid] = process
                self.silent.add(pid)

    def with_children(self) -> Scan:
        """Fill in `children`, after all processes were added; return the scan."""
        for process in self.processes.values():
            self.children.setdefault(process.parent, []).append(process)
        return self


class Scanner:
    """Scan processes, with one scan for all requests that wait.

    `excluded`: pids that no scan shows. They work for attempts but belong to none.
    """

    def __init__(self, group: asyncio.TaskGroup, mounts: Mounts, children: Children) -> None:
        self.excluded = {os.getpid()}
        self._group = group
        self._mounts = mounts
        self._children = children
        self._requests: list[tuple[int, asyncio.Future[Scan]]] = []
        self._is_scanning = False
        self._fork_lock = asyncio.Lock()  # for one fork at a time
        self._forks: set[int] = set()  # pids of forks that are not reaped
        self._silent: set[int] = set()

    async def scan(self, first_tick: int) -> Scan:
        """Return a scan that began after this call, with all details of processes from `first_tick` on."""
        future: asyncio.Future[Scan] = asyncio.get_running_loop().create_future()
        self._requests.append((first_tick, future))
        if not self._is_scanning:
            self._is_scanning = True
            self._group.create_task(self._serve_requests())
        return await future

    async def read_processes(self, wanted: Collection[int]) -> dict[int, Process]:
        """Return the living ones of these processes.

        Raises:
            OSError: one of SHORTAGES.
        """
        if self._mounts.had_any:
            scan = await self._scan_in_fork(wanted, NEVER)
            if scan is not None:
                return scan.processes
        return {pid: process for pid in wanted if (process := read_process(pid)) is not None}

    async def _serve_requests(self) -> None:
        await asyncio.sleep(0)  # to include all requests of this turn of the loop
        while self._requests:
            requests, self._requests = self._requests, []
            await self._serve(requests)
        self._is_scanning = False

    async def _serve(self, requests: list[tuple[int, asyncio.Future[Scan]]]) -> None:
        try:
            scan = await self._scan_until_done(min(first_tick for first_tick, _ in requests))
        except Exception as error:  # noqa: BLE001  the callers handle it
            for _, future in requests:
                if not future.done():
                    future.set_exception(error)
            return
        for _, future in requests:
            if not future.done():
                future.set_result(scan)

    async def _scan_until_done(self, first_tick: int) -> Scan:
        """Try again while descriptors are short: with half a scan, living processes would seem gone."""
        was_logged = False
        while True:
            try:
                return (await self._scan_once(first_tick)).with_children()
            except OSError as error:
                if error.errno not in SHORTAGES:
                    raise
                if not was_logged:
                    log.warning("cannot scan the processes yet: %s", error.strerror)
                was_logged = True
            await asyncio.sleep(_RETRY_DELAY)

    async def _scan_once(self, first_tick: int) -> Scan:
        if self._mounts.had_any:
            scan = await self._scan_in_fork(None, first_tick)
            if scan is not None:
                return scan
        scan = Scan()
        give_way_at = time.monotonic() + _SLICE
        for pid in pids():
            if pid not in self.excluded:
                scan.add(pid, first_tick)
            if time.monotonic() > give_way_at:
                await asyncio.sleep(0)
                give_way_at = time.monotonic() + _SLICE
        return scan

    async def _scan_in_fork(self, wanted: Collection[int] | None, first_tick: int) -> Scan | None:
        """Return a scan of these processes, or of all, made by a fork; None: the fork failed."""
        async with self._fork_lock:
            while True:
                # a thread that not even SIGKILL ends keeps its fork alive: with too many, skip silent
                # processes
                suspects = self._silent if len(self._forks) < _MAX_FORKS else set[int]()
                unasked = self._silent - suspects
                write = partial(_write_scan, wanted, self.excluded | unasked, suspects, first_tick)
                try:
                    pid, future = fork(write, is_whole=_is_complete)
                except OSError:  # jobs may have used up the user's limit of processes
                    return None
                self._track_fork(pid)
                await asyncio.wait({future}, timeout=_FORK_TIMEOUT)
                if future.done():
                    break
                future.cancel()
                self._children.kill(pid)
                log.warning("process %d was too slow to scan the processes: starting another", pid)
        received = bytearray(future.result())
        if not _is_complete(received):
            return None
        scan = _decoder.decode(memoryview(received)[_LENGTH.size :])
        scan.add_silent(unasked if wanted is None else ())
        self._update_silent(scan, wanted)
        return scan

    def _track_fork(self, pid: int) -> None:
        self.excluded.add(pid)
        self._forks.add(pid)

        def forget(*_: object) -> None:
            self.excluded.discard(pid)
            self._forks.discard(pid)

        self._children.watch(pid, forget)

    def _update_silent(self, scan: Scan, wanted: Collection[int] | None) -> None:
        for pid in scan.silent - self._silent:
            log.warning("process %d hangs in the middle of an exec or in its memory: %s", pid, _SILENT)
        if wanted is None:
            self._silent = scan.silent
        else:
            self._silent = (self._silent - set(wanted)) | scan.silent


_SLICE = 0.001  # seconds of scanning in a row: the longest that a start waits for it
_RETRY_DELAY = 0.2  # seconds until the next try if descriptors are short
_FORK_TIMEOUT = 30.0  # seconds for a fork, which needs about a second
_MAX_FORKS = 8
_SILENT = "only its parent, group, session and tag show whether it belongs to a job"
_LENGTH = struct.Struct("=Q")
_decoder = msgspec.msgpack.Decoder(Scan)


def _is_complete(received: bytearray) -> bool:
    """Return whether the fork has sent all: it may never end, and then the pipe never ends."""
    size = _LENGTH.size
    return len(received) >= size and len(received) == size + _LENGTH.unpack_from(received)[0]


def _write_scan(
    wanted: Collection[int] | None,
    skipped: Collection[int],
    suspects: Collection[int],
    first_tick: int,
    writer: int,
) -> None:
    # a signal that stops the launcher may go to its whole process group, and its last scans must still work
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    requests = pids() if wanted is None else wanted
    here = {*skipped, *suspects, os.getpid()}
    left = deque(pid for pid in requests if pid not in here)
    left.extend(pid for pid in suspects if pid in requests)
    scan = _ThreadedReader(first_tick, left, frozenset(suspects)).run()
    encoded = msgspec.msgpack.encode(scan)
    rest = memoryview(_LENGTH.pack(len(encoded)) + encoded)
    while rest:
        rest = rest[os.write(writer, rest) :]


class _ThreadedReader:
    """Read processes in threads: a process that does not answer blocks its thread, and another goes on.

    Suspects, which were silent before, are at the right end of `left` and get less time.
    """

    def __init__(self, first_tick: int, left: deque[int], suspects: frozenset[int]) -> None:
        self._first_tick = first_tick
        self._left = left
        self._suspects = suspects
        self._scan = Scan()
        self._since: dict[int, float] = {}  # pid -> when its reading began, of those being read
        self._threads = 0
        self._ended = threading.Semaphore(0)
        self._failure: BaseException | None = None

    def run(self) -> Scan:
        for _ in range(min(len(self._suspects), _MAX_THREADS // 2)):
            self._begin(self._left.pop)
        self._begin(self._left.popleft)
        while self._threads:
            if self._ended.acquire(timeout=_STEP):
                self._threads -= 1
                continue
            now = time.monotonic()
            waits = {pid: now - since for pid, since in self._since.copy().items()}
            overdue = [
                pid for pid, wait in waits.items() if wait > (_STEP if pid in self._suspects else _PATIENCE)
            ]
            has_room = self._left and self._threads < _MAX_THREADS
            if not has_room and len(overdue) == self._threads:
                break
            if has_room and len(waits) == self._threads and min(waits.values()) > _STEP:
                self._begin(self._left.popleft)
        if self._failure is not None:
            raise self._failure
        self._scan.add_silent([*self._since, *self._left])
        return self._scan

    def _begin(self, following: Callable[[], int]) -> None:
        self._threads += 1
        threading.Thread(target=self._read, args=(following,), daemon=True).start()

    def _read(self, following: Callable[[], int]) -> None:
        try:
            while self._left:
                pid = following()
                self._since[pid] = time.monotonic()
                self._scan.add(pid, self._first_tick)
                del self._since[pid]
        except IndexError:  # another thread took the last one
            pass
        except BaseException as error:  # noqa: BLE001  raised by `run`
            self._failure = error
        self._ended.release()


_STEP = 0.05  # seconds after which a process may be one that does not answer
_PATIENCE = 1.0  # seconds after which it counts as silent
_MAX_THREADS = 64
