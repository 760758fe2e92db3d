"""docs/reliability.md: every rule that the code names is explained."""

from __future__ import annotations

import re

from tests.docs.pages import page
from tests.support import ROOT

RELIABILITY = page("docs/reliability.md")


def test_reliability_page_explains_every_rule_that_the_code_names():
    named = {
        rule for path in (ROOT / "bgd").rglob("*.py") for rule in re.findall(r"\bR\d\b", path.read_text())
    }

    assert named
    assert named <= set(re.findall(r"^### (R\d): ", RELIABILITY, re.MULTILINE))
