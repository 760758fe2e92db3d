"""Replies on the screen: JSON for programs; times and the colours of states for people."""

from __future__ import annotations

import json
from datetime import datetime

import click

from bgd.formatting import (
    attempt_as_json,
    command_line,
    iso_time,
    job_as_json,
    progress_as_json,
    progress_line,
    short_duration,
)

__all__ = [
    "STATE_COLORS",
    "attempt_as_json",
    "command_line",
    "iso_time",
    "job_as_json",
    "local_time",
    "print_columns",
    "print_json",
    "progress_as_json",
    "progress_line",
    "short_duration",
]

_VISIBLE_BLANK = "\N{OPEN BOX}"

STATE_COLORS = {
    "running": "blue",
    "stopping": "magenta",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
}


def print_json(value: object) -> None:
    """Print one JSON document on one line, in ASCII: valid in any locale, and harmless on a terminal."""
    click.echo(json.dumps(value).replace("\x7f", "\\u007f"))


def print_columns(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print aligned columns for programs: split at blanks, all but the last hold none."""
    lines = [
        headings,
        *((*(cell.replace(" ", _VISIBLE_BLANK) for cell in row[:-1]), row[-1]) for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def local_time(at: float | None, now: float) -> str:
    """Return an instant for people: local, and how long ago or ahead it is."""
    if at is None:
        return "-"
    distance = f"{short_duration(now - at)} ago" if at <= now else f"in {short_duration(at - now)}"
    return f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S} ({distance})"
