"""What is told: failures once, recoveries once, and everything beyond a limit in one summary."""

from __future__ import annotations

from collections import Counter, deque
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bgd.core.job import Outcome
from bgd.core.notifications import (
    MAX_SUBJECTS,
    NO_STREAK,
    WINDOW,
    Counted,
    Decisions,
    Fact,
    Message,
    NotifyEvent,
    NotifyRule,
    Streak,
    StreakKey,
    Waiting,
    decide,
    event_to_send,
    fact_of_calls,
    instant,
    room,
    room_at,
)

EVERYTHING = NotifyRule(on=tuple(NotifyEvent), per_minute=1000)
MESSAGE = Message(
    id="0123456789abcdef",
    event=NotifyEvent.SUMMARY,
    at=datetime(2026, 11, 27, 3, 0, tzinfo=UTC),
    target="ops",
    subject="12 notifications",
    summary=(Counted(event=NotifyEvent.FAILED, count=12, subjects=("nightly",)),),
)
SAME_ID = "0" * 32
ROOM = {"ops": 1000, "pager": 1000}
FAILED, SUCCEEDED, RECOVERED = NotifyEvent.FAILED, NotifyEvent.SUCCEEDED, NotifyEvent.RECOVERED


def fact(event=FAILED, **fields):
    return Fact(**{"event": event, "at": 5.0, "target": "ops", "job": 7, "name": "backup", **fields})


def judged(facts, rules=None, streaks=None, room=None, waiting=None) -> Decisions:
    rules = {"ops": EVERYTHING, "pager": EVERYTHING} if rules is None else rules
    room = ROOM if room is None else room
    return decide(facts, streaks or {}, rules, room, waiting or {}, lambda: SAME_ID)


def events(history: str, rule: NotifyRule) -> list[NotifyEvent | None]:
    """Return what is told about failures (f) and successes (s) of one subject."""
    streak, found = NO_STREAK, []
    for letter in history:
        event, streak = event_to_send(FAILED if letter == "f" else SUCCEEDED, streak, rule)
        found.append(event)
    return found


# --- messages as JSON -------------------------------------------------------------------------------------


def test_a_message_survives_its_way_as_json():
    assert msgspec.json.decode(msgspec.json.encode(MESSAGE), type=Message) == MESSAGE


def test_its_time_is_written_as_iso_8601():
    assert msgspec.to_builtins(MESSAGE)["at"] == "2026-11-27T03:00:00Z"


@pytest.mark.parametrize("wrong", ["", "12", "0123456789abcdef\nBcc: eve@example.org", "A" * 16])
def test_an_id_is_hexadecimal(wrong):
    with pytest.raises(msgspec.ValidationError, match="id"):
        msgspec.convert(msgspec.to_builtins(MESSAGE) | {"id": wrong}, Message)


# --- streaks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("history", "failures", "on", "expected"),
    [
        ("fff", 1, [FAILED], [FAILED, None, None]),
        ("ffff", 3, [FAILED], [None, None, FAILED, None]),
        ("ffsff", 3, [FAILED, RECOVERED], [None] * 5),
        ("fsfs", 1, [FAILED, RECOVERED], [FAILED, RECOVERED, FAILED, RECOVERED]),
        ("fssf", 1, [FAILED], [FAILED, None, None, FAILED]),
        ("ffss", 2, [RECOVERED], [None, None, RECOVERED, None]),
        ("sfss", 1, [FAILED, SUCCEEDED], [SUCCEEDED, FAILED, SUCCEEDED, SUCCEEDED]),
        ("sfss", 1, list(NotifyEvent), [SUCCEEDED, FAILED, RECOVERED, SUCCEEDED]),
    ],
)
def test_failures_are_told_once_and_so_is_the_recovery(history, failures, on, expected):
    assert events(history, NotifyRule(on=tuple(on), failures=failures)) == expected


@given(st.text("fs", max_size=30), st.integers(1, 4))
def test_a_failure_and_a_recovery_are_told_in_turns(history, failures):
    found = events(history, NotifyRule(on=(FAILED, RECOVERED), failures=failures))

    spoken = [event for event in found if event is not None]
    assert spoken == ([FAILED, RECOVERED] * len(spoken))[: len(spoken)]
    for streak in history.split("s"):
        assert (len(streak) >= failures) <= (FAILED in spoken), "a long streak is told"
    in_a_row = 0
    for letter, event in zip(history, found, strict=True):
        in_a_row = in_a_row + 1 if letter == "f" else 0
        assert (event is FAILED) == (in_a_row == failures), "at the failure that completes the streak"


