"""Keeps jobs from starting while the machine is too busy, by its load and the memory that it has left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from bgd.config import Config
from bgd.core.explain import Cause, Reason
from bgd.core.scheduler import PauseReason
from bgd.units import format_size

PROC = Path("/proc")
LOOK_SECONDS = 5.0  # between two looks, while a job is queued


class MachineLimits:
    """Tells whether the machine is too busy for another job. Files of /proc never block.

    Args:
        max_load: jobs start while the load average of the last minute is below this; None: at any load.
        min_memory: jobs start while at least so many bytes are available; None: whatever is.
    """

    def __init__(self, max_load: float | None, min_memory: int | None, proc: Path = PROC) -> None:
        self._max_load = max_load
        self._min_memory = min_memory
        self._proc = proc

    @property
    def are_set(self) -> bool:
        """Whether there is any limit."""
        return self._max_load is not None or self._min_memory is not None

    def exceeded(self) -> tuple[PauseReason, str] | None:
        """Return which limit is exceeded, and that in words; None: none is."""
        if self._max_load is not None and (load := self._load()) >= self._max_load:
            return PauseReason.LOAD, f"it is {load:.2f}, and jobs start below {self._max_load:g}"
        if self._min_memory is not None and (memory := self._available()) < self._min_memory:
            wanted = format_size(self._min_memory)
            return (
                PauseReason.MEMORY,
                f"{_in_megabytes(memory)} are available, and jobs start from {wanted} on",
            )
        return None

    def _load(self) -> float:
        return float((self._proc / "loadavg").read_text().split()[0])

    def _available(self) -> int:
        """Return how many bytes new programs may take without swapping, as the kernel estimates."""
        for line in (self._proc / "meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) * 1024
        raise OSError(f"{self._proc / 'meminfo'} has no line MemAvailable")


def _in_megabytes(size: int) -> str:
    return format_size(size // 1_000_000 * 1_000_000)


class MachineWatch:
    """Looks by one timer, and only while a job is queued.

    Args:
        config: has the limits.
        pause, resume: let no job start for a reason, until it has ended.
        has_queued: tells whether a job is queued that a person lets start.
        ring: asks for another look.
    """

    def __init__(
        self,
        config: Config,
        pause: Callable[[PauseReason], None],
        resume: Callable[[PauseReason], None],
        has_queued: Callable[[], bool],
        ring: Callable[[], None],
    ) -> None:
        self._limits = _limits_of(config)
        self._pause = pause
        self._resume = resume
        self._has_queued = has_queued
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._exceeded: tuple[PauseReason, str] | None = None  # as last seen

    @property
    def is_on(self) -> bool:
        """Whether there is any limit."""
        return self._limits.are_set

    def configure(self, config: Config) -> None:
        """Apply the limits that are configured now."""
        self._limits = _limits_of(config)
        self._forget()
        if not self.is_on:
            for why in _PAUSES:
                self._resume(why)

    def look(self) -> None:
        """Let jobs start if the machine is not too busy, and look again later while any job is queued."""
        if self._timer is not None:
            return
        if self._has_queued():
            self._exceeded = self._limits.exceeded()
            found = None if self._exceeded is None else self._exceeded[0]
            if found is not None:
                self._pause(found)
            for why in _PAUSES - {found}:
                self._resume(why)
        if self._has_queued():
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look_again)
        else:
            self._forget()

    def in_words(self, reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
        """Return reasons that say how busy the machine is; without it if the load was not read yet."""
        known: list[Reason] = []
        for each in reasons:
            if each.cause not in {Cause.LOAD, Cause.MEMORY}:
                known.append(each)
            elif self._exceeded is not None and each.cause == self._exceeded[0].value:
                known.append(replace(each, problem=self._exceeded[1]))
        return tuple(known) if known or not reasons else (Reason(cause=Cause.TURN, ahead=0),)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_again(self) -> None:
        self._timer = None
        self._ring()

    def _forget(self) -> None:
        """Start nothing before the machine was looked at, which the next queued job brings about."""
        self.close()
        self._exceeded = None
        self._pause(PauseReason.LOAD)


_PAUSES = {PauseReason.LOAD, PauseReason.MEMORY}


def _limits_of(config: Config) -> MachineLimits:
    return MachineLimits(config.daemon.max_load, config.daemon.min_memory)
