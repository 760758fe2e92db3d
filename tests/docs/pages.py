"""Read README.md and docs/ for the tests of this folder."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])


def page(name: str) -> str:
    return (ROOT / name).read_text()


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def section(text: str, heading: str) -> str:
    """Return the text between a heading and the next one of its level or above."""
    level = heading.index(" ")
    _, found, rest = f"\n{text}".partition(f"\n{heading}\n")
    assert found, f"there is no heading {heading!r}"
    return re.split(rf"^#{{1,{level}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def blocks(text: str, *languages: str) -> list[str]:
    """Return the blocks of code in one of these languages, in order."""
    pattern = rf"^```(?:{'|'.join(languages)})\n(.*?)^```$"
    return re.findall(pattern, text, re.MULTILINE | re.DOTALL)


def block(text: str, language: str) -> str:
    """Return the first block of code in this language."""
    found = blocks(text, language)
    assert found, f"there is no block of {language}"
    return found[0]


def rows_of(text: str, heading: str | None = None) -> list[list[str]]:
    """Return the rows of the first table, or of the first table whose first column has this heading."""
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        first, _, *rows = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in table.splitlines()
        ]
        if heading in {None, first[0]}:
            return rows
    return []


def first_cells(text: str, heading: str | None = None) -> list[str]:
    return [row[0].strip("`") for row in rows_of(text, heading)]