def test_a_lower_limit_of_failures_holds_for_a_streak_that_has_begun():
    assert event_to_send(FAILED, Streak(4), NotifyRule(failures=3)) == (FAILED, Streak(5, is_notified=True))


@pytest.mark.parametrize("event", [NotifyEvent.MISSED, NotifyEvent.LATE, NotifyEvent.STARTED])
def test_other_facts_are_told_each_time_and_change_no_streak(event):
    streak = Streak(2, is_notified=True)

    assert event_to_send(event, streak, NotifyRule(on=(event,))) == (event, streak)
    assert event_to_send(event, streak, NotifyRule()) == (None, streak)


# --- facts become messages --------------------------------------------------------------------------------


def test_a_message_says_what_is_known_of_the_fact():
    known = {
        "job": 3,
        "name": "db",
        "schedule": "nightly",
        "queue": "q",
        "outcome": Outcome.EXIT,
        "exit_code": 2,
        "signal": 15,
        "attempts": 4,
        "reason": "why",
        "count": 2,
    }
    what = fact(at=9.0, due_at=8.0, **known)
    (message,) = judged([what], streaks={("ops", what.streak): Streak(1)}).messages

    assert {name: getattr(message, name) for name in known} == known
    assert (message.event, message.target, message.subject, message.failures) == (FAILED, "ops", "nightly", 2)
    assert (message.at, message.due_at) == (instant(9.0), instant(8.0))
    assert (message.id, message.command, message.log, message.summary) == (SAME_ID, None, None, None)


def test_the_subject_is_the_schedule_or_the_name_or_the_job():
    assert [fact(schedule="nightly").subject, fact().subject, fact(name=None).subject] == [
        "nightly",
        "backup",
        "job 7",
    ]


def test_streaks_are_kept_apart_by_target_and_subject_and_end_with_a_success():
    facts = [fact(), fact(target="pager"), fact(name="other"), fact(), fact(SUCCEEDED, target="pager")]

    decisions = judged(facts)

    assert [(each.target, each.subject, each.event) for each in decisions.messages] == [
        ("ops", "backup", FAILED),
        ("pager", "backup", FAILED),
        ("ops", "other", FAILED),
        ("pager", "backup", RECOVERED),
    ]
    assert decisions.messages[-1].failures == 1
    assert decisions.streaks == {
        ("ops", "name backup"): Streak(2, is_notified=True),
        ("pager", "name backup"): NO_STREAK,
        ("ops", "name other"): Streak(1, is_notified=True),
    }


def test_a_schedule_a_name_and_a_job_without_one_share_no_streak():
    alike = [fact(schedule="job"), fact(name="job"), fact(name="job 7"), fact(name=None)]
    alike += [fact(name="name job"), fact(name="schedule job")]

    assert [each.event for each in judged(alike).messages] == [FAILED] * len(alike)
    assert len(judged(alike).streaks) == len(alike)


def test_a_success_of_a_job_with_the_name_of_a_schedule_is_no_recovery_of_the_schedule():
    facts = [fact(schedule="nightly", name="nightly"), fact(SUCCEEDED, name="nightly")]

    assert [message.event for message in judged(facts).messages] == [FAILED, SUCCEEDED]


def test_a_streak_without_a_name_belongs_to_its_job():
    decisions = judged([fact(name=None), fact(SUCCEEDED, name="fine")])

    assert decisions.streaks == {("ops", "job 7"): Streak(1, is_notified=True, job=7)}


def test_facts_of_unknown_targets_are_told_to_nobody():
    decisions = judged([fact(target="gone"), fact(target=None), fact()])

    assert [message.target for message in decisions.messages] == ["ops"]
    assert decisions.unknown == {"gone", ""}


# --- limits -----------------------------------------------------------------------------------------------


