"""Simulated jobs get the results of others; faults made on purpose are found."""

from __future__ import annotations

from collections import Counter

import pytest

from bgd.core import conditions
from bgd.core.job import State
from bgd.daemon.storage import read
from bgd.daemon.storage.database import insert_rows
from tests.simulation.run import SimulationRun
from tests.simulation.search import search

REFERRED = 40  # histories with results as arguments


def test_histories_with_results_as_arguments_pass_all_checks():
    found: Counter[str] = Counter()
    for seed in range(REFERRED):
        found += SimulationRun(seed, has_schedules=False, has_limits=False, has_references=True).run()
    assert found["results given"] > REFERRED / 2
    assert found["cancelled for a source"] > REFERRED / 2
    assert found["Prune"] > 2


def give_the_first_result(monkeypatch):
    earliest = read._LATEST_RESULT.replace("attempt DESC", "attempt")
    monkeypatch.setattr(read, "_LATEST_RESULT", earliest)


def forget_whose_results_are_needed(monkeypatch):
    def lose(db, statement, *rows):
        if "dependents" not in statement:
            insert_rows(db, statement, *rows)

    monkeypatch.setattr("bgd.daemon.storage.write.insert_rows", lose)


def cancel_for_a_wrong_reason(monkeypatch):
    ends = conditions.ENDS
    swapped = {State.FAILED: ends[State.CANCELLED], State.CANCELLED: ends[State.FAILED]}
    monkeypatch.setattr(conditions, "ENDS", swapped)


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (give_the_first_result, "got .* and not"),
        (forget_whose_results_are_needed, "was removed, and"),
        (cancel_for_a_wrong_reason, "should have been cancelled"),
    ],
)
def test_a_fault_of_results_as_arguments_is_found(monkeypatch, fault, found):
    fault(monkeypatch)
    search(found, has_schedules=False, has_limits=False, has_references=True)
