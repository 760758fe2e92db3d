"""README.md: its commands answer what it says, its programs run, and its drawing is that of the table."""

from __future__ import annotations

import re

import bgd
from bgd.core.job import MOVES
from tests.docs.pages import block, page

README = page("README.md")


def test_readme_draws_the_table_of_moves():
    assert block(README, "mermaid") == diagram()


def test_readme_imports_only_public_names():
    imported = re.findall(r"^from bgd import (.+)$", README, re.MULTILINE)

    assert imported
    assert {name for line in imported for name in line.split(", ")} <= set(bgd.__all__)


def diagram() -> str:
    """Draw the moves; a job begins where it waits."""
    lines = [
        "stateDiagram-v2",
        "    [*] --> held: on hold",
        "    [*] --> blocked: after other jobs",
        "    [*] --> scheduled: with a delay",
        "    [*] --> queued",
    ]
    lines += [
        f"    {state} --> {after}: {move}" for state, moves in MOVES.items() for move, after in moves.items()
    ]
    return "\n".join(lines) + "\n"
