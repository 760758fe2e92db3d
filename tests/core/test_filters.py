"""Names in filters of jobs."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgd.core.filters import exact_name, named_states, read_queue
from bgd.core.job import State


@pytest.mark.parametrize(
    ("names", "states", "only_suspended"),
    [
        (["suspended"], [State.RUNNING], True),
        (["failed", "suspended"], [State.RUNNING, State.FAILED], True),
        (["suspended", "running"], [State.RUNNING], False),
        (["failed", "queued"], [State.QUEUED, State.FAILED], False),
        ([], [], False),
    ],
)
def test_suspended_means_only_those_of_the_running_jobs_unless_all_are_named(names, states, only_suspended):
    found, only = named_states(names)

    assert (set(found), only) == (set(states), only_suspended)


def test_a_filter_takes_only_names_that_a_queue_may_have():
    assert read_queue("mail") == "mail"
    with pytest.raises(ValueError, match="'no queue' is not a queue"):
        read_queue("no queue")


@given(st.text(st.sampled_from("a*?[]")), st.text(st.sampled_from("a*?[]")))
def test_an_exact_name_matches_no_other(name, other):
    assert fnmatchcase(other, exact_name(name)) == (other == name)
