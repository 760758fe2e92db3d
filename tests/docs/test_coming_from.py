"""docs/coming-from.md: the code in the right-hand columns runs, with a real daemon."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from bgctl.cli import cli
from bgd import Client
from bgd.core.spec import OPTIONS
from bgd.settings.config import SCHEMA
from bgd.testing import private_daemon
from tests.docs.pages import blocks, page, section
from tests.support import ROOT

PAGE = page("docs/coming-from.md")
SYSTEMS = ("Laravel", "Sidekiq", "RQ", "Huey", "Celery")
TABLES = (*SYSTEMS, "Elsewhere", "Oban, Solid Queue, GoodJob")
RUNS = r"^(?:client|first|second|area|send_letter|bgd|bgd_job|run_background_job|inline|raise)\b"


def rows(system: str) -> list[str]:
    """Return the right-hand column of a table."""
    [table] = re.findall(rf"^\| {system} \| bgd \|\n\|---\|---\|\n((?:\|.*\|\n)+)", PAGE, re.MULTILINE)
    return [line.strip().strip("|").rpartition(" | ")[2].strip() for line in table.splitlines()]


def calls(system: str) -> list[str]:
    return [code for row in rows(system) for code in re.findall(r"`([^`]+)`", row) if re.match(RUNS, code)]


@pytest.fixture(scope="module")
def program():
    """Yield the program of the page while its daemon runs."""
    settings = {"runners": {"php": {"argv": ["true"]}}}
    allowed = ["app.services.*", "app.tasks.*", "php::App\\Jobs\\*", "php::App\\Services\\*"]
    with (
        pytest.MonkeyPatch.context() as patch,
        private_daemon(allowed=allowed, path=[ROOT / "examples", ROOT], settings=settings),
    ):
        patch.syspath_prepend(str(ROOT / "examples"))
        yield "".join(blocks(PAGE, "python"))


@pytest.mark.parametrize("code", sorted({code for system in TABLES for code in calls(system)}))
def test_every_call_of_the_page_can_be_made(program, code):
    names: dict[str, object] = {}
    exec(program, names)

    if not code.startswith("raise "):
        exec(code, names)
        return
    with pytest.raises(Exception) as raised:  # noqa: PT011 - the type is checked below
        exec(code, names)
    assert type(raised.value).__module__ == "bgd_job"


@pytest.mark.parametrize("system", TABLES)
def test_every_row_has_a_call_or_says_that_there_is_none(system):
    silent = [row for row in rows(system) if not re.search(r"`|^no\b|^not yet|^nothing\b|^JSON", row)]

    assert len(rows(system)) > (15 if system in SYSTEMS else 5)
    assert silent == []


def test_what_the_page_says_is_missing_is_missing():
    """A row says `no (NAME)`: NAME is what bgd would call it, so that the row fails once bgd has it."""
    absent = [row for system in TABLES for row in rows(system) if re.match(r"no\b", row)]
    names = [re.match(r"no \(`(\w+)`\)", row) for row in absent]

    assert absent
    assert all(names), absent
    assert {name[1] for name in names if name} & set(vocabulary()) == set()


def test_the_table_of_others_says_what_each_has_in_each_row():
    head, _, *rows = [line for line in section(PAGE, "## bgd beside others").splitlines() if line[:1] == "|"]
    cells = [row.strip("|").split(" | ") for row in (head, *rows)]

    assert [name.strip() for name in cells[0][1:]] == [
        *("bgd", "Laravel, Horizon", "RQ", "Huey", "Celery", "Oban", "Solid Queue", "DBOS"),
    ]
    assert {len(row) for row in cells} == {len(cells[0])}
    assert all(cell.strip() for row in cells[1:] for cell in row)
    assert sum(row[1].startswith("no") for row in cells) >= 2  # it says what bgd lacks


MISSING = {  # what bgd would call it
    "A cluster of its own": {"cluster", "workers"},
    "Your database transaction": {"transaction", "on_commit"},
    "Callbacks in your process": {"add_done_callback", "callback"},
    "Arguments and results other than JSON": {"pickle", "serializer"},
}


def test_the_list_of_what_bgd_does_not_have_is_true():
    listed = section(PAGE, "## What bgd does not have")
    bold = re.findall(r"\*\*([^*]+)\*\*", listed)

    assert [each.rstrip(".") for each in bold] == list(MISSING)
    assert set().union(*MISSING.values()) & set(vocabulary()) == set()


def vocabulary() -> Iterator[str]:
    """Yield every name that people can write: job options, keys, methods of the client and verbs."""
    yield from OPTIONS
    yield from _keys(SCHEMA)
    yield from (name for name in dir(Client) if not name.startswith("_"))
    yield from cli.known_words()


def _keys(schema: Any) -> Iterator[str]:
    for name, value in schema.items():
        yield str(name)
        if isinstance(value, dict):
            yield from _keys(value)
