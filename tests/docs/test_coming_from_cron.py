"""docs/coming-from-cron.md: the commands in the right-hand columns run, and the keys can be loaded."""

from __future__ import annotations

import os
import re
import shlex

import pytest

from bgctl import program
from bgd.settings.config import load
from tests.docs.pages import page, section

PAGE = page("docs/coming-from-cron.md")
SYSTEMS = ("cron", "Cronicle", "Healthchecks")

# The configuration to which a line of the page is added
KEYS = {
    "schedules.backup.cron": '"0 3 * * *"',
    "schedules.backup.command": '["/usr/local/bin/backup"]',
    "notify.ops.mail": '"ops@example.org"',
    "notify.checks.url": '"https://hc-ping.com/UUID"',
}


def rows(system: str) -> list[str]:
    """Return the right-hand column of a table."""
    heading, _, *lines = re.findall(r"^\|.*\|$", section(PAGE, f"## {system}"), re.MULTILINE)
    assert heading == f"| {system} | bgd |"
    return [re.split(r"(?<!\\)\|", line)[2].strip().replace("\\|", "|") for line in lines]


def codes(start: str) -> list[str]:
    """Return what is code in the right-hand columns and starts with a pattern, in order."""
    found = [code for system in SYSTEMS for row in rows(system) for code in re.findall("`([^`]+)`", row)]
    return [code for code in found if re.match(start, code)]


pytestmark = pytest.mark.daemon(
    "[notify.ops]\nprogram = ['true']\n", {"backup": "#!/bin/sh\n", "warm-up": "#!/bin/sh\n"}
)


@pytest.mark.parametrize("command", codes("bgctl (?!progress)"))  # which only jobs use
def test_every_command_of_the_page_runs(daemon, monkeypatch, capsys, command):
    monkeypatch.setattr("bgctl.common._given", {})
    for name in [name for name in os.environ if name.startswith(("BGD_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(daemon.folder))
    monkeypatch.chdir(daemon.folder)

    if command.startswith("bgctl schedule run"):  # it is refused while an earlier job of the schedule runs
        daemon.bgctl("wait", command.split()[-1])

    code = program.run(shlex.split(command.replace("/usr/local/bin", str(daemon.folder)))[1:])

    assert code == 0, capsys.readouterr().err


@pytest.mark.parametrize("line", sorted(set(codes(r"[a-z]+\.[a-z._]+ = "))))
def test_every_key_of_the_page_can_be_loaded(tmp_path, line):
    name, _, value = line.partition(" = ")
    others = dict(KEYS)
    if name == "notify.ops.program":  # a target has one way to be told
        del others["notify.ops.mail"]
    file = tmp_path / "bgd.toml"
    file.write_text("".join(f"{key} = {text}\n" for key, text in (others | {name: value}).items()))

    config = load(str(file), environ={"HOME": str(tmp_path)})

    assert set(config.schedules) == {"backup"}
    assert set(config.notify) == {"ops", "checks"}


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_row_has_code_or_says_that_there_is_none(system):
    silent = [row for row in rows(system) if not re.search(r"`|^no\b|^nothing\b", row)]

    assert len(rows(system)) > 10
    assert silent == []
