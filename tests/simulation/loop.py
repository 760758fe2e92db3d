"""An event loop without a machine below it: its time is the agenda's, its sockets lead to the launcher."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVarTuple, Unpack

from tests.simulation.agenda import Agenda, Entry

Ts = TypeVarTuple("Ts")

HAIR = 1e-6  # seconds
Connect = Callable[[asyncio.Protocol], asyncio.Transport]


class SimulatedLoop(asyncio.AbstractEventLoop):
    """Runs what is ready turn by turn, each turn an entry of the agenda, until it is killed.

    Attributes:
        failure: what went wrong in a task that nobody awaits.
    """

    def __init__(self, agenda: Agenda, connect: Connect) -> None:
        self.failure: BaseException | None = None
        self.alarms: list[SimulatedAlarm] = []
        self._agenda = agenda
        self._connect = connect
        self._ready: deque[asyncio.Handle] = deque()
        self._tasks: list[asyncio.Task[Any]] = []
        self._is_dead = False

    def kill(self) -> None:
        """Never run anything again, not even what tasks would do on their way out."""
        self._is_dead = True
        self._ready.clear()
        for alarm in self.alarms:
            alarm.close()

    def bury(self) -> None:
        """Clear away what was going on when it was killed, after the history is over."""
        for task in self._tasks:
            with suppress(BaseException):  # whatever it says now, it says to nobody
                task.get_coro().close()
        self._tasks.clear()

    @property
    def is_dead(self) -> bool:
        return self._is_dead

    def run(self, callback: Callable[..., object], *args: object) -> None:
        """Call from outside, as a descriptor that becomes ready would."""
        self.call_soon(callback, *args)

    # --- what asyncio and bgd ask of a loop -------------------------------------------------------------

    def time(self) -> float:
        return self._agenda.time

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
                self._agenda.after(0.0, self._turn)
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
        self._agenda.after(when - self._agenda.time, lambda: self._ring(handle))
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._agenda.time + delay, callback, *args, context=context)

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
        """Do nothing: what is put on threads here is the removal of logs, and there are none."""
        return self.create_future()

    async def create_unix_connection(self, factory: Callable[[], Any], path: str) -> Any:  # type: ignore[override]  # of a path alone
        del path
        protocol = factory()
        transport = self._connect(protocol)
        protocol.connection_made(transport)
        return transport, protocol

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Take note of a timer that is not wanted any more, as asyncio tells every loop: it is skipped."""

    # --- turns ------------------------------------------------------------------------------------------

    def _ring(self, handle: asyncio.TimerHandle) -> None:
        if not handle.cancelled():
            self.call_soon(handle._run)

    def _turn(self) -> None:
        """Run what is ready now; what gets ready by that is for the next turn."""
        handles, self._ready = self._ready, deque()
        asyncio._set_running_loop(self)
        try:
            for handle in handles:
                if not handle.cancelled() and not self._is_dead:
                    handle._run()
        finally:
            asyncio._set_running_loop(None)


class SimulatedAlarm:
    """Stands for bgd.clock.Alarm on a simulated loop."""

    def __init__(
        self, loop: SimulatedLoop, callback: Callable[[], None], *, on_wall_clock: bool = False
    ) -> None:
        self._loop = loop
        self._callback = callback
        self._on_wall_clock = on_wall_clock
        self._at: float | None = None
        self._entry: Entry | None = None
        loop.alarms.append(self)

    def set(self, at: float | None) -> None:
        if at != self._at:
            self._at = at
            self.arm()

    def arm(self) -> None:
        """See when it has to ring; again after the wall clock was set."""
        if self._entry is not None:
            self._entry.cancel()
            self._entry = None
        if self._at is not None:
            now = self._loop._agenda.now()
            delay = self._at - (now.wall if self._on_wall_clock else now.elapsed)
            self._entry = self._loop._agenda.after(delay, self._ring)

    def close(self) -> None:
        self.set(None)

    def _ring(self) -> None:
        now = self._loop._agenda.now()
        if self._at is not None and (now.wall if self._on_wall_clock else now.elapsed) < self._at:
            self._entry = self._loop._agenda.after(HAIR, self._ring)  # which is what sums of floats differ by
            return
        self._at = None
        self._loop.run(self._callback)
