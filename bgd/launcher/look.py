"""A look over all processes of the machine, one for all who ask at the same time."""

from __future__ import annotations

import asyncio
import logging
import os
import time

from msgspec import Struct

from bgd.launcher.process import SHORTAGES, Channel, Process, channels_of, mark_of, pids, read_process
from bgd.launcher.stamp import stamp_of

log = logging.getLogger(__name__)


class Look(Struct, frozen=True):
    """The living at about one moment; of those too old to matter no `channels`, `marks` and `stamps`."""

    processes: dict[int, Process] = {}
    children: dict[int, list[Process]] = {}
    channels: dict[int, set[Channel]] = {}
    marks: dict[int, str] = {}
    stamps: dict[int, int] = {}


class Looker:
    """Looks on behalf of many. A look takes milliseconds, so it gives way to the loop again and again.

    `apart`: pids of what works for attempts and is of none, however it may look: it is not shown.
    """

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.apart = {os.getpid()}
        self._group = group
        self._asked: list[tuple[int, asyncio.Future[Look]]] = []

    async def look(self, first_tick: int) -> Look:
        """Return a look begun after this call, with channels and so on of all from `first_tick` on."""
        answer: asyncio.Future[Look] = asyncio.get_running_loop().create_future()
        self._asked.append((first_tick, answer))
        if len(self._asked) == 1:
            self._group.create_task(self._answer())
        return await answer

    async def _answer(self) -> None:
        await asyncio.sleep(0)  # let all who ask in this turn of the loop do so
        asked, self._asked = self._asked, []
        try:
            look = await _taken_in_the_end(min(first_tick for first_tick, _ in asked), self.apart)
        except Exception as error:  # noqa: BLE001  theirs to deal with who asked
            for _, answer in asked:
                if not answer.done():
                    answer.set_exception(error)
            return
        for _, answer in asked:
            if not answer.done():
                answer.set_result(look)


_SLICE = 0.001  # seconds of looking in a row: a start waits no longer for it
_SHORTAGE = 0.2  # seconds until the next try where descriptors are short


async def _taken_in_the_end(first_tick: int, apart: set[int]) -> Look:
    """Begin anew as long as descriptors are short: half a look would make living processes seem gone."""
    was_told = False
    while True:
        try:
            return await _taken(first_tick, apart)
        except OSError as error:
            if error.errno not in SHORTAGES:
                raise
            if not was_told:
                log.warning("cannot look at the processes yet: %s", error.strerror)
            was_told = True
        await asyncio.sleep(_SHORTAGE)


async def _taken(first_tick: int, apart: set[int]) -> Look:
    look = Look()
    give_way_at = time.monotonic() + _SLICE
    for pid in pids():
        process = read_process(pid)
        if process is None or process.is_dead or pid in apart:
            continue
        look.processes[pid] = process
        look.children.setdefault(process.parent, []).append(process)
        if process.ticks >= first_tick:
            look.channels[pid] = channels_of(pid)
            marked = mark_of(pid)
            if marked is not None:
                look.marks[pid] = marked
            stamp = stamp_of(pid)
            if stamp is not None:
                look.stamps[pid] = stamp
        if time.monotonic() > give_way_at:
            await asyncio.sleep(0)
            give_way_at = time.monotonic() + _SLICE
    return look
