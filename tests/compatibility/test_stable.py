"""What stays in all versions 1.x is still there, see docs/compatibility.md."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.compatibility.stable import GOLDEN, stable

THEN: dict[str, Any] = json.loads(GOLDEN.read_text())
NOW = stable()


@pytest.mark.parametrize("what", THEN)
def test_everything_that_stays_is_there(what):
    assert gone(THEN[what], NOW[what], what) == []


def gone(then: Any, now: Any, what: str) -> list[str]:
    """Return what is missing or has another value."""
    if isinstance(then, dict):
        lost = [f"{what}: {key}" for key in then if key not in now]
        kept = [key for key in then if key in now]
        return lost + [each for key in kept for each in gone(then[key], now[key], f"{what}: {key}")]
    if isinstance(then, list):
        return [f"{what}: {each}" for each in then if each not in now]
    return [] if then == now else [f"{what} is {now}, and was {then}"]


def test_what_is_missing_or_different_is_found():
    then = {"verbs": {"list": ["--json", "-n"], "show": []}, "code": 1}

    assert gone(then, {"verbs": {"list": ["-n", "-x"]}, "code": 2}, "all") == [
        "all: verbs: show",
        "all: verbs: list: --json",
        "all: code is 2, and was 1",
    ]
