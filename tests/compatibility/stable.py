"""What users and their programs rely on, and the file with what 1.0 has of it.

`python -m tests.compatibility.stable` writes the file; that is done once, for the release of 1.0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import bgd
from bgctl import exit_codes
from bgctl.cli import cli
from bgd import Outcome, State
from bgd.core.explain import Cause, Reason
from bgd.settings.config import SCHEMA
from bgd.settings.sources import Key
from bgd.wire.messages import kinds_of
from bgd.wire.replies import Reply
from bgd.wire.requests import Request
from bgd.wire.schedules import ScheduleView
from bgd.wire.views import AttemptView, EventView, JobView, QueueView, ResourceView, ScheduleEvent

GOLDEN = Path(__file__).with_name("1.0.json")
VIEWS = (JobView, AttemptView, EventView, QueueView, ResourceView, ScheduleView, ScheduleEvent, Reason)


def stable() -> dict[str, Any]:
    """Return what this bgd has of all that stays."""
    return {
        "verbs": dict(_verbs(cli, "bgctl")),
        "exit codes": {name: code for name, code in vars(exit_codes).items() if isinstance(code, int)},
        "configuration": sorted(_keys(SCHEMA, "")),
        "json": {kind.__name__: sorted(kind.__struct_fields__) for kind in VIEWS},
        "requests": sorted(kind.__name__ for kind in kinds_of(Request).values()),
        "replies": sorted(kind.__name__ for kind in kinds_of(Reply).values()),
        "states": sorted(State),
        "outcomes": sorted(Outcome),
        "reasons": sorted(Cause),
        "python": sorted(bgd.__all__),
    }


def _verbs(group: click.Group, name: str) -> Iterator[tuple[str, list[str]]]:
    context = click.Context(group)
    yield name, _options(group)
    for verb in group.list_commands(context):
        command = group.get_command(context, verb)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _verbs(command, f"{name} {verb}")
        else:
            yield f"{name} {verb}", _options(command)


def _options(command: click.Command) -> list[str]:
    names = (name for each in command.params for name in (*each.opts, *each.secondary_opts))
    return sorted(name for name in names if name.startswith("-"))


def _keys(schema: Any, above: str) -> Iterator[str]:
    for name, each in schema.items():
        if isinstance(each, Key):
            yield f"{above}{name}"
        else:
            yield from _keys(each, f"{above}{name}.")


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(stable(), indent=1) + "\n")
