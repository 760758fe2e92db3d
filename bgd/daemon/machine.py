"""How busy the machine is: its load and the memory that it has left."""

from __future__ import annotations

from pathlib import Path

from bgd.core.scheduler import PauseReason
from bgd.units import format_size

PROC = Path("/proc")


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
