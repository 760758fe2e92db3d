"""The history of a job in words: what happened, when, and who asked for it."""

from __future__ import annotations

from bgd.core.job import Move
from bgd.core.scheduler import NOTE, SUBMIT
from bgd.daemon.web.views import display_time
from bgd.formatting import outcome_in_words
from bgd.wire.views import AttemptView, EventView, JobView

MAX_SHOWN = 50  # of the newest events


def history_of(
    view: JobView, events: list[EventView], attempts: list[AttemptView], now: float
) -> dict[str, object]:
    """Return the newest events of a job for the template history.html, the newest last.

    `attempts`: those whose outcomes are known. `by`: who asked for an event; None: bgd itself.
    """
    outcomes = {each.attempt: outcome_in_words(each) for each in attempts}
    shown = events[-MAX_SHOWN:]
    lines = [
        {
            "at": display_time(event.at, now),
            "what": _in_words(event, outcomes.get(event.attempt) or event.outcome or ""),
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


def _in_words(event: EventView, outcome: str) -> str:  # noqa: C901, PLR0911, PLR0912 - one for each move
    if event.what == SUBMIT:
        return "submitted"
    if event.what == NOTE:
        return "changed"
    attempt = f"attempt {event.attempt}"
    match Move(event.what):
        case Move.HOLD:
            return "held"
        case Move.RELEASE:
            return "released"
        case Move.BLOCK:
            return "has to wait for other jobs"
        case Move.UNBLOCK:
            return "no longer waits for other jobs"
        case Move.DEFER:
            return "has to wait for its time"
        case Move.COME_DUE:
            return "due"
        case Move.START:
            return f"{attempt} started"
        case Move.SUCCEED:
            return f"{attempt} succeeded"
        case Move.RETRY:
            return f"{attempt} failed ({outcome}); another one follows"
        case Move.GIVE_UP:
            return f"{attempt} failed ({outcome})"
        case Move.SNOOZE:
            return f"{attempt} asked to run again later"
        case Move.STOP:
            return f"{attempt} told to stop"
        case Move.REQUEUE:
            return f"{attempt} ended ({outcome}); it is run again"
        case Move.CANCEL:
            return "cancelled"
        case Move.REVIVE:
            return "retried"
