"""The language of filters: what its words mean, and with which words they are refused."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bgd.core.filters import (
    FILTERS,
    MAX_WORDS,
    Filter,
    both,
    but_notifications,
    exact_name,
    filter_of,
    named_states,
    parse_words,
    words_for,
)
from bgd.core.job import Job, JobId, RetryPolicy, State
from bgd.core.spec import MAX_FILTER, MAX_ID, NOTIFICATION_QUEUE, QueueName
from bgd.text.units import reader_of


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
    assert reader_of(QueueName)("mail") == "mail"
    with pytest.raises(ValueError, match="'no queue' must be a name of at most 64"):
        reader_of(QueueName)("no queue")


@given(st.text(st.sampled_from("a*?[]")), st.text(st.sampled_from("a*?[]")))
def test_an_exact_name_matches_no_other(name, other):
    assert fnmatchcase(other, exact_name(name)) == (other == name)


NOW = 1_800_000_000.0


def without(*filters):
    return Filter(without=filters)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", Filter()),
        ("state:failed", Filter(states=(State.FAILED,))),
        ("state:failed,held state:queued", Filter(states=(State.HELD, State.QUEUED, State.FAILED))),
        ("state:suspended", Filter(states=(State.RUNNING,), suspended=True)),
        ("state:suspended,running", Filter(states=(State.RUNNING,))),
        ("queue:mail", Filter(queue="mail")),
        ("name:night", Filter(name_parts=("night",))),
        ("name:a[1]", Filter(name_parts=("a[1]",))),
        ("name:night*", Filter(name="night*")),
        ('name:"night* ?"', Filter(name_parts=("night* ?",))),
        ("name:=[*][*]a***b*c*d*", Filter(name="[*][*]a***b*c*d*")),
        ("name:=nightly", Filter(name="nightly")),
        ('name:="two words"', Filter(name="two words")),
        ("tag:x tag:y", Filter(tags=("x", "y"))),
        ("class:app.*", Filter(target="app.*")),
        ("exit:137", Filter(exit_code=137)),
        ("priority:-5", Filter(priority=-5)),
        ("since:2h", Filter(since=NOW - 7200)),
        ("until:2h", Filter(until=NOW - 7200)),
        ("since:1970-01-02T00:00Z", Filter(since=86_400.0)),
        ('two "two words" two', Filter(texts=("two", "two words"))),
        (r'"a \"b\" \\"', Filter(texts=(r'a "b" \ '.strip(),))),
        ('"state:failed"', Filter(texts=("state:failed",))),
        ("http://example.org/ 12:30 app.x:y", Filter(texts=("http://example.org/", "12:30", "app.x:y"))),
        ("name:a name:b", Filter(name_parts=("a", "b"))),
        ("arg:id=4* arg:x", Filter(args=("id=4*", "x"))),
        (f"arg:{'?' * 99}*?{'a' * 31}*[", Filter(args=(f"{'?' * 99}*?{'a' * 31}*[",))),
        (f"class:*[{'ab' * 9}]*{'a' * 99}", Filter(target=f"*[{'ab' * 9}]*{'a' * 99}")),
        ("error:refused", Filter(errors=("refused",))),
        ("error:=refused", Filter(exact_error="refused")),
        (f'error:="{"a" * 99} b\nc"', Filter(exact_error=f"{'a' * 99} ")),
        ('error:=""', Filter(exact_error="")),
        ('name:=""', Filter(has_name=False)),
        ("class:=app:Report", Filter(exact_target="app:Report")),
        (f"class:=*{'?' * 99}", Filter(exact_target=f"*{'?' * 99}")),
        ("outcome:not_started", Filter(outcome="not_started")),
        ("-outcome:none", without(Filter(outcome="none"))),
        ("signal:KILL", Filter(signal=9)),
        ("signal:sigterm", Filter(signal=15)),
        ("signal:34", Filter(signal=34)),
        ("finished:1d", Filter(finished=NOW - 86_400)),
        ("id:5", Filter(ids=frozenset({range(5, 6)}))),
        ("id:5-7,9,12-", Filter(ids=frozenset({range(5, 8), range(9, 10), range(12, MAX_ID + 1)}))),
        # what is not wanted
        ("-queue:a -queue:b", Filter(without=(Filter(queue="a"), Filter(queue="b")))),
        ('-name:=x -tag:"a b"', without(Filter(name="x"), Filter(tags=("a b",)))),
        ("queue:a -priority:5", replace(without(Filter(priority=5)), queue="a")),
        ("-state:failed,cancelled", Filter(states=tuple(State)[:-2])),
        ("state:failed,held -state:held", Filter(states=(State.FAILED,))),
        ("-state:suspended", Filter(suspended=False)),
        ("state:running -state:suspended", Filter(states=(State.RUNNING,), suspended=False)),
        ("state:suspended -state:suspended", Filter(states=(), suspended=True)),
        ("--archive -v -http://a", Filter(texts=("--archive", "-v", "-http://a"))),
    ],
)
def test_words_select_jobs(words, expected):
    assert filter_of(parse_words(words), NOW) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "stat:failed",
            "There is no filter 'stat' (did you mean state?). Text that has a colon needs quotes.",
        ),
        (
            "std::vector",
            "There is no filter 'std' (known are arg, batch, class, error, exit, finished, id, name,",
        ),
        ("state:faild", "There is no state 'faild' (did you mean failed?)."),
        ("queue:a/b", "queue: 'a/b' must be a name of at most 64 letters,"),
        ("queue:a queue:b", "The filter has two values for queue."),
        ("queue:", "'queue:' has no value."),
        ("queue:=mail", "only name:=, class:= and error:= have an equals sign"),
        ('queue:""', "'queue:\"\"' has no value."),
        ("outcome:exits", "outcome: there is no outcome 'exits' (did you mean exit?)."),
        *(
            (
                f"signal:{text}",
                f"signal: {text!r} is neither a signal nor a number from 1 to 64; ",
            )
            for text in ("SIG", "0", "65", "-9")
        ),
        *(
            (f"id:{text}", f"id: {text!r} has no ids such as 64, 64-363 or 64-.")
            for text in ("0", "x", "5,", "-5", "5-0", "5--6", "1" * 19)
        ),
        ("exit:sigkill", "exit: 'sigkill' must be a whole number from 0 to 255."),
        ("exit:256", "exit: '256' must be a whole number from 0 to 255."),
        ("priority:1001", "priority: '1001' must be a whole number from -1000 to 1000."),
        (
            "since:noon",
            "since: 'noon' is neither an age such as 2h nor a date such as 2026-10-01 14:30.",
        ),
        ('name:"two words', "The quotes of 'name:\"two words' are not closed."),
        ('"one"two', "The quotes of '\"one\"two' are not closed."),
        (f"{'x' * (MAX_FILTER + 1)}", f"This filter is longer than {MAX_FILTER} characters."),
        (f"{'x ' * (MAX_WORDS + 1)}", f"This filter has more than {MAX_WORDS} words."),
        ("name:*a*b*c*d*", "A pattern for names takes at most 4 stars: 'name:*a*b*c*d*'."),
        *(
            (
                words,
                "Parts of patterns that follow a star and have '?' may have 32 characters in all.",
            )
            for words in (
                f"arg:*{'?' * 33}",
                f"-class:*[*]?{'b' * 31}*",
                f"arg:*?{'a' * 15}*x class:**?{'b' * 16}",
            )
        ),
        ("-stat:failed", "There is no filter 'stat' (did you mean state?)."),
        ("-state:faild", "There is no state 'faild' (did you mean failed?)."),
    ],
)
def test_words_that_cannot_be_understood_are_refused_in_a_sentence(words, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        filter_of(parse_words(words), NOW)


def test_every_key_is_for_a_field_of_the_filter():
    assert {key.field for key in FILTERS.values()} <= set(Filter.__struct_fields__)


def test_two_filters_are_for_the_jobs_that_both_want():
    one = Filter(states=(State.HELD, State.FAILED), queue="mail", tags=("a",))
    other = Filter(states=(State.FAILED, State.QUEUED), since=3.0, tags=("b", "a"))

    assert both(one, other) == Filter(states=(State.FAILED,), queue="mail", since=3.0, tags=("a", "b"))


@pytest.mark.parametrize(("state", "suspended", "has"), [("held", None, True), ("running", True, False)])
def test_a_job_that_changed_is_no_longer_wanted(state, suspended, has):
    wanted = Filter(states=(State.HELD, State.RUNNING), suspended=suspended)

    assert wanted.has(Job(JobId(1), State(state), "default", 0, RetryPolicy())) is has


def test_notifications_are_wanted_only_by_the_name_of_their_queue():
    own = Filter(queue=NOTIFICATION_QUEUE)

    assert but_notifications(Filter(name="a")) == Filter(name="a", without=(own,))
    assert but_notifications(own) == own


def test_words_are_written_so_that_they_are_read_again():
    for key, value in (("tag", 'two "words"'), ("queue", "mail"), ("name", r"a\*b")):
        [word] = words_for(key, [value])
        assert parse_words(word.text) == [word]
