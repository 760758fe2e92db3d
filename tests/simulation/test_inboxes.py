"""The simulator finds nothing wrong with inboxes, and finds faults of them made on purpose."""

from __future__ import annotations

from collections import Counter

import pytest

from bgd.daemon.control.inboxes import Inboxes
from bgd.daemon.storage import inbox
from tests.simulation.run import SimulationRun
from tests.simulation.search import search

HISTORIES = 40


def test_histories_with_readers_of_inboxes_pass_all_checks():
    found: Counter[str] = Counter()
    for seed in range(HISTORIES):
        found += SimulationRun(seed, has_schedules=False, has_limits=False, has_inboxes=True).run()
    assert found["end acknowledged"] > 5 * HISTORIES
    assert found["end handed out again"] > HISTORIES


def write_no_ends(monkeypatch):
    monkeypatch.setattr(inbox.InboxWriter, "save", lambda *_: None)


def write_ends_again(monkeypatch):
    save = inbox.InboxWriter.save

    def save_twice(self, db, saved):
        save(self, db, saved)
        save(self, db, saved)

    monkeypatch.setattr(inbox.InboxWriter, "save", save_twice)


def forget_sessions_at_a_restart(monkeypatch):
    monkeypatch.setattr(inbox, "_HAS_SESSIONS", "SELECT 0")


def note_nothing_of_what_is_handed_out(monkeypatch):
    monkeypatch.setattr(inbox, "mark_handed_out", lambda _, events: dict.fromkeys(events, False))


def give_all_readers_the_same(monkeypatch):
    monkeypatch.setattr(Inboxes, "_leased_to_others", lambda *_: set())


def keep_what_readers_had_that_left(monkeypatch):
    monkeypatch.setattr(Inboxes, "_release_all", lambda *_: None)


def delete_nothing_that_was_acknowledged(monkeypatch):
    monkeypatch.setattr(inbox, "acknowledge", lambda *given: given[-1].events)


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (write_no_ends, "times: 0 are told"),
        (write_ends_again, "times: 2 are told"),
        (forget_sessions_at_a_restart, "times: 0 are told"),
        (note_nothing_of_what_is_handed_out, "twice, and not marked"),
        (give_all_readers_the_same, "two readers have"),
        (keep_what_readers_had_that_left, "are told|still there"),
        (delete_nothing_that_was_acknowledged, "was acknowledged, and is handed out again"),
    ],
)
def test_a_fault_of_inboxes_is_found(monkeypatch, fault, found):
    fault(monkeypatch)
    search(found, has_schedules=False, has_limits=False, has_inboxes=True)
