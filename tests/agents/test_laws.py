"""Each law of the harness can be broken, and the sentence says how."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.agents.laws import MAX_ANSWER, UNKNOWN, Call, Ledger, Told

CODES = {"1": 0, "2": 3, "a.1": 3}


def job(number: int, session: str | None = "a", finished_at: float | None = 1.0) -> Any:
    return SimpleNamespace(id=number, session=session, finished_at=finished_at, state="running")


def violations(
    *happened: Told | Call, jobs: tuple[Any, ...] = (), exits: Any = (), **given: Any
) -> list[str]:
    ledger = Ledger()
    ledger.told = [each for each in happened if isinstance(each, Told)]
    ledger.calls = [each for each in happened if isinstance(each, Call)]
    ledger.submitted, ledger.exits = given.pop("submitted", []), list(exits)
    return ledger.violations(jobs, CODES, **({"launcher_was_killed": False} | given))


FIRST = Told("a", 1, "inbox", 0, event=7)
AGAIN = Told("a", 1, "hook", 0, redelivered=True)
BLOCK = Told("a", 1, "hook", 0, blocked=True)
NOTHING = Call(["wait"], 75, 10, waits=True, has_news=False)


@pytest.mark.parametrize(
    ("found", "law"),
    [
        (violations(jobs=(job(1),)), "a was not told of the end of job 1"),
        (violations(submitted=[("a", 9)]), "job 9 of a is lost"),
        (violations(FIRST, jobs=(job(1, None),)), "a was told of job 1, which is of None"),
        (violations(FIRST, Told("a", 1, "hook", 0), jobs=(job(1),)), "came again to a, not marked"),
        (
            violations(FIRST, Told("a", 1, "inbox", 0, event=8, redelivered=True), jobs=(job(1),)),
            "has the numbers 7 and 8",
        ),
        (
            violations(BLOCK, Told("a", 1, "hook", 0, redelivered=True, blocked=True), jobs=(job(1),)),
            "the end of job 1 blocked 2 stops",
        ),
        (violations(Told("a", 2, "inbox", 0), jobs=(job(2),)), "job 2 exited with 3, and 0 was told"),
        (violations(Told("a", 2, "hook", None), jobs=(job(2),)), "job 2 exited with 3, and None was told"),
        (violations(exits=[("a.1", 0)]), "command a.1 exited with 3, and `run` with 0"),
        (violations(exits=[("a.1", UNKNOWN)]), "and `run` with 125"),
        (violations(Told("a", 1, "inbox", None, is_unknown=True), jobs=(job(1),)), "job 1 is unknown"),
        (violations(NOTHING), "nothing new (exit code 75): wait"),
        (violations(Call(["run"], 0, MAX_ANSWER + 1, waits=True, has_news=True)), "4097 bytes: run"),
        (violations(FIRST, jobs=(job(1, finished_at=None),)), "job 1 of a is left: running"),
    ],
)
def test_a_broken_law_is_said(found, law):
    assert len(found) == 1
    assert law in found[0]


def test_what_is_allowed_breaks_no_law():
    assert not violations(
        FIRST,
        AGAIN,
        Told("a", 1, "wait", 0),
        Told("a", 2, "inbox", None, is_unknown=True),
        Call(["wait"], None, 0, waits=True, has_news=False),
        Call(["wait"], 69, 0, waits=True, has_news=False, met_no_daemon=True),
        Call(["inbox"], 0, 0, waits=False, has_news=False),
        jobs=(job(1), job(2), job(3, None)),
        exits=[("a.1", UNKNOWN), ("a.1", 3)],
        launcher_was_killed=True,
    )
