"""docs/reliability.md: the tests that it names are there, and every rule that the code names is explained."""

from __future__ import annotations

import re

from tests.docs.pages import page
from tests.support import ROOT

RELIABILITY = page("docs/reliability.md")


def test_reliability_page_names_only_tests_that_there_are():
    named = set(re.findall(r"`(test_\w+)`", RELIABILITY))
    there = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text())
    }

    assert named
    assert named - there == set()


def test_reliability_page_explains_every_rule_that_the_code_names():
    named = {
        rule for path in (ROOT / "bgd").rglob("*.py") for rule in re.findall(r"\bR\d\b", path.read_text())
    }

    assert named
    assert named <= set(re.findall(r"^### (R\d): ", RELIABILITY, re.MULTILINE))
