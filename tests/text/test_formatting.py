"""Jobs in words for people."""

from __future__ import annotations

import re
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from bgctl.tables import local_time
from bgd.core.explain import Cause, Explanation, Reason
from bgd.core.job import Outcome, State
from bgd.text.brief import percent, progress_line, quoted, run_time, short_duration
from bgd.text.facts import facts_of
from bgd.text.formatting import (
    _NOT_STARTED,
    explanation_as_json,
    iso_time,
    number_ranges,
    retries_line,
    state_in_words,
)
from bgd.wire.launching import NotStarted
from bgd.wire.views import Progress
from tests.client.scripted import view_of


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-0.2, "0ms"),
        (0.0123, "12ms"),
        (3.46, "3.5s"),
        (59, "59s"),
        (60, "1m"),
        (95, "1m35s"),
        (3600, "1h"),
        (3605, "1h"),
        (7500, "2h5m"),
        (90_000, "1d1h"),
        (86_400 * 400, "400d"),
    ],
)
def test_a_duration_is_formatted_in_its_two_largest_units(seconds, words):
    assert short_duration(seconds) == words


@given(st.floats(min_value=0, max_value=1e9))
def test_every_duration_takes_a_few_characters(seconds):
    assert re.fullmatch(r"(\d+(\.\d)?(ms|[dhms])){1,2}", short_duration(seconds))


def test_an_instant_is_local_and_relative_for_people_and_utc_for_programs():
    assert local_time(1_000_000.0, now=1_000_060.0).endswith(" (1m ago)")
    assert local_time(1_000_060.0, now=1_000_000.0).endswith(" (in 1m)")
    assert local_time(None, now=0.0) == "-"
    assert iso_time(1_000_000.5) == "1970-01-12T13:46:40.500Z"
    assert iso_time(None) is None


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (None, ""),
        (Progress(0.4), "40%"),
        (Progress(0.4, "reading"), "40% reading"),
        (Progress(None, "a\nb\x1b[2J"), "a␊b␛[2J"),
        (Progress(0.0), "0%"),
    ],
)
def test_progress_is_formatted_on_one_line(progress, line):
    assert progress_line(progress) == line


@pytest.mark.parametrize(
    ("fraction", "whole"), [(0.0, 0), (0.29, 29), (0.57, 57), (0.999, 99), (1.0, 100), (1 / 3, 33)]
)
def test_percents_are_rounded_down(fraction, whole):
    assert percent(fraction) == whole


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        ({"retries": 0}, "none"),
        ({"retries": 0, "rerun": True}, "none; rerun if the outcome is lost"),
        ({"retries": 3}, "3, 5s apart, jitter 10%"),
        ({"retries": 3, "jitter": 0.0}, "3, 5s apart"),
        ({"retries": 3, "rerun": True}, "3, 5s apart, jitter 10%"),
        ({"retries": 3, "rerun": False}, "3, 5s apart, jitter 10%, not if the outcome is lost"),
        (
            {"retries": 3, "backoff": 2.0, "max_delay": 60.0},
            "3, 5s apart, times 2 each, at most 1m, jitter 10%",
        ),
        ({"retries": 1, "retry_on": [75, 3, 4]}, "1, 5s apart, jitter 10%, only after 3-4, 75"),
        ({"retries": 1, "no_retry_on": [2]}, "1, 5s apart, jitter 10%, not after 2"),
        ({"retries": 1, "retry_on": []}, "1, 5s apart, jitter 10%, only after none"),
    ],
)
def test_retries_are_formatted_with_all_their_conditions(policy, line):
    assert retries_line(replace(view_of(1), retry_delay=5.0, **policy)) == line


def test_run_time_is_the_measured_one_whatever_the_wall_clock_says():
    set_back = {"started_at": 1_790_000_000.0, "finished_at": 1.0, "run_seconds": 90.0}

    assert run_time(replace(view_of(1), **set_back)) == "1m30s"
    assert run_time(replace(view_of(1), **set_back | {"run_seconds": None})) == ""  # unknown
    assert run_time(replace(view_of(1, State.SCHEDULED), **set_back)) == ""  # between two attempts


def test_rules_are_formatted_on_one_line():
    job = replace(view_of(1), on_exceptions={"OSError": "retry", "app.Gone": "fail"})

    assert dict(facts_of(job))["on errors"] == "OSError: retry, app.Gone: fail"
    assert "on errors" not in dict(facts_of(view_of(1)))


