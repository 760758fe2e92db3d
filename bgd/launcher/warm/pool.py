"""All warm workers: found or started for an attempt, and ended when others are used more."""

from __future__ import annotations

import asyncio
import logging

from bgd.core.spec import Isolation
from bgd.launcher.context import Context
from bgd.launcher.warm.worker import NoWarmWorker, WarmKey, Worker, WorkerCrashed, warm_key
from bgd.wire.launching import Launch, WarmStart

log = logging.getLogger(__name__)


class WorkerPool:
    """All warm workers; a worker is started only when an attempt needs it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._living: set[Worker] = set()
        self._by_key: dict[WarmKey, list[Worker]] = {}  # not retired; the most recently used last
        self._unfit: dict[WarmKey, str] = {}
        context.children.on_orphan = self._receive_all

    async def lease(self, launch: Launch, warm: WarmStart, stop_asked: asyncio.Future[None]) -> Worker | None:
        """Return a ready worker, to be released later; None: `stop_asked` was done before there was one.

        Raises:
            NoWarmWorker: this attempt needs a fresh interpreter.
            CannotStart: no worker became ready, and none will.
            OSError, LostChild: as from `bgd.launcher.spawn.start_process`.
        """
        key = warm_key(launch, warm, self._context.mounts.folder_that_may_hang(launch.cwd))
        while not stop_asked.done():
            if key in self._unfit:
                raise NoWarmWorker(self._unfit[key])
            free = self._free(key)
            worker = free or self._start_worker(key, launch, warm)
            self._by_key[key] = self._by_key.pop(key)
            worker.users += 1
            if not worker.settled.done():
                await asyncio.wait({worker.settled, stop_asked}, return_when=asyncio.FIRST_COMPLETED)
            if worker.problem is None and worker.settled.done() and not stop_asked.done():
                return worker
            worker.release()
            if isinstance(worker.problem, NoWarmWorker) and key not in self._unfit:
                self._note_unfit(key, worker.problem)
            # a crash fails the attempt that the worker was started for; for others another worker may not
            # crash
            if worker.problem is not None and (free is None or not isinstance(worker.problem, WorkerCrashed)):
                raise worker.problem
        return None

    def renew(self) -> None:
        """Give existing workers no more attempts, and forget why workers were unfit."""
        self._unfit.clear()
        self._by_key.clear()
        for worker in self._living:
            worker.retire()

    def end(self) -> None:
        """Kill them all; only while no attempt runs."""
        for worker in self._living:
            worker.kill()

    def _receive_all(self) -> None:
        for worker in list(self._living):
            worker.receive()

    def _free(self, key: WarmKey) -> Worker | None:
        """Return a worker that can take another attempt; one that runs jobs itself takes one at a time."""
        for worker in reversed(self._by_key.get(key, [])):
            if not worker.is_retired and (key.isolation is Isolation.FORK or not worker.users):
                return worker
        return None

    def _start_worker(self, key: WarmKey, launch: Launch, warm: WarmStart) -> Worker:
        worker = Worker(key, self._context, self._check)
        self._living.add(worker)
        self._by_key.setdefault(key, []).append(worker)
        self._context.group.create_task(self._see_to_its_end(worker, launch, warm))
        return worker

    async def _see_to_its_end(self, worker: Worker, launch: Launch, warm: WarmStart) -> None:
        try:
            await worker.live(launch, warm)
        finally:
            self._living.discard(worker)

    def _check(self, worker: Worker) -> None:
        """Forget a retired worker; if too many keys are idle, retire the workers of the longest idle."""
        workers = self._by_key.get(worker.key, [])
        if worker.is_retired and worker in workers:
            workers.remove(worker)
            if not workers:
                del self._by_key[worker.key]
        if len(self._by_key) <= _MAX_IDLE:
            return
        idle = [key for key, each in self._by_key.items() if not any(one.users for one in each)]
        for key in idle[:-_MAX_IDLE]:
            for each in self._by_key.pop(key):
                each.retire()

    def _note_unfit(self, key: WarmKey, unfit: NoWarmWorker) -> None:
        log.warning(
            "[python] preload %s: such jobs get fresh interpreters until `bgctl reload`, as %s",
            *(f"[{', '.join(key.preload)}]", unfit),
        )
        if len(self._unfit) >= _MAX_UNFIT:
            self._unfit.clear()
        self._unfit[key] = str(unfit)


_MAX_IDLE = 8  # keys; an interpreter with its imports takes about ten megabytes or more
_MAX_UNFIT = 100  # each job's environment, and so its key, may differ
