"""The history of a job in words: events, times and users."""

from __future__ import annotations

from bgd.core.job import Move
from bgd.core.scheduler import NOTE, SUBMIT
from bgd.formatting import outcome_in_words
from bgd.wire.views import AttemptView, EventView, JobView

MAX_SHOWN = 50  # of the newest events


def history_of(view: JobView, events: list[EventView], attempts: list[AttemptView]) -> dict[str, object]:
    """Return the newest events of a job for the template history.html, the newest last.

    `attempts`: those whose outcomes are known. `by`: the user behind an event; None: bgd itself.
    """
    outcomes = {each.attempt: outcome_in_words(each) for each in attempts}
    shown = events[-MAX_SHOWN:]
    lines = [
        {
            "at": event.at,
            "what": WORDS[event.what].format(
                attempt=f"attempt {event.attempt}", outcome=outcomes.get(event.attempt) or event.outcome or ""
            ),
            "by": _asked_by(event, view),
            "reason": event.reason,
        }
        for event in shown
    ]
    return {"lines": lines, "is_whole": bool(shown) and shown[0].what == SUBMIT}


def _asked_by(event: EventView, view: JobView) -> str | None:
    if event.what == SUBMIT:  # such events do not say it
        return view.user
    return None if event.what == Move.START else event.by  # bgd starts jobs by itself


WORDS: dict[str, str] = {
    SUBMIT: "submitted",
    NOTE: "changed",
    Move.HOLD: "held",
    Move.RELEASE: "released",
    Move.BLOCK: "has to wait for other jobs",
    Move.UNBLOCK: "no longer waits for other jobs",
    Move.DEFER: "has to wait for its time",
    Move.COME_DUE: "due",
    Move.START: "{attempt} started",
    Move.SUCCEED: "{attempt} succeeded",
    Move.RETRY: "{attempt} failed ({outcome}); another one follows",
    Move.GIVE_UP: "{attempt} failed ({outcome})",
    Move.SNOOZE: "{attempt} asked to run again later",
    Move.STOP: "{attempt} told to stop",
    Move.REQUEUE: "{attempt} ended ({outcome}); it is run again",
    Move.CANCEL: "cancelled",
    Move.REVIVE: "retried",
}
