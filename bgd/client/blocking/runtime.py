"""The runtime: what waiting is in a thread, and to whom a client belongs there."""

from __future__ import annotations

import os
import select
import threading
import weakref
from collections.abc import Callable, Generator
from types import GeneratorType
from typing import Any, ParamSpec, TypeVar

from bgd.errors import BgdError
from bgd.wire.views import JobView

P = ParamSpec("P")
T = TypeVar("T")
G = TypeVar("G", bound=Generator[Any, None, None])

Lock = threading.Lock


class Home:
    """The process that a client is used in."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether this is the client's process: what is closed in a forked child is its parent's too."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Raise BgdError if this is another process."""
        if not self.is_here:
            raise BgdError("this process was forked from the Client's own: make a new Client after fork")


def pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function: a thread may be held up by it."""
    return function(*args, **kwargs)


def wait_for_descriptor(descriptor: int, seconds: float) -> None:
    """Return as soon as a descriptor can be read, or after so many seconds."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    poller.poll(seconds * 1000)


def closed_at_exit(steps: G) -> G:
    """Return a generator that is closed when the interpreter exits, before it loses what that takes."""
    import atexit  # noqa: PLC0415 - most programs have no such generator

    if isinstance(steps, GeneratorType):
        atexit.unregister(_close_all)  # if it is not the first
        atexit.register(_close_all)
        _open.add(steps)
    return steps


def first_view(job_id: int, look: Callable[[int], JobView]) -> JobView:
    """Look at a job because an attribute was asked for."""
    return look(job_id)


def _close_all() -> None:
    for steps in list(_open):
        if not steps.gi_running:  # what another thread is in cannot be closed from here
            steps.close()


_open: weakref.WeakSet[GeneratorType[Any, None, None]] = weakref.WeakSet()
os.register_at_fork(after_in_child=_open.clear)  # they are the parent's
