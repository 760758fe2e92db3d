"""Raise an exception in a job that is cancelled or times out, so that it can clean up.

The launcher notes the reason, then sends the stop signal. The signal raises only if there is a reason. It has
other causes too (a requeue, or a signal from a user), and then acts as without bgd.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # it has no type stubs; signal imports enum, which is slow
import faulthandler
import os
import sys

TYPE_CHECKING = False  # not typing's: importing that takes a tenth of an interpreter's start
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType
    from typing import Any, Self

# bgd/launcher/spawn.py has these too; a test compares them
NO_REASON = 0
REASONS = {1: "TimedOut", 2: "Cancelled"}  # exceptions of bgd_job
DUMP_SIGNAL = _signal.SIGRTMAX


def dump_on_signal() -> None:
    """Let this process write the stack of every thread to its log when it gets DUMP_SIGNAL.

    The launcher sends it before it kills a job that has not ended within the grace time: code that never
    returns to Python, or one that caught the exception.
    """
    faulthandler.register(DUMP_SIGNAL, file=2, all_threads=True, chain=False)


class StopHandler:
    """While its block runs, the stop signal raises in the main thread, or cancels the coroutine that runs.

    Only the first signal does. `signal_name` is for example "INT"; None: TERM. `reason` returns a key of
    REASONS, or another number for none. A task that awaits the job may be set as `task`; in an event loop of
    the job's own all tasks are cancelled.
    """

    def __init__(self, signal_name: str | None, reason: Callable[[], int]) -> None:
        self.error: BaseException | None = None
        self.task: Any = None
        self._signum = getattr(_signal, f"SIG{signal_name or 'TERM'}")
        self._reason = reason
        self._previous: Any = None

    def __enter__(self) -> Self:
        global _armed  # noqa: PLW0603  the handlers of signals belong to the whole process
        self._previous = _signal.signal(self._signum, self.handle)
        _armed = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.disarm()
        raise_for_cancellation(self.error, error)

    def disarm(self) -> None:
        """Restore the handler from before, unless the job has set its own."""
        global _armed  # noqa: PLW0603
        _armed = None
        if _signal.getsignal(self._signum) == self.handle:
            self._restore()

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Handle the signal.

        Raises:
            bgd_job.Stopped: the job is cancelled, or its time is over.
        """
        name = REASONS.get(self._reason())
        if name is None:
            self._pass_on(signum, frame)
        elif self.error is None:
            import bgd_job  # noqa: PLC0415 - most jobs never need it

            self.error = getattr(bgd_job, name)()
            if self._must_raise():
                raise self.error

    def _must_raise(self) -> bool:
        """Cancel the tasks of a running event loop; return whether to raise here."""
        asyncio = sys.modules.get("asyncio")
        loop = asyncio and asyncio._get_running_loop()  # noqa: SLF001  without raising
        if asyncio is None or loop is None:
            return True
        current = asyncio.current_task(loop)
        is_own = self.task is not None and self.task.get_loop() is loop
        for task in {self.task} if is_own else asyncio.all_tasks(loop):
            if task is not current:
                task.cancel()
        loop.call_soon_threadsafe(_nothing)  # it may be waiting, and signals do not wake every loop
        # a task that runs may block the loop, so that it would never see that it was cancelled
        return current is not None

    def _pass_on(self, signum: int, frame: FrameType | None) -> None:
        if callable(self._previous):
            self._previous(signum, frame)
        else:
            self._restore()
            os.kill(os.getpid(), signum)

    def _restore(self) -> None:
        # None: it was not set by Python
        _signal.signal(self._signum, _signal.SIG_DFL if self._previous is None else self._previous)


_armed: StopHandler | None = None


def raise_for_cancellation(stop: BaseException | None, raised: BaseException | None) -> None:
    """Raise `stop`, if there is one, in place of the CancelledError that it made a coroutine raise."""
    if stop is None or raised is None or not _is_cancellation(raised):
        return
    while raised.__context__ is not None and _is_cancellation(raised.__context__):
        raised = raised.__context__  # before Python 3.11 only this one knows where the coroutine was
    raise stop.with_traceback(raised.__traceback__) from None


def _disarm_child() -> None:
    """Let a process that the job forks handle the signal as if bgd did not exist."""
    if _armed is not None:
        _armed.disarm()


os.register_at_fork(after_in_child=_disarm_child)


def _is_cancellation(error: BaseException) -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and isinstance(error, asyncio.CancelledError)


def _nothing() -> None:
    pass
