"""How much memory a process takes for itself."""

from __future__ import annotations

from pathlib import Path


def own_megabytes(pid: int) -> float:
    """Return the memory that would be free without this process: what others share is not its own."""
    kilobytes = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            kilobytes += int(line.split()[1])
    return kilobytes / 1024
