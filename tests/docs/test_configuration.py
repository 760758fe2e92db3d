"""docs/configuration.md: every key there is, with its default."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from tests.docs.pages import page, rows_of
from tests.support import ROOT


def test_configuration_page_lists_every_key_with_its_default():
    rows = rows_of(page("docs/configuration.md"), "key")
    said = {row[0].strip("`"): tomllib.loads(f"value = {row[1].strip('`')}")["value"] for row in rows}

    assert said == dict(flat(tomllib.loads(sample_configuration())))


def sample_configuration() -> str:
    """Return etc/bgd.toml with the keys whose default depends on the machine, as for one user."""
    return re.sub(r"^# (\w+ = )", r"\1", (ROOT / "etc/bgd.toml").read_text(), flags=re.MULTILINE)


def flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
