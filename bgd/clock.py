"""The elapsed clock, which never jumps and counts suspend, and an alarm on it that asyncio can wait for."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bgd.core.job import Now


def elapsed() -> float:
    """Return seconds since the machine started, suspend included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return the kernel's name for this run of the machine: another one means that nothing lived on."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class Alarm:
    """Calls back once when a clock reaches a time: the elapsed one, or the wall clock.

    On the wall clock it also calls back when that is set: what was to come in years may have to be thought
    over then, and set anew.

    A loop's own timers run on a clock that stands still while the machine is suspended; this one is late
    by the time of waking up and no more. It is a descriptor, so any loop with add_reader will do.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None], *, on_wall_clock: bool = False
    ) -> None:
        self._loop = loop
        self._callback = callback
        self._at: float | None = None
        self._is_told = on_wall_clock
        self._fd = _create(time.CLOCK_REALTIME if on_wall_clock else time.CLOCK_BOOTTIME)
        loop.add_reader(self._fd, self._ring)

    def set(self, at: float | None) -> None:
        """Ring at this time of the clock, at once if it is past; None: not at all.

        Costs nothing if that is what it is set to.
        """
        if at == self._at:
            return
        self._at = at
        try:
            _arm(self._fd, _NEVER if at is None else min(max(at, _SOONEST), _LATEST), is_told=self._is_told)
        except OSError as error:
            if error.errno != errno.ECANCELED:
                raise
            # it is set, and the clock was since it was set before: nothing else will tell of that
            self._loop.call_soon(self._callback)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _ring(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # set anew between the ring and this turn of the loop
            return
        except OSError as error:
            if error.errno != errno.ECANCELED:  # as the kernel says that the clock was set
                raise
        self._at = None
        self._callback()


_NEVER = 0.0  # disarms a timerfd
_SOONEST = 1e-6  # seconds after the machine's start, so past
_LATEST = 9e9  # seconds: beyond it, as at infinity, the kernel's 63 bits of nanoseconds would overflow
_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1
_TFD_TIMER_CANCEL_ON_SET = 2

if sys.version_info >= (3, 13):

    def _create(clock: int) -> int:
        return os.timerfd_create(clock, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)

    def _arm(fd: int, at: float, *, is_told: bool) -> None:
        more = os.TFD_TIMER_CANCEL_ON_SET if is_told else 0
        os.timerfd_settime(fd, flags=os.TFD_TIMER_ABSTIME | more, initial=at)

else:
    _libc = ctypes.CDLL(None, use_errno=True)

    def _create(clock: int) -> int:
        return _checked(_libc.timerfd_create(clock, _TFD_NONBLOCK | _TFD_CLOEXEC))

    def _arm(fd: int, at: float, *, is_told: bool) -> None:
        seconds = int(at)
        # struct itimerspec: the interval (none), then the first expiry, each seconds and nanoseconds
        times = (ctypes.c_long * 4)(0, 0, seconds, int((at - seconds) * 1e9))
        flags = _TFD_TIMER_ABSTIME | (_TFD_TIMER_CANCEL_ON_SET if is_told else 0)
        _checked(_libc.timerfd_settime(fd, flags, times, None))

    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result


# --- The present, on both of the daemon's clocks.


def now() -> Now:
    return Now(elapsed(), time.time())
