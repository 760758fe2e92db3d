"""The stand-in: what answers in this process in the place of every daemon, while there is one.

`bgd.testing.inline` puts it up. Clients speak to it as to a daemon, in frames, but over no socket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from bgd.wire.replies import Reply

Pause = Callable[[], None]
"""It returns when there is more to say, or will be no more."""


class StandIn(Protocol):
    def answer(self, frames: bytes) -> Iterator[Reply | Pause]:
        """Yield the replies to a request, of a stream the end mark too, and pauses where they take time."""


def stand_in() -> StandIn | None:
    """Return who answers, None: the daemons."""
    return _stand_ins[-1] if _stand_ins else None


@contextmanager
def standing_in(who: StandIn) -> Iterator[None]:
    """Let one answer, in all threads of this process; of several the latest does."""
    _stand_ins.append(who)
    try:
        yield
    finally:
        _stand_ins.remove(who)


_stand_ins: list[StandIn] = []
