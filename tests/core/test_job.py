from __future__ import annotations

from bgd.core.job import ACTIVE, FINAL, MOVES, VERBS, Move, State


def test_every_state_has_its_row():
    assert set(MOVES) == set(State)


def test_a_finished_job_can_only_wait_again():
    again = {Move.REVIVE: State.QUEUED, Move.BLOCK: State.BLOCKED, Move.DEFER: State.SCHEDULED}
    assert {state: MOVES[state] for state in FINAL} == dict.fromkeys(FINAL, again)


def test_only_a_queued_job_starts():
    assert [state for state in State if Move.START in MOVES[state]] == [State.QUEUED]


def test_every_unfinished_job_can_be_cancelled_or_asked_to_stop():
    unfinished = set(State) - FINAL
    assert all(MOVES[state].keys() & {Move.CANCEL, Move.STOP} for state in unfinished)


def test_an_active_job_leaves_its_slot_whatever_became_of_the_attempt():
    after_an_attempt = {Move.SUCCEED, Move.RETRY, Move.GIVE_UP, Move.REQUEUE, Move.SNOOZE}
    for state in ACTIVE:
        assert not {MOVES[state][move] for move in after_an_attempt} & ACTIVE


def test_each_verb_applies_to_some_states_and_the_usual_ones_are_among_them():
    for verb in VERBS.values():
        assert verb.states
        assert (verb.usual or verb.states) <= verb.states


def test_a_selection_that_names_no_state_has_the_usual_ones():
    assert VERBS["retry"].states_in(list(State)) == {State.FAILED}
    assert VERBS["retry"].states_in([State.CANCELLED, State.RUNNING]) == {State.CANCELLED}
    assert VERBS["remove"].states_in(list(State)) == FINAL


def test_verbs_that_act_on_a_process_need_one_and_only_finished_jobs_are_removed():
    assert all(VERBS[name].states <= ACTIVE for name in ("suspend", "signal"))
    assert VERBS["continue"].states == {State.RUNNING, State.HELD}
    assert VERBS["remove"].states == VERBS["retry"].states == FINAL
    assert VERBS["retry"].usual == frozenset({State.FAILED})
