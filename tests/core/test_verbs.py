from __future__ import annotations

from bgd.core.job import ACTIVE, FINAL, State
from bgd.core.verbs import VERBS


def test_each_verb_applies_to_some_states_and_the_usual_ones_are_among_them():
    for verb in VERBS.values():
        assert verb.states
        assert (verb.usual or verb.states) <= verb.states


def test_verbs_that_act_on_a_process_need_one_and_only_finished_jobs_are_removed():
    assert all(VERBS[name].states <= ACTIVE for name in ("suspend", "continue", "signal"))
    assert VERBS["remove"].states == VERBS["retry"].states == FINAL
    assert VERBS["retry"].usual == frozenset({State.FAILED})
