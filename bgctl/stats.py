"""stats: how much there was to do lately, and how fast it went."""

from __future__ import annotations

import time
from collections.abc import Mapping

import click

from bgctl.common import client, global_options, local_time, print_json, verb
from bgctl.options import TIME_LIMIT
from bgd.formatting import iso_time, short_duration
from bgd.units import format_duration
from bgd.wire.replies import Stats

_USUAL_WINDOW = 3600.0  # seconds


@verb(
    "stats",
    "bgctl stats",
    "bgctl stats --window 1d --json",
)
@click.option(
    "--window", type=TIME_LIMIT, default=_USUAL_WINDOW, metavar="D", help="Look back so far; else 1h."
)
def stats_command(*, window: float) -> int:
    """Show how much there is to do, and how it went lately."""
    with client() as daemon:
        stats = daemon.stats(window=window)
    if global_options().json:
        print_json(_as_json(stats))
    else:
        for label, value in _sheet(stats):
            click.echo(f"{label:<11}{value}")
    return 0


def _as_json(stats: Stats) -> dict[str, object]:
    fields: dict[str, object] = {
        name: getattr(stats, name) for name in stats.__struct_fields__ if name != "id"
    }
    return fields | {"oldest_queued_at": iso_time(stats.oldest_queued_at)}


def _sheet(stats: Stats) -> list[tuple[str, str]]:
    oldest = stats.oldest_queued_at
    return [
        ("jobs", _counts(stats.counts)),
        ("ended", f"{_counts(stats.outcomes)} in the last {format_duration(stats.window)}"),
        ("waited", _times(stats.wait_median, stats.wait_p95)),
        ("ran", _times(stats.run_median, stats.run_p95)),
        ("oldest", "none is queued" if oldest is None else f"queued {local_time(oldest, time.time())}"),
    ]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"


def _times(median: float | None, p95: float | None) -> str:
    if median is None or p95 is None:
        return "-"
    return f"half up to {short_duration(median)}, 95 % up to {short_duration(p95)}"
