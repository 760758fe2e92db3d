"""All pages: links have targets, files and options exist, commands and configurations are valid."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
import pytest

from bgctl.cli import cli as command
from bgd import __main__ as bgd_command
from bgd.settings.config import load
from tests.docs.pages import PAGES, blocks, name_of
from tests.support import ROOT

# Values for the placeholders in commands
PLACEHOLDERS = {"ID": "12", "N": "3", "VERB": "list", "COMMAND": "true", "NAME": "name"}

by_page = pytest.mark.parametrize("path", PAGES, ids=name_of)


@by_page
def test_links_lead_somewhere(path):
    targets = re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]+)?\)", path.read_text())
    pages = [(path.parent / name if name else path, anchor) for name, anchor in targets]

    assert [str(target) for target, _ in pages if not target.exists()] == []
    assert [anchor for target, anchor in pages if anchor and anchor[1:] not in anchors_of(target)] == []


@by_page
def test_files_that_are_named_exist(path):
    named = re.findall(r"`((?:bgd|bgctl|tests|docs|examples|systemd|etc)/[\w./]+)`", path.read_text())

    assert [name for name in named if not (ROOT / name).exists()] == []


@by_page
def test_options_that_are_named_exist(path):
    assert set(re.findall(r"`(--[a-z][a-z-]*)", path.read_text())) <= options()


@by_page
def test_commands_can_be_read(path, monkeypatch):
    monkeypatch.setattr(click.Command, "invoke", lambda *_: 0)  # parse the command line, but do nothing
    monkeypatch.setattr("bgctl.common._given", {})
    for words in commands_of(path.read_text()):
        # a command may be named without its arguments; `--help` exits
        with (
            suppress(click.MissingParameter, click.exceptions.Exit),
            command.make_context("bgctl", list(words)) as context,
        ):
            command.invoke(context)


@by_page
def test_programs_can_be_compiled(path):
    for block in blocks(path.read_text(), "python"):
        ast.parse(block)


@by_page
def test_configurations_can_be_loaded(path, tmp_path):
    for block in blocks(path.read_text(), "toml"):
        (tmp_path / "bgd.toml").write_text(block)
        load(str(tmp_path / "bgd.toml"), environ={"HOME": str(tmp_path)})


def test_commands_are_found_wherever_they_stand():
    text = """
`bgctl show ID` and `bgctl`, but not bgctl wait
```sh
id=$(bgctl submit make)  # bgctl cancel
bgctl list -q | xargs bgctl hold && eval "$(bgctl completion zsh)"
```
"""
    assert list(commands_of(text)) == [
        ("submit", "make"),
        ("completion", "zsh"),
        ("list", "-q"),
        ("hold",),
        ("show", "12"),
        (),
    ]


# --- reading the pages -------------------------------------------------------------------------------------


def anchors_of(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def options() -> set[str]:
    return set(_options_of(command, click.Context(command))) | set(
        re.findall(r"--[a-z-]+", bgd_command._parser().format_help())
    )


def _options_of(verb: click.Command, context: click.Context) -> Iterator[str]:
    yield "--help"
    for parameter in verb.params:
        yield from parameter.opts
    if isinstance(verb, click.Group):
        for name in verb.list_commands(context):
            below = verb.get_command(context, name)
            assert below is not None
            yield from _options_of(below, context)


def commands_of(text: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each bgctl command, without `bgctl`."""
    for block in blocks(text, "sh", "console"):
        is_typed = "\n$ " in f"\n{block}"
        for line in block.splitlines():
            if not is_typed or line.startswith("$ "):
                yield from _commands_in(line)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"`(bgctl(?: [^`]+)?)`", prose):
        yield from _commands_in(re.sub(r"\b[A-Z]+\b", lambda word: PLACEHOLDERS.get(word[0], word[0]), code))


def _commands_in(line: str) -> Iterator[tuple[str, ...]]:
    """Yield the commands in one line of shell, those in substitutions first."""
    for substituted in re.findall(r"\$\(([^()]*)\)", line):
        yield from _commands_in(substituted)
    words: list[str] = []
    bare = re.sub(r"\$\([^()]*\)|\$\w+", "1", line)
    for word in [*_words_of(bare), ";"]:
        if word[0] in "|&;<>":
            if "bgctl" in words:
                yield tuple(words[words.index("bgctl") + 1 :])
            words = []
        else:
            words.append(word)


def _words_of(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    return list(lexer)
