"""Bars of a timeline follow each other to scale, whatever the clock did; each event has words."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bgd.core.job import Move, Outcome, State
from bgd.core.scheduler import NOTE, SUBMIT
from bgd.daemon.web.timeline import LEAST_RUN, WIDTH, WORDS, timeline_of
from bgd.wire.views import AttemptView
from tests.client.scripted import view_of

JOB = replace(view_of(1), state=State.FAILED, created_at=100.0, attempt=2)


def attempt(
    number: int, started: float | None, finished: float | None, outcome: Outcome | None
) -> AttemptView:
    fields: dict[str, Any] = dict.fromkeys(AttemptView.__struct_fields__)
    fields |= {"attempt": number, "started_at": started, "finished_at": finished, "outcome": outcome}
    return AttemptView(**fields | {"log_path": "1.1", "exit_code": 1})


def looks(timeline) -> list[tuple[str, float, float]]:
    return [(bar["look"], bar["x"], bar["width"]) for bar in timeline["bars"]]


def test_waits_runs_and_backoffs_are_to_scale():
    ended = [attempt(1, 110, 120, Outcome.EXIT), attempt(2, 180, 200, Outcome.SUCCEEDED)]
    timeline = timeline_of(JOB, ended, now=300.0)

    assert timeline is not None
    assert looks(timeline) == [
        ("wait", 0, 100),
        ("failed", 100, 100),
        ("backoff", 200, 600),
        ("succeeded", 800, 200),
    ]
    assert timeline["text"] == (
        "waited 10s; attempt 1: exit code 1; 1m until attempt 2; attempt 2: succeeded"
    )


def test_a_job_that_runs_or_waits_goes_on_until_now():
    first = attempt(1, 100, 150, Outcome.EXIT)
    running = replace(JOB, state=State.RUNNING)
    queued = replace(JOB, state=State.QUEUED)

    runs = timeline_of(running, [first, attempt(2, 150, None, None)], 200.0)
    waits = timeline_of(queued, [first], 200.0)
    assert looks(runs) == [("failed", 0, 500), ("running", 500, 500)]
    assert looks(waits) == [("failed", 0, 500), ("wait", 500, 500)]
    assert [timeline and timeline["end"] for timeline in (runs, waits)] == [None, None]
    suspended = timeline_of(replace(running, suspended=True), [attempt(2, 150, None, None)], 200.0)
    assert suspended is not None
    assert suspended["text"] == "attempt 2: suspended, started 50s ago"
    ended = timeline_of(JOB, [first], 200.0)
    assert ended is not None
    assert ended["end"] is not None


def test_a_short_run_is_still_seen_and_what_is_due_is_part_of_the_scale():
    due = replace(JOB, state=State.SCHEDULED, due_at=10_000.0, attempt=1)
    timeline = timeline_of(due, [attempt(1, 100.0, 100.1, Outcome.EXIT)], 101.0)

    assert timeline is not None
    assert [bar["look"] for bar in timeline["bars"]] == ["failed", "pending"]
    assert timeline["bars"][0]["width"] == LEAST_RUN
    assert timeline["bars"][1]["title"] == "attempt 2 is due 2h45m later"


def test_a_job_without_attempts_has_no_timeline():
    assert timeline_of(JOB, [], 1.0) is None


instants = st.none() | st.floats(0, 1000)


@given(
    st.lists(st.tuples(instants, instants, st.sampled_from([Outcome.EXIT, Outcome.NOT_STARTED])), min_size=1),
    st.sampled_from(State),
    instants,
)
def test_bars_stay_in_the_picture_whatever_the_clock_did(times, state, due):
    attempts = [attempt(number, *each) for number, each in enumerate(times, start=1)]
    timeline = timeline_of(replace(JOB, state=state, due_at=due), attempts, 500.0)

    assert timeline is not None
    for bar in timeline["bars"]:
        assert 0 <= bar["x"] <= bar["x"] + bar["width"] <= WIDTH + 0.1


def test_each_move_has_words():
    assert WORDS.keys() == {SUBMIT, NOTE, *Move}
