"""A simulated event loop: it takes time from the event queue, and its sockets lead to the launcher."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from math import inf
from typing import Any, TypeVarTuple, Unpack

from tests.simulation.event_queue import EventQueue, QueuedEvent

Ts = TypeVarTuple("Ts")

EPSILON = 1e-6  # seconds
Connect = Callable[[asyncio.Protocol], asyncio.Transport]


class SimulatedLoop(asyncio.AbstractEventLoop):
    """Runs ready callbacks turn by turn until it is killed; each turn is an event of the queue.

    Attributes:
        failure: the error of a task or callback that nobody awaits.
    """

    def __init__(self, event_queue: EventQueue, connect: Connect) -> None:
        self.failure: BaseException | None = None
        self.alarms: list[SimulatedAlarm] = []
        self._event_queue = event_queue
        self._connect = connect
        self._ready: deque[asyncio.Handle] = deque()
        self._tasks: list[asyncio.Task[Any]] = []
        self._is_dead = False

    def kill(self) -> None:
        """Never run anything again, not even the clean-up of tasks."""
        self._is_dead = True
        self._ready.clear()
        for alarm in self.alarms:
            alarm.close()

    def bury(self) -> None:
        """Close the tasks of a killed loop, after the history is over."""
        for task in self._tasks:
            coro = task.get_coro()
            with suppress(BaseException):  # nobody is interested in errors any more
                coro.throw(_Buried())
            with suppress(BaseException):  # it may have waited once more
                coro.close()
        self._tasks.clear()

    @property
    def is_dead(self) -> bool:
        return self._is_dead

    def run(self, callback: Callable[..., object], *args: object) -> None:
        """Run a callback from outside the loop, as if a descriptor became ready."""
        self.call_soon(callback, *args)

    # --- what asyncio and bgd use of a loop -------------------------------------------------------------

    def time(self) -> float:
        return self._event_queue.time

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self._is_dead

    def is_closed(self) -> bool:
        return self._is_dead

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self._is_dead:
            if not self._ready:
                self._event_queue.after(0.0, self._turn)
            self._ready.append(handle)
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._event_queue.after(when - self._event_queue.time, lambda: self._ring(handle))
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._event_queue.time + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:  # type: ignore[override]  # of any version
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, **options)
        self._tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._is_dead and self.failure is None:
            self.failure = context.get("exception") or AssertionError(context["message"])

    def run_in_executor(self, *_: object) -> asyncio.Future[Any]:
        """Do nothing: only the deletion of logs runs on threads here, and there are no logs."""
        return self.create_future()

    async def create_unix_connection(self, factory: Callable[[], Any], path: str) -> Any:  # type: ignore[override]  # of a path alone
        del path
        protocol = factory()
        transport = self._connect(protocol)
        protocol.connection_made(transport)
        return transport, protocol

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Ignore that asyncio cancelled a timer: `_ring` skips it."""

    # --- turns ------------------------------------------------------------------------------------------

    def _ring(self, handle: asyncio.TimerHandle) -> None:
        if not handle.cancelled():
            self.call_soon(handle._run)

    def _turn(self) -> None:
        """Run the callbacks that are ready now; those that become ready meanwhile wait for the next turn."""
        handles, self._ready = self._ready, deque()
        asyncio._set_running_loop(self)
        try:
            for handle in handles:
                if not handle.cancelled() and not self._is_dead:
                    handle._run()
        finally:
            asyncio._set_running_loop(None)


class _Buried(BaseException):
    """Ends a task inside its asynchronous generators; before Python 3.13 `close` leaves these suspended."""


class SimulatedAlarm:
    """Replaces bgd.system.clock.Alarm on a simulated loop."""

    def __init__(
        self, loop: SimulatedLoop, callback: Callable[[], None], *, on_wall_clock: bool = False
    ) -> None:
        self._loop = loop
        self._callback = callback
        self._on_wall_clock = on_wall_clock
        self._at: float | None = None
        self._entry: QueuedEvent | None = None
        loop.alarms.append(self)

    def set(self, at: float | None) -> None:
        if at != self._at:
            self._at = at
            self.arm()

    def arm(self) -> None:
        """Schedule the alarm."""
        if self._entry is not None:
            self._entry.cancel()
            self._entry = None
        if self._at is not None and self._at < inf:
            now = self._loop._event_queue.now()
            delay = self._at - (now.wall if self._on_wall_clock else now.elapsed)
            self._entry = self._loop._event_queue.after(delay, self._ring)

    def clock_was_set(self) -> None:
        """Ring, if the alarm is set on the wall clock, which somebody has set."""
        if self._on_wall_clock and self._at is not None:
            self.set(None)
            self._loop.run(self._callback)

    def close(self) -> None:
        self.set(None)

    def _ring(self) -> None:
        now = self._loop._event_queue.now()
        if self._at is not None and (now.wall if self._on_wall_clock else now.elapsed) < self._at:
            # sums of floats differ by this much
            self._entry = self._loop._event_queue.after(EPSILON, self._ring)
            return
        self._at = None
        self._loop.run(self._callback)
