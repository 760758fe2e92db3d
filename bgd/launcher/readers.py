"""What reads from many descriptors: a group of them that is a single one to the loop."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable


class Readers:
    """Calls back as long as a descriptor has something to read, or is at its end.

    A reader of the loop's own costs several times as much to add and to remove, which jobs do that are over
    in a moment.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._epoll = select.epoll()
        loop.add_reader(self._epoll.fileno(), self._call_back)

    def add(self, fd: int, callback: Callable[[], object]) -> None:
        """Call back from now on; to be said outside of these calls.

        In one of them the number might be that of another just removed, whose turn is still to come.
        """
        self._epoll.register(fd, select.EPOLLIN)
        self._callbacks[fd] = callback

    def remove(self, fd: int) -> None:
        """Call back no more, if that was still done; to be said before it is closed."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _call_back(self) -> None:
        for fd, _ in self._epoll.poll(0):
            callback = self._callbacks.get(fd)
            if callback is not None:  # none of the others has just removed it
                callback()
