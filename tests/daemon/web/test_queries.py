"""The language of the filter box: what it means, what is refused and with which words, and addresses."""

from __future__ import annotations

import pytest

from bgd.core.filters import ALL_STATES, MAX_WORDS, Filter, but_notifications
from bgd.core.job import FINAL, State
from bgd.daemon.web.queries import list_query, list_url, word_for
from bgd.wire.http import RequestRefused

NOW = 1_800_000_000.0


def wanted(address: str) -> Filter:
    return list_query(address).wanted(NOW)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("", Filter()),
        ("q=state:failed+-queue:mail", Filter(states=(State.FAILED,), without=(Filter(queue="mail"),))),
        # as fields
        (
            "state=failed&state=held&queue=mail&tag=x",
            Filter(states=(State.HELD, State.FAILED), queue="mail", tags=("x",)),
        ),
        ("name=night*&q=echo", Filter(name="night*", texts=("echo",))),
        ("q=queue:bgd-notifications", Filter(queue="bgd-notifications")),
        ("queue=&name=&q=", Filter()),
        ("since=17&at=3", Filter()),
    ],
)
def test_words_and_fields_select_jobs(address, expected):
    assert wanted(address) == but_notifications(expected)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("q=stat:failed", "There is no filter 'stat' (did you mean state?)."),
        ("state=bogus", "There is no state 'bogus' (known are blocked, cancelled, failed,"),
        (f"q={'x+' * (MAX_WORDS + 1)}", f"This filter has more than {MAX_WORDS} words."),
        ("sort=name", "There is no order 'name' (known are finished, priority, running)."),
        ("before=x", "before: 'x' must be a whole number from 1 to 9223372036854775807."),
        ("from=-1", "from: '-1' must be a whole number from 0 to 10000."),
        ("limit=1000000", "limit: '1000000' must be a whole number from 1 to 10000."),
        (f"after={2**63}", f"after: '{2**63}' must be a whole number from 0 to {2**63 - 1}."),
        (
            f"q=arg:*{'%3F' * 960}%C3%A9",
            "Parts of patterns that follow a star and have '?' may have 32",
        ),
    ],
)
def test_what_cannot_be_understood_is_refused_in_words(address, message):
    with pytest.raises(RequestRefused) as refused:
        list_query(address)

    assert refused.value.response.status == 400
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "q=state:failed,held+-queue:mail+night+%22two+words%22&sort=running&from=50",
        "state=failed&name=a%5B1-3%5D*&tag=two+words&limit=7&before=12",
        "q=name:night*+since:2h&after=0",
        "",
    ],
)
def test_the_address_of_a_query_means_the_same(address):
    query = list_query(address)
    again = list_query(list_url(query).partition("?")[2])

    assert again == query
    assert again.wanted(NOW) == query.wanted(NOW)


def test_changes_of_a_query_replace_words_and_leave_the_others():
    query = list_query("q=state:failed+echo+queue:mail&before=17")

    assert list_url(query, state=[State.HELD], before=None) == "/job-logs?q=echo+queue:mail+state:held"
    assert list_url(query, state=None, queue="two") == "/job-logs?q=echo+queue:two&before=17"
    assert list_url(query, "/live").startswith("/job-logs/live?q=state:failed+echo")
    assert wanted(list_url(query, state=sorted(FINAL)).partition("?")[2]).states == ALL_STATES[-3:]


def test_a_completed_name_is_that_name_alone():
    for name in ("nightly", "two words", 'say "hi"', r"a\b", "a*[1]?"):
        query = list_query(f"q={word_for('name', name)}".replace("+", "%2B"))
        assert query.wanted(NOW).name is not None
        assert query.words[0].is_exact
    assert word_for("name", "a*[1]?") == "name:=a[*][[]1][?]"
    assert word_for("tag", "two words") == 'tag:"two words"'
