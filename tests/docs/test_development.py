"""docs/development.md: the functions that it names are there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.docs.pages import page, section
from tests.support import ROOT

DEVELOPMENT = page("docs/development.md")
STEP = re.compile(r"`((?:bgd|bgctl)/[\w/]+\.py): ([\w.]+)`")


@pytest.mark.parametrize("heading", ["## How a submit travels", "## How the end of a job travels"])
def test_development_page_names_only_functions_that_there_are(heading):
    steps = STEP.findall(section(DEVELOPMENT, heading))
    wrong = [f"{path}: {name}" for path, name in steps if name not in set(definitions(path))]

    assert len(steps) > 10
    assert not wrong, (
        f"docs/development.md, {heading!r}: these are not there any more: {wrong}."
        " Name the file and function that do that step now."
    )


def definitions(path: str) -> Iterator[str]:
    """Yield the classes and functions of a file, methods as `Class.method`; nothing if it is not there."""
    if (ROOT / path).exists():
        yield from _definitions_in(ast.parse((ROOT / path).read_text()).body)


def _definitions_in(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from _definitions_in(node.body, f"{prefix}{node.name}.")
