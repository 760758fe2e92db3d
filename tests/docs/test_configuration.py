"""docs/configuration.md and etc/bgd.toml have every key with its default."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from bgd.core.spec import NOT_SCHEDULED, OPTIONS
from bgd.settings.config import SCHEMA
from bgd.settings.sources import ANY, Key, Schema
from tests.docs.pages import page, rows_of
from tests.support import ROOT

PAGE = page("docs/configuration.md")
SCHEDULES = page("docs/schedules.md")
NOTIFICATIONS = page("docs/notifications.md")


def test_configuration_page_lists_every_key_with_its_default():
    rows = rows_of(PAGE, "key")
    said = {row[0].strip("`"): tomllib.loads(f"value = {row[1].strip('`')}")["value"] for row in rows}

    assert said == dict(flat(tomllib.loads(sample_configuration())))


def test_sample_and_page_have_every_key():
    policy = [cell for row in rows_of(PAGE, "key of a policy") for cell in re.findall(r"`(\w+)`", row[0])]
    said = {
        *(name for name, _ in flat(tomllib.loads(sample_configuration()))),
        *(f"classes.{ANY}.{name}" for name in policy),
        *(f"runners.{ANY}.{row[0].strip('`')}" for row in rows_of(PAGE, "key of a runner")),
        *(f"executors.{ANY}.{row[0].strip('`')}" for row in rows_of(PAGE, "key of an executor")),
        *(f"resources.{ANY}" for _ in rows_of(PAGE, "key of [resources]")),
        *(f"schedules.{ANY}.{row[0].strip('`')}" for row in rows_of(SCHEDULES, "key of a schedule")),
        *(f"notify.{ANY}.{row[0].strip('`')}" for row in rows_of(NOTIFICATIONS, "key of a target")),
        *(f"schedules.{ANY}.{name}" for name in OPTIONS.keys() - NOT_SCHEDULED),  # docs/jobs.md has them
    }

    missing = {name.replace(f"queues.{ANY}", "queues.default") for name in keys(SCHEMA)} - said
    # a line in [retry] stands for the same key in [retry.commands]
    missing -= {f"retry.commands.{name.removeprefix('retry.')}" for name in said}
    assert not missing, f"etc/bgd.toml and docs/configuration.md do not have {sorted(missing)}"


def keys(schema: Schema, prefix: str = "") -> Iterator[str]:
    for name, value in schema.items():
        if isinstance(value, Key):
            yield prefix + name
        else:
            yield from keys(value, f"{prefix}{name}.")


def sample_configuration() -> str:
    """Return etc/bgd.toml with its commented-out keys, whose default depends on the machine."""
    return re.sub(r"^# (\w+ = )", r"\1", (ROOT / "etc/bgd.toml").read_text(), flags=re.MULTILINE)


def flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
