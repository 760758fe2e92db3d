"""What an attempt runs in: its first process, from the start on, whoever its parent is."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from bgd.launcher.tree import Tree


class Usage(Struct, frozen=True):
    """What a process used; None: not known."""

    user_seconds: float | None = None
    system_seconds: float | None = None
    max_rss_bytes: int | None = None


class Execution(Protocol):
    """`result`: descriptor of the file it writes its result to, None if it is to write none."""

    @property
    def pid(self) -> int: ...

    @property
    def result(self) -> int | None: ...

    @property
    def is_over(self) -> bool: ...

    def signal(self, signum: int) -> None:
        """Send the process a signal; nothing once it is over.

        Raises:
            OSError: it cannot be sent.
        """

    async def wait(self) -> int:
        """Return its exit code, or the negated number of the signal that ended it."""

    def usage(self) -> Usage:
        """Return what it used, once it is over."""

    def has_left_others(self, tree: Tree) -> bool:
        """Whether there are other processes of its group; to be asked once, right after `wait`."""

    def release(self, *, is_intact: bool) -> None:
        """Give back what was lent, once nothing of the attempt is left; `is_intact`: as it was before."""
