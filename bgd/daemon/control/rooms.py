"""Rooms: memory that all clients share, so that what they send has a bound, however many they are."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from bgd.errors import Full


class Room:
    """Memory, `size` bytes of it, that is refused to whoever finds none; `refusal` says so."""

    def __init__(self, size: int, refusal: str) -> None:
        self._size = size
        self._refusal = refusal
        self._taken = 0

    def take(self, count: int) -> None:
        """Take so many bytes.

        Raises:
            Full: there are not so many left.
        """
        if self._taken + count > self._size:
            raise Full(self._refusal)
        self._taken += count

    def give_back(self, count: int) -> None:
        self._taken -= count


class Hall:
    """Memory, about `size` bytes of it, for which clients wait in line: it is for what ends by itself."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._line: deque[tuple[int, Callable[[], None]]] = deque()

    def has_room(self, count: int) -> bool:
        """Tell whether so many bytes are left, or all of them, which has to do for anybody."""
        return self._taken == 0 or self._taken + count <= self._size

    @property
    def has_line(self) -> bool:
        """Whether others have come first."""
        return bool(self._line)

    def take(self, count: int) -> None:
        self._taken += count

    def give_back(self, count: int) -> None:
        self._taken -= count
        self.call()

    def line_up(self, count: int, called: Callable[[], None], *, first: bool) -> None:
        """Call back when so many bytes are left; who was called in vain comes first the next time."""
        if first:
            self._line.appendleft((count, called))
        else:
            self._line.append((count, called))

    def call(self) -> None:
        """Call the next in line if there is room for it; once served it does this for the one behind it."""
        if self._line and self.has_room(self._line[0][0]):
            _, called = self._line.popleft()
            asyncio.get_running_loop().call_soon(called)
