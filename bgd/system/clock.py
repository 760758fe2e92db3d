"""Time: wall clock and elapsed clock, an alarm on either, and pauses between retries.

The elapsed clock counts seconds since the machine started. It never jumps, and it counts suspend.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bgd.core.job import Now


def now() -> Now:
    """Return the present on both clocks."""
    return Now(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


class Clocks(NamedTuple):
    """The wall clock, and two that cannot be set; `awake` stands still while the machine is suspended."""

    wall: float
    awake: float
    elapsed: float


def read_all() -> Clocks:
    return Clocks(time.time(), time.monotonic(), elapsed())


def elapsed() -> float:
    """Return seconds since the machine started, including suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return the kernel's id of this boot; if it differs, no process from before is alive."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def doubling(first: float, longest: float) -> Iterator[float]:
    """Yield pauses between tries in seconds, each twice as long as the one before, up to the longest."""
    while True:
        yield min(first, longest)
        first *= 2


class Alarm:
    """Calls back once when a clock, elapsed or wall, reaches a time.

    On the wall clock it also calls back when the clock is set, because a time that seemed years away
    may be near now.

    A loop's own timers run on a clock that stands still while the machine is suspended; this alarm is late
    by no more than the time to wake up. It is a file descriptor, so any loop with add_reader can use it.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None], *, on_wall_clock: bool = False
    ) -> None:
        self._loop = loop
        self._callback = callback
        self._at: float | None = None
        self._reports_changes = on_wall_clock
        self._fd = _create(time.CLOCK_REALTIME if on_wall_clock else time.CLOCK_BOOTTIME)
        loop.add_reader(self._fd, self._ring)

    def set(self, at: float | None) -> None:
        """Ring when the clock reaches `at`, at once if that is past, never if None.

        Costs nothing if the alarm is already set to that.
        """
        if at == self._at:
            return
        self._at = at
        try:
            expiry = _NEVER if at is None else min(max(at, _SOONEST), _LATEST)
            _arm(self._fd, expiry, reports_changes=self._reports_changes)
        except OSError as error:
            if error.errno != errno.ECANCELED:
                raise
            # the timer is armed, but the clock was set since it was last armed: nothing else reports that
            self._loop.call_soon(self._callback)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _ring(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # it was set again between the ring and this turn of the loop
            return
        except OSError as error:
            if error.errno != errno.ECANCELED:  # this one reports that the clock was set
                raise
        self._at = None
        self._callback()


_NEVER = 0.0  # disarms a timerfd
_SOONEST = 1e-6  # seconds after the machine started, so in the past
_LATEST = 9e9  # seconds; later ones, such as infinity, would overflow the kernel's 63 bits of nanoseconds
_TFD_TIMER_ABSTIME = 1
_TFD_TIMER_CANCEL_ON_SET = 2
_libc = ctypes.CDLL(None, use_errno=True)  # os has these calls from Python 3.13 on


def _create(clock: int) -> int:
    return checked(_libc.timerfd_create(clock, os.O_NONBLOCK | os.O_CLOEXEC))


def _arm(fd: int, at: float, *, reports_changes: bool) -> None:
    seconds = int(at)
    # struct itimerspec: the interval (none), then the first expiry, each in seconds and nanoseconds
    times = (ctypes.c_long * 4)(0, 0, seconds, int((at - seconds) * 1e9))
    flags = _TFD_TIMER_ABSTIME | (_TFD_TIMER_CANCEL_ON_SET if reports_changes else 0)
    checked(_libc.timerfd_settime(fd, flags, times, None))


def checked(result: int) -> int:
    """Return the result of a call of the C library; raise OSError if the call has failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
