"""README.md: its drawing is that of the table of moves, and its imports are public."""

from __future__ import annotations

import re

import bgd
from bgd.core.job import ACTIVE, FINAL, MOVES, WAITING, State
from tests.docs.pages import block, page

README = page("README.md")
GROUPS = {"waiting": WAITING, "active": ACTIVE, "finished": FINAL}


def test_readme_draws_the_table_of_moves():
    assert block(README, "mermaid") == diagram()


def test_readme_imports_only_public_names():
    imported = re.findall(r"^from bgd import (.+)$", README, re.MULTILINE)

    assert imported
    assert {name for line in imported for name in line.split(", ")} <= set(bgd.__all__)


def diagram() -> str:
    """Draw the moves; moves that all states of a group have are drawn once, from the group."""
    lines, between = ["stateDiagram-v2", "    [*] --> waiting: submit"], []
    for name, group in GROUPS.items():
        states = [state for state in State if state in group]
        moves = [(state, *move) for state in states for move in MOVES[state].items()]
        common = [move for move in MOVES[states[0]].items() if all((each, *move) in moves for each in states)]
        single = [(state, *move) for state, *move in moves if tuple(move) not in common]
        lines += [f"    state {name} {{", *(f"        {state}" for state in states)]
        lines += [f"        {state} --> {after}: {move}" for state, move, after in single if after in group]
        lines += ["    }"]
        between += [(name, *move) for move in common] + [move for move in single if move[2] not in group]
    lines += [f"    {before} --> {after}: {move}" for before, move, after in between]
    return "\n".join(lines) + "\n"
