"""docs/bgctl.md names every verb and every exit code."""

from __future__ import annotations

import re
from typing import Any

import click

from bgctl import exit_codes
from bgctl.cli import cli as command
from bgd import Outcome
from bgd import __main__ as bgd_command
from bgd.core.retry import SIGNALLED, exit_code_of
from tests.docs.pages import first_cells, page, section

BGCTL = page("docs/bgctl.md")


def test_bgctl_page_names_every_verb():
    assert first_cells(BGCTL, "verb") == command.list_commands(click.Context(command))


def test_bgctl_page_says_what_the_exit_codes_are():
    table = section(BGCTL, "### Exit codes of bgctl")
    said = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}

    codes = {exit_code_of(outcome, 0, 0) for outcome in Outcome} - {None, SIGNALLED}
    assert said == codes | constants(exit_codes)
    assert {bgd_command.EX_IOERR, bgd_command.EX_CONFIG} <= set(map(int, re.findall(r"\b\d+\b", table)))


def constants(module: Any) -> set[int]:
    return {value for name, value in vars(module).items() if name.isupper() and isinstance(value, int)}
