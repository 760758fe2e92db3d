"""Stops jobs from starting while the machine is too busy, by its load and its available memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from bgd.core.explain import OF_MACHINE, Cause, Reason
from bgd.settings.config import Config
from bgd.text.units import format_size

PROC = Path("/proc")
LOOK_SECONDS = 5.0  # between two checks, while a job is queued


def exceeded_limit(
    max_load: float | None, min_memory: int | None, proc: Path = PROC
) -> tuple[Cause, str] | None:
    """Return which limit is exceeded, and that in words; None: none is. Files of /proc never block."""
    if max_load is not None:
        load = float((proc / "loadavg").read_text().split()[0])
        if load >= max_load:
            return Cause.LOAD, f"it is {load:.2f}; jobs start below {max_load:g}"
    if min_memory is not None and (memory := _available(proc / "meminfo")) < min_memory:
        there = format_size(memory // 1_000_000 * 1_000_000)
        return Cause.MEMORY, f"{there} available; jobs start at {format_size(min_memory)}"
    return None


def _available(meminfo: Path) -> int:
    """Return how many bytes new programs may take without swapping, as the kernel estimates."""
    for line in meminfo.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    raise OSError(f"{meminfo} has no line MemAvailable")


class MachineWatch:
    """Checks by one timer, and only while a job is queued.

    Args:
        config: has the limits.
        pause, resume: let no job start for a reason, until it has ended.
        has_queued: tells whether a job is queued that a person lets start.
        ring: asks for another look.
    """

    def __init__(
        self,
        config: Config,
        pause: Callable[[Cause], None],
        resume: Callable[[Cause], None],
        has_queued: Callable[[], bool],
        ring: Callable[[], None],
    ) -> None:
        self._config = config.daemon
        self._pause = pause
        self._resume = resume
        self._has_queued = has_queued
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._exceeded: tuple[Cause, str] | None = None  # as last seen

    @property
    def is_on(self) -> bool:
        """Whether there is any limit."""
        return self._config.max_load is not None or self._config.min_memory is not None

    def configure(self, config: Config) -> None:
        """Apply the limits that are configured now."""
        self._config = config.daemon
        self._forget()
        if not self.is_on:
            for why in OF_MACHINE:
                self._resume(why)

    def look(self) -> None:
        """Let jobs start if the machine is not too busy, and check again later while any job is queued."""
        if self._timer is not None:
            return
        if self._has_queued():
            self._exceeded = exceeded_limit(self._config.max_load, self._config.min_memory)
            found = None if self._exceeded is None else self._exceeded[0]
            if found is not None:
                self._pause(found)
            for why in OF_MACHINE - {found}:
                self._resume(why)
        if self._has_queued():
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look_again)
        else:
            self._forget()

    def in_words(self, reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
        """Return reasons with the load or memory of the machine, if it was read."""
        known: list[Reason] = []
        for each in reasons:
            if each.cause not in OF_MACHINE:
                known.append(each)
            elif self._exceeded is not None and each.cause is self._exceeded[0]:
                known.append(replace(each, problem=self._exceeded[1]))
        return tuple(known) if known or not reasons else (Reason(cause=Cause.TURN, ahead=0),)

    def close(self) -> None:
        """Stop checking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_again(self) -> None:
        self._timer = None
        self._ring()

    def _forget(self) -> None:
        """Start nothing before the next check, which the next queued job triggers."""
        self.close()
        self._exceeded = None
        self._pause(Cause.LOAD)
