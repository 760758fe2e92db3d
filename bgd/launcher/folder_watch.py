"""Look into the shared folder at intervals, to learn what no srun reports.

* An srun whose slurmstepd was killed waits for ever. But nothing holds the lock of its attempt any more.
* An srun that was killed releases nothing. And a controller that is killed forgets what it was told in its
  last seconds: allocations are back that nobody uses, and Slurm keeps them. So the folder of an attempt is
  only removed once Slurm, some seconds after the end, does not have its job. The folders that are still there
  tell the next launcher what to look for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from bgd.clock import elapsed
from bgd.launcher.context import Context
from bgd.launcher.controller import Controller
from bgd.launcher.shared_folder import SharedFolder
from bgd.wire.launching import Launch

Live = Callable[[], Mapping[str, Callable[[], None]]]
"""Returns the names of the attempts that have not ended, and what to call if one of them is over."""


class FolderWatch:
    """The folders of all executors of one Slurm.

    `nodes`: those whose locks were seen here since this launcher started.
    """

    def __init__(self, context: Context, controller: Controller, live: Live) -> None:
        self._context = context
        self.controller = controller
        self._live = live
        self.nodes: set[str] = set()
        self._places: set[tuple[str, str]] = set()  # a shared folder, and how the names in it begin
        self._ended: dict[str, float] = {}  # when each was seen to have ended, on the elapsed clock
        self._removed: set[str] = set()  # so far as that was possible
        self._looking: asyncio.Task[None] | None = None

    def watch(self, launch: Launch) -> None:
        """Look until this attempt and all others have ended and left nothing."""
        assert launch.slurm is not None  # noqa: S101  only such attempts have a folder
        self._places.add((launch.slurm.folder, f"bgd-{launch.key.store}-"))
        self._go_on()

    def note_end(self, name: str) -> None:
        """Note that an attempt has ended just now."""
        self._ended[name] = elapsed()
        self._go_on()

    async def finish(self) -> None:
        """Release at once what is left, unless that takes long: this launcher will not look again."""
        if self._looking is None or self._looking.done():
            return
        self._looking.cancel()
        last = self._context.begin(self._look_until_gone(_LAST_PAUSE, patience=0.0), _WHAT)
        await self._context.deadlines.wait(_LAST_PATIENCE, last)
        last.cancel()

    def _go_on(self) -> None:
        if self._looking is None or self._looking.done():
            pause = max(self.controller.seldom, _PATIENCE)
            self._looking = self._context.begin(self._look_until_gone(pause, _PATIENCE), _WHAT)

    async def _look_until_gone(self, pause: float, patience: float) -> None:
        while await self._look(patience) or self._live():
            await self._context.deadlines.timer(pause)

    async def _look(self, patience: float) -> bool:
        """Tell who is over, and release what ended this long ago; return whether anything is left."""
        began = elapsed()
        folders: dict[str, SharedFolder] = {}
        for shared, prefix in self._places:
            for name in await SharedFolder(self._context, shared, "").over(prefix):
                folders[name] = SharedFolder(self._context, shared, name)
        live = self._live()
        for name in folders.keys() & live.keys():
            live[name]()
        self._removed &= folders.keys()
        left = folders.keys() - self._removed - live.keys()
        since_then = {name: at for name, at in self._ended.items() if at >= began}
        self._ended = {name: self._ended.get(name, began) for name in left} | since_then
        await self._release({n: folders[n] for n in left if began - self._ended[n] >= patience})
        return bool(self._ended)

    async def _release(self, due: Mapping[str, SharedFolder]) -> None:
        jobs = await self.controller.jobs() if due else None
        if jobs is None:
            return
        for name, folder in due.items():
            if name in jobs:
                await self.controller.cancel(name)
            else:
                await folder.remove()
                self._removed.add(name)
                self._ended.pop(name, None)


_WHAT = "the shared folder"
_PATIENCE = 6.0  # seconds: slurmctld saves what it was told within 5
_LAST_PATIENCE = 5.0  # seconds for the last look of a launcher that exits
_LAST_PAUSE = 0.25