def test_messages_beyond_the_limit_wait_for_one_summary():
    facts = [fact(name=f"job {number % 50}", job=number) for number in range(100)]
    facts += [fact(NotifyEvent.MISSED), fact(target="pager")]

    decisions = judged(facts, room={"ops": 3, "pager": 1})

    assert Counter(message.target for message in decisions.messages) == {"ops": 3, "pager": 1}
    assert [message.subject for message in decisions.messages[:3]] == ["job 0", "job 1", "job 2"]
    assert len(decisions.streaks) == 51, "also of those that wait"
    summary = decisions.waiting["ops"].message(99.0, "abcdef01")
    assert (summary.id, summary.event, summary.target) == ("abcdef01", NotifyEvent.SUMMARY, "ops")
    assert summary.at.timestamp() == 99.0
    assert summary.subject == "48 notifications"
    first = tuple(f"job {number}" for number in range(3, 3 + MAX_SUBJECTS))
    assert summary.summary == (
        Counted(event=FAILED, count=47, subjects=first),
        Counted(event=NotifyEvent.MISSED, count=1, subjects=("backup",)),
    )


def test_the_only_message_that_waits_is_told_as_it_is():
    decisions = judged([fact()], room={})

    assert decisions.messages == []
    message = decisions.waiting["ops"].message(99.0, "abcdef01")
    assert (message.id, message.event, message.at.timestamp(), message.job) == (SAME_ID, FAILED, 5.0, 7)


def test_what_comes_later_waits_behind_what_waits_already():
    waiting = judged([fact()], room={}).waiting

    decisions = judged([fact(NotifyEvent.LATE), fact(NotifyEvent.LATE)], waiting=waiting)

    assert decisions.messages == []
    assert decisions.waiting["ops"].counts == (
        Counted(event=FAILED, count=1, subjects=("backup",)),
        Counted(event=NotifyEvent.LATE, count=2, subjects=("backup",)),
    )


@given(
    st.lists(st.sampled_from([FAILED, SUCCEEDED, NotifyEvent.MISSED]), max_size=60),
    st.integers(0, 5),
    st.data(),
)
def test_facts_are_told_the_same_however_they_are_divided(history, room, data):
    facts = [fact(event, name=f"n{number % 3}", job=number) for number, event in enumerate(history)]
    whole = judged(facts, room={"ops": room})

    messages: list[Message] = []
    streaks: dict[StreakKey, Streak] = {}
    waiting: dict[str, Waiting] = {}
    left = facts
    while left:
        size = data.draw(st.integers(1, len(left)))
        some, left = left[:size], left[size:]
        part = judged(some, streaks=streaks, room={"ops": room - len(messages)}, waiting=waiting)
        messages += part.messages
        streaks |= part.streaks
        waiting |= part.waiting

    assert messages == whole.messages
    assert waiting == whole.waiting
    assert {key: each for key, each in streaks.items() if each != NO_STREAK} == {
        key: each for key, each in whole.streaks.items() if each != NO_STREAK
    }
    told_in_all = (
        len(messages) + sum(each.count for each in waiting["ops"].counts) if waiting else len(messages)
    )
    assert told_in_all == len(judged(facts).messages), "nothing is lost and nothing is told twice"


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 4))
def test_no_minute_has_more_messages_than_allowed(pauses, per_minute):
    sent, at, instants = deque[float](), 0.0, []
    for pause in pauses:
        at += pause
        if room(sent, at, per_minute):
            sent.append(at)
            instants.append(at)
        else:
            free_at = room_at(sent, per_minute)
            assert at < free_at <= at + WINDOW
            assert room(deque(instants), free_at, per_minute) > 0

    for first in instants:
        assert sum(first <= other < first + WINDOW for other in instants) <= per_minute


def test_a_message_need_not_wait_once_the_minute_is_over():
    sent = deque([1.0])

    assert room(sent, 1.0 + WINDOW, 1) == 1
    assert room_at(sent, 1) <= 1.0 + WINDOW


def test_a_lower_limit_counts_what_was_sent_before():
    sent = deque([1.0, 2.0, 3.0])

    assert room(sent, 10.0, 2) == 0
    assert room_at(sent, 2) == 2.0 + WINDOW
    assert room(sent, 2.0 + WINDOW, 2) == 1
    assert replace(EVERYTHING, per_minute=2).per_minute == 2


def test_paused_calls_are_a_failure_and_calls_that_go_on_a_success():
    paused = fact_of_calls("app.x", "ops", 5.0, "paused after 3 failures in 10m")
    recovered = fact_of_calls("app.x", "ops", 9.0, None)

    assert (paused.event, paused.at, paused.reason) == (
        NotifyEvent.FAILED,
        5.0,
        "paused after 3 failures in 10m",
    )
    assert (recovered.event, recovered.at, recovered.reason) == (NotifyEvent.SUCCEEDED, 9.0, None)
    assert paused.target == recovered.target == "ops"
    assert paused.streak == recovered.streak == "name calls to app.x"
