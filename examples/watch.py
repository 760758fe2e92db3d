"""Print how each job ends, and miss none between two runs.

The id of the last event is kept in a file, so the next run continues where this one stopped:
`python watch.py /var/tmp/watched`.
"""
# ruff: noqa: INP001, T201 - a program that prints for people

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from bgd import AsyncClient

FINISHED = {"succeeded", "failed", "cancelled"}


def main(place: Path) -> None:
    """Watch from where the last run stopped, or from the oldest event."""
    asyncio.run(watch(place, int(place.read_text()) if place.exists() else 0))


async def watch(place: Path, last: int) -> None:
    """Print a line for each job that finishes after the event `last`, until interrupted."""
    async with AsyncClient() as client:
        async for event in client.events(since=last):
            if event.state in FINISHED and event.what != "remove":
                print(f"job {event.job} {event.state}: {event.outcome or event.reason}", flush=True)
            new = place.with_suffix(".new")
            new.write_text(str(event.id))
            new.replace(place)  # so that the file is never incomplete


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
