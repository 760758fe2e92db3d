"""Sends a batch of any length, without an event loop."""

from __future__ import annotations

from collections.abc import Generator, Iterable

from bgd.client import batch
from bgd.client.batch import Taken
from bgd.client.blocking.concurrency import Channel, iterate
from bgd.client.portions import Portion

__all__ = ["BatchSender", "Taken"]


class BatchSender:
    """As `bgd.client.batch.BatchSender`, which it runs."""

    def __init__(self, channel: Channel, identity: bytes, last: int = 0) -> None:
        self._shared = batch.BatchSender(channel.shared, identity, last)

    @property
    def last(self) -> int:
        """The last line whose job is known."""
        return self._shared.last

    def send(self, portions: Iterable[Portion | None]) -> Generator[Taken, None, None]:
        return iterate(self._shared.send(portions))

    def known(self, *, close: bool = False) -> Generator[Taken, None, None]:
        return iterate(self._shared.known(close=close))
