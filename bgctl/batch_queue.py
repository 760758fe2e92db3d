"""The queue that a batch with -j has of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256

from bgctl.options import FINISHED
from bgd import Client
from bgd.client.portions import Portion
from bgd.errors import Refused


def own_queue_name(joblog: str | None) -> str:
    """Return the name of a batch's own queue; a batch with a log has the same one when it is resumed."""
    seed = os.urandom(16) if joblog is None else os.path.realpath(os.fsencode(joblog))
    return f"batch-{sha256(seed).hexdigest()[:12]}"


class OwnQueue:
    """The queue of a batch. It keeps its limit, although other batches remove queues that look unused."""

    def __init__(self, daemon: Client, name: str, slots: int) -> None:
        self._daemon = daemon
        self._name = name
        self._slots = slots
        self._is_set = self._is_unsure = False
        self._next_look = 0.0

    def set(self) -> None:
        """Set its slots, and remove the queues of batches that ended some time ago."""
        for each in self._daemon.queues().queues:
            if each.is_left_over and each.name != self._name:
                latest = self._daemon.jobs(queue=each.name, states=FINISHED, limit=1)
                if not latest or (latest[0].finished_at or 0.0) < time.time() - _QUEUE_SECONDS:
                    with suppress(Refused):  # it was removed just now
                        self._daemon.remove_queue(each.name)
        self._daemon.set_queue(self._name, self._slots)
        self._is_set = True

    def before_each(self, portions: Iterable[Portion | None]) -> Iterator[Portion | None]:
        """Pass portions on; make sure before each, at most once a minute, that the queue has its limit."""
        for portion in portions:
            if portion is not None and time.monotonic() > self._next_look:
                self._look()
                self._is_unsure = True
            yield portion

    def look_again(self) -> None:
        """Make sure again now that jobs are queued: another batch may have removed the queue just before."""
        if self._is_unsure:
            self._look()
            self._is_unsure, self._next_look = False, time.monotonic() + _LOOK_SECONDS

    def _look(self) -> None:
        if not self._is_set:
            self.set()
        elif not any(each.name == self._name and each.slots for each in self._daemon.queues().queues):
            self._daemon.set_queue(self._name, self._slots)


_QUEUE_SECONDS = 3600.0  # more lines of the batch may come
_LOOK_SECONDS = 60.0  # less than that
