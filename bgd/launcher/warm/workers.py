"""All warm workers: found or started for an attempt, and ended when others are needed more."""

from __future__ import annotations

import asyncio
import logging

from bgd.core.spec import Isolation
from bgd.launcher.tools import Tools
from bgd.launcher.warm.key import WarmKey, key_of
from bgd.launcher.warm.start import Crashed
from bgd.launcher.warm.worker import Unfit, Worker
from bgd.wire.launching import Launch, Warm

log = logging.getLogger(__name__)


class Workers:
    """None is started but for an attempt, and none is looked after but when one of them stirs."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._living: set[Worker] = set()
        self._by_key: dict[WarmKey, list[Worker]] = {}  # not retired; the most recently used last
        self._unfit: dict[WarmKey, str] = {}
        tools.children.hear_of_orphans = self._hear

    async def lease(self, launch: Launch, warm: Warm, asked: asyncio.Future[None]) -> Worker | None:
        """Return a worker that is ready, to be released later; None: `asked` was done before there was one.

        Raises:
            Unfit: none can be had for this attempt, which must do without.
            CannotStart: none became ready, and none will.
            OSError, LostChild: as from `bgd.launcher.spawn.spawn`.
        """
        key = key_of(launch, warm, self._tools.mounts.folder_that_may_hang(launch.cwd))
        while not asked.done():
            if key in self._unfit:
                raise Unfit(self._unfit[key])
            free = self._free(key)
            worker = free or self._begin(key, launch, warm)
            self._by_key[key] = self._by_key.pop(key)
            worker.users += 1
            if not worker.settled.done():
                await asyncio.wait({worker.settled, asked}, return_when=asyncio.FIRST_COMPLETED)
            if worker.problem is None and worker.settled.done() and not asked.done():
                return worker
            worker.release()
            if isinstance(worker.problem, Unfit) and key not in self._unfit:
                self._note_unfit(key, worker.problem)
            # a crash is told to the one that it was started for, and is no proof that another will crash
            if worker.problem is not None and (free is None or not isinstance(worker.problem, Crashed)):
                raise worker.problem
        return None

    def renew(self) -> None:
        """Give none of them another attempt, and no key the blame for what its worker was unfit for."""
        self._unfit.clear()
        self._by_key.clear()
        for worker in self._living:
            worker.retire()

    def end(self) -> None:
        """End them all at once; only when no attempt runs."""
        for worker in self._living:
            worker.kill()

    def _hear(self) -> None:
        for worker in list(self._living):
            worker.hear()

    def _free(self, key: WarmKey) -> Worker | None:
        """Return one that can be given another attempt; a worker that runs them itself has one at a time."""
        for worker in reversed(self._by_key.get(key, [])):
            if not worker.is_retired and (key.isolation is Isolation.FORK or not worker.users):
                return worker
        return None

    def _begin(self, key: WarmKey, launch: Launch, warm: Warm) -> Worker:
        worker = Worker(key, self._tools, self._consider)
        self._living.add(worker)
        self._by_key.setdefault(key, []).append(worker)
        self._tools.group.create_task(self._see_to_its_end(worker, launch, warm))
        return worker

    async def _see_to_its_end(self, worker: Worker, launch: Launch, warm: Warm) -> None:
        try:
            await worker.live(launch, warm)
        finally:
            self._living.discard(worker)

    def _consider(self, worker: Worker) -> None:
        """Forget it if it is retired; of too many keys that idle retire those not used for longest."""
        workers = self._by_key.get(worker.key, [])
        if worker.is_retired and worker in workers:
            workers.remove(worker)
            if not workers:
                del self._by_key[worker.key]
        if len(self._by_key) <= _MOST_IDLE:
            return
        idle = [key for key, each in self._by_key.items() if not any(one.users for one in each)]
        for key in idle[:-_MOST_IDLE]:
            for each in self._by_key.pop(key):
                each.retire()

    def _note_unfit(self, key: WarmKey, unfit: Unfit) -> None:
        log.warning(
            "[python] preload %s: such jobs get fresh interpreters until `bgctl reload`, as %s",
            *(f"[{', '.join(key.preload)}]", unfit),
        )
        if len(self._unfit) >= _MOST_UNFIT:
            self._unfit.clear()
        self._unfit[key] = str(unfit)


_MOST_IDLE = 8  # keys; an interpreter with what it has imported takes some ten megabytes
_MOST_UNFIT = 100  # environments differ from job to job, and so may keys
