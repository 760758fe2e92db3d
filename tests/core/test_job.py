from __future__ import annotations

from bgd.core.job import ACTIVE, FINAL, MOVES, Move, State


def test_every_state_has_its_row():
    assert set(MOVES) == set(State)


def test_a_finished_job_can_only_be_revived():
    assert {state: MOVES[state] for state in FINAL} == {state: {Move.REVIVE: State.QUEUED} for state in FINAL}


def test_only_a_queued_job_starts():
    assert [state for state in State if Move.START in MOVES[state]] == [State.QUEUED]


def test_every_unfinished_job_can_be_cancelled_or_asked_to_stop():
    unfinished = set(State) - FINAL
    assert all(MOVES[state].keys() & {Move.CANCEL, Move.STOP} for state in unfinished)


def test_an_active_job_leaves_its_slot_whatever_became_of_the_attempt():
    after_an_attempt = {Move.SUCCEED, Move.RETRY, Move.GIVE_UP, Move.REQUEUE, Move.SNOOZE}
    for state in ACTIVE:
        assert not {MOVES[state][move] for move in after_an_attempt} & ACTIVE
