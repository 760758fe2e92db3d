"""docs/django.md shows parts of the example, whose tests tests/test_django.py runs."""

from __future__ import annotations

from textwrap import indent

import pytest

from tests.docs.pages import blocks, page
from tests.support import ROOT

PAGE = page("docs/django.md")


@pytest.mark.parametrize("block", [*blocks(PAGE, "python"), *blocks(PAGE, "toml")])
def test_each_block_is_a_part_of_the_file_that_it_names(block):
    name, code = block.removeprefix("# ").split("\n", 1)

    file = (ROOT / "examples/django" / name).read_text()
    assert code.strip("\n") in file or indent(code.strip("\n"), "    ") in file  # a function, or a method
