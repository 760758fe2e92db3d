"""What stands around the content of every page: banners, and an icon that shows failures."""

from __future__ import annotations

from contextlib import AbstractContextManager

from msgspec import Struct

from bgd.daemon.storage import summaries
from bgd.daemon.storage.store import StoreReader
from bgd.daemon.streams import Subscription
from bgd.daemon.supervisor import Supervisor

FAILURES_SHOWN = 86_400.0  # seconds since a failure in which the icon shows it


class Banner(Struct, frozen=True):
    """Why no job starts, or none is accepted; None or False: nothing is wrong."""

    is_paused: bool
    obstacle: str | None
    full_disk: str | None  # the folder on it


class Frame:
    """What every page shows of the daemon. Each page reads it, and open pages watch it."""

    def __init__(self, supervisor: Supervisor, store: StoreReader) -> None:
        self._supervisor = supervisor
        self._store = store

    async def values(self) -> dict[str, object]:
        """Return the values for the templates banner.html and icon.html, by their names."""
        has_failed = await self._store.read(summaries.has_failed_within, FAILURES_SHOWN)
        return {"banner": self._banner(), "icon": "icon-failed.svg" if has_failed else "icon.svg"}

    def watch(self, subscription: Subscription) -> AbstractContextManager[None]:
        """Also wake a subscription when a banner comes or goes."""
        return self._supervisor.subscriptions.watch(subscription, self._banner)

    def look_again(self) -> None:
        """Look again at a full disk: nothing tells that there is room again."""
        if self._supervisor.space.is_full():
            self._supervisor.subscriptions.look_soon()

    def _banner(self) -> Banner:
        supervisor = self._supervisor
        folder = supervisor.config.daemon.state_dir if supervisor.space.is_full() else None
        return Banner(supervisor.controls.paused, supervisor.link.obstacle, folder)