def test_consecutive_numbers_become_a_range():
    assert number_ranges([12, 3, 4, 5, 9]) == "3-5, 9, 12"
    assert number_ranges([]) == ""


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("a-b=c/d.e", "a-b=c/d.e"),
        ("größe", "größe"),
        ("two words", "'two words'"),
        ("", "''"),
        ("it's", '"it\'s"'),
        ("it's $x", '"it\'s \\$x"'),
        ("it's!", "'it'\\''s!'"),
        ('"$a" "$b" it\'s', "'\"$a\" \"$b\" it'\\''s'"),
    ],
)
def test_a_word_is_quoted_readably(word, text):
    assert quoted(word) == text


@settings(max_examples=40)
@given(st.text(st.sampled_from("ab é'\"$`!\\\n~#*;&|<>(){}[]?=%^-"), max_size=12))
def test_a_shell_reads_a_quoted_word_as_it_was(word):
    done = subprocess.run(
        ["/bin/sh", "-c", f"printf '%s.' {quoted(word)}"], capture_output=True, text=True, check=True
    )

    assert done.stdout == f"{word}."


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("running", {"state": State.RUNNING}),
        ("suspended", {"state": State.RUNNING, "suspended": True}),
        ("expired", {"state": State.CANCELLED, "reason": "expired: it could not start in time"}),
        ("cancelled", {"state": State.CANCELLED, "reason": "cancelled by a person"}),
        ("failed (3)", {"outcome": Outcome.EXIT, "exit_code": 3}),
        ("failed (SIGSEGV)", {"outcome": Outcome.SIGNAL, "signal": 11}),
        ("failed (signal 40)", {"outcome": Outcome.SIGNAL, "signal": 40}),
        ("failed (ReportError)", {"outcome": Outcome.ERROR, "problem": "app.errors.ReportError: no data"}),
        ("failed (E\u241b<U+202E>)", {"outcome": Outcome.ERROR, "problem": "E\x1b\u202e: no data"}),
        ("failed", {"outcome": Outcome.ERROR}),
        ("failed", {"outcome": Outcome.CANCELLED}),
        ("no program", {"outcome": Outcome.NOT_STARTED, "problem": "program not found: nosuch"}),
        ("not executable", {"outcome": Outcome.NOT_STARTED, "problem": "not executable: x"}),
        ("not started", {"outcome": Outcome.NOT_STARTED}),
        ("timeout", {"outcome": Outcome.TIMEOUT}),
        ("log limit", {"outcome": Outcome.LOG_LIMIT}),
        ("out of memory", {"outcome": Outcome.OOM}),
        ("outcome unknown", {"outcome": Outcome.UNKNOWN}),
        ("waiting for a node", {"state": State.RUNNING, "needs_node": True}),
        ("suspended", {"state": State.RUNNING, "needs_node": True, "suspended": True}),
    ],
)
def test_a_state_says_why(words, changes):
    assert state_in_words(replace(view_of(1), **({"state": State.FAILED} | changes))) == words


def test_the_short_words_are_of_problems_that_the_launcher_reports():
    assert _NOT_STARTED.keys() <= set(NotStarted)


def test_what_a_job_waits_for_has_the_same_words_in_json():
    reasons = (Reason(cause=Cause.HOLD, subject="7"), Reason(cause=Cause.TIME, at=1.5))

    document = explanation_as_json(Explanation(reasons=reasons, likely_start_at=2.0))

    assert document["why_waiting"] == "until `bgctl release 7`, then until 1970-01-01T00:00:01.500Z"
    assert document["likely_start_at"] == "1970-01-01T00:00:02.000Z"
    assert document["reasons"] == [
        replaced("hold", subject="7", words="until `bgctl release 7`"),
        replaced("time", at=iso_time(1.5), words="until 1970-01-01T00:00:01.500Z"),
    ]
    assert explanation_as_json(Explanation()) == {
        "why_waiting": None,
        "reasons": [],
        "likely_start_at": None,
    }


def replaced(cause, **changes):
    """Return a reason for JSON with these values, and defaults for the others."""
    fields = asdict(Reason(cause=Cause(cause)))
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()
    } | changes
