"""README.md: its imports are public, and it stays short."""

from __future__ import annotations

import re

import bgd
from bgd.settings.startup import OLDEST_LINUX
from tests.docs.pages import page

README = page("README.md")
LONGEST = 220  # lines


def test_readme_names_the_kernel_that_the_check_at_the_start_asks_for():
    assert f"Linux {OLDEST_LINUX} or newer" in README


def test_readme_is_short():
    assert len(README.splitlines()) <= LONGEST


def test_readme_imports_only_public_names():
    imported = re.findall(r"^from bgd import (.+)$", README, re.MULTILINE)

    assert imported
    assert {name for line in imported for name in line.split(", ")} <= set(bgd.__all__)
