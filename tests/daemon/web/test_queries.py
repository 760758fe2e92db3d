"""The language of the filter box: what it means, what is refused and with which words, and addresses."""

from __future__ import annotations

import pytest

from bgd.core.job import FINAL, State
from bgd.daemon.storage.lists import ALL_STATES, Filter
from bgd.daemon.web.queries import MAX_FILTER, MAX_WORDS, list_query, list_url, word_for
from bgd.wire.http import RequestRefused

NOW = 1_800_000_000.0


def wanted(address: str) -> Filter:
    return list_query(address).wanted(NOW)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("", Filter()),
        ("q=state:failed", Filter(states=(State.FAILED,))),
        ("q=state:failed,held+state:queued", Filter(states=(State.HELD, State.QUEUED, State.FAILED))),
        ("q=state:suspended", Filter(states=(State.RUNNING,), suspended=True)),
        ("q=state:suspended,running", Filter(states=(State.RUNNING,))),
        ("q=queue:mail", Filter(queue="mail")),
        ("q=name:night", Filter(name="*night*")),
        ("q=name:a[1]", Filter(name="*a[[]1]*")),
        ("q=name:night*", Filter(name="night*")),
        ('q=name:"night* ?"', Filter(name="*night[*] [?]*")),
        ("q=name:=[*][*]a***b*c*d*", Filter(name="[*][*]a***b*c*d*")),
        ("q=name:=nightly", Filter(name="nightly")),
        ('q=name:="two words"', Filter(name="two words")),
        ("q=tag:x+tag:y", Filter(tags=("x", "y"))),
        ("q=class:app.*", Filter(target="app.*")),
        ("q=exit:137", Filter(exit_code=137)),
        ("q=priority:-5", Filter(priority=-5)),
        ("q=since:2h", Filter(since=NOW - 7200)),
        ("q=until:2h", Filter(until=NOW - 7200)),
        ("q=since:1970-01-02T00:00Z", Filter(since=86_400.0)),
        ('q=two+"two words"+two', Filter(texts=("two", "two words"))),
        (r'q="a \"b\" \\"', Filter(texts=(r'a "b" \ '.strip(),))),
        ('q="state:failed"', Filter(texts=("state:failed",))),
        ("q=http://example.org/+12:30+app.x:y", Filter(texts=("http://example.org/", "12:30", "app.x:y"))),
        # as fields
        (
            "state=failed&state=held&queue=mail&tag=x",
            Filter(states=(State.HELD, State.FAILED), queue="mail", tags=("x",)),
        ),
        ("name=night*&q=echo", Filter(name="night*", texts=("echo",))),
        ("queue=&name=&q=", Filter()),
        ("since=17&at=3", Filter()),
    ],
)
def test_words_and_fields_select_jobs(address, expected):
    assert wanted(address) == expected


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "q=stat:failed",
            "There is no filter 'stat' (did you mean state?). Text that has a colon needs quotes.",
        ),
        (
            "q=std::vector",
            "There is no filter 'std' (known are class, exit, name, priority, queue, since, state, tag,",
        ),
        ("q=state:faild", "There is no state 'faild' (did you mean failed?)."),
        ("state=bogus", "There is no state 'bogus' (known are blocked, cancelled, failed,"),
        ("q=queue:a/b", "queue: 'a/b' is not a queue: a name of at most 64 letters,"),
        ("q=queue:a+queue:b", "queue: is given twice."),
        ("q=queue:", "'queue:' has no value."),
        ("q=queue:=mail", "only name:= has an equals sign"),
        ("q=exit:sigkill", "exit: 'sigkill' is not a whole number from 0 to 255."),
        ("q=exit:256", "exit: '256' is not a whole number from 0 to 255."),
        ("q=priority:1001", "priority: '1001' is not a whole number from -1000 to 1000."),
        (
            "q=since:noon",
            "since: 'noon' is neither an age such as 2h nor a date such as 2026-10-01 14:30.",
        ),
        ('q=name:"two words', "The quotes of 'name:\"two words' are not closed."),
        ('q="one"two', "The quotes of '\"one\"two' are not closed."),
        (f"q={'x' * (MAX_FILTER + 1)}", f"This filter is longer than {MAX_FILTER} characters."),
        (f"q={'x+' * (MAX_WORDS + 1)}", f"This filter has more than {MAX_WORDS} words."),
        ("q=name:*a*b*c*d*", "A pattern for names takes at most 4 stars: 'name:*a*b*c*d*'."),
        ("sort=name", "There is no order 'name' (known are finished, priority, running)."),
        ("before=x", "before: 'x' must be a whole number."),
        ("from=-1", "from: '-1' must be at least 0."),
        ("limit=1000000", "limit: '1000000' must be at most 10000."),
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
        "q=state:failed,held+queue:mail+night+%22two+words%22&sort=running&from=50",
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
        assert query.words[0].is_pattern
    assert word_for("name", "a*[1]?") == "name:=a[*][[]1][?]"
    assert word_for("tag", "two words") == 'tag:"two words"'
