"""Replies on the screen: JSON for programs; times and the colours of states for people."""

from __future__ import annotations

import json
from datetime import datetime

import click

from bgd.words import attempt_as_json, brief, command_line, iso_time, job_as_json

__all__ = [
    "STATE_COLORS",
    "attempt_as_json",
    "brief",
    "command_line",
    "iso_time",
    "job_as_json",
    "local_time",
    "print_json",
]

STATE_COLORS = {
    "running": "blue",
    "stopping": "magenta",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
}


def print_json(value: object) -> None:
    """Print one JSON document on one line."""
    click.echo(json.dumps(value, ensure_ascii=False))


def local_time(at: float | None, now: float) -> str:
    """Return an instant for people: local, and how long ago or ahead it is."""
    if at is None:
        return "-"
    distance = f"{brief(now - at)} ago" if at <= now else f"in {brief(at - now)}"
    return f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S} ({distance})"
