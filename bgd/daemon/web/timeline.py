"""What became of a job: when it waited and ran, as bars to scale, and its events in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from bgd.core.job import FINAL, Move, State
from bgd.core.scheduler import NOTE, SUBMIT
from bgd.daemon.web.views import attempt_badge
from bgd.text.brief import short_duration
from bgd.text.formatting import needs_node, outcome_in_words
from bgd.wire.views import AttemptView, EventView, JobView

WIDTH = 1000.0  # units of the picture
MAX_SHOWN = 50  # of the newest events
LEAST_RUN = 5.0  # units of a run, so that even a short one is seen


class _Span(Struct, frozen=True):
    """A span of time. `look` is the class of its style: a state for a run, else wait, backoff or pending."""

    look: str
    begin: float
    end: float
    words: str


def timeline_of(view: JobView, attempts: list[AttemptView], now: float) -> dict[str, Any] | None:
    """Return the timeline of these attempts, oldest first; None for a job that has not been started.

    It has bars from left to right, the times at both ends (`end` None: it goes on), and all of it in words.
    """
    if not attempts:
        return None
    spans = list(_spans(view, attempts, now))
    begin, end = spans[0].begin, spans[-1].end
    scale = WIDTH / (end - begin or 1.0)
    goes_on = end == now and view.state not in FINAL
    return {
        "bars": [_bar(span, begin, scale) for span in spans],
        "begin": begin,
        "end": None if goes_on else end,
        "text": "; ".join(span.words for span in spans),
    }


def _spans(view: JobView, attempts: list[AttemptView], now: float) -> Iterator[_Span]:
    """Yield what happened, one after the other, even if the clock was set back meanwhile."""
    at = view.created_at if attempts[0].attempt == 1 else attempts[0].started_at or view.created_at
    for each in attempts:
        begin = max(each.started_at or each.finished_at or at, at)
        end = max(each.finished_at or (now if each.outcome is None else begin), begin)
        if begin > at:
            yield _pause(each, at, begin)
        took = "" if each.run_seconds is None else f" after {short_duration(each.run_seconds)}"
        outcome = f"{outcome_in_words(each)}{took}" if each.outcome else _present(view, each, end - begin)
        yield _Span(attempt_badge(each), begin, end, f"attempt {each.attempt}: {outcome}")
        at = end
    if view.state is State.SCHEDULED and view.due_at is not None:
        due = max(view.due_at, at)
        yield _Span("pending", at, due, f"attempt {view.attempt + 1} is due {short_duration(due - at)} later")
    elif view.state not in FINAL and attempts[-1].outcome is not None:
        yield _Span("wait", at, max(now, at), f"waits for attempt {view.attempt + 1}")


def _present(view: JobView, attempt: AttemptView, seconds: float) -> str:
    since = short_duration(seconds)
    if view.suspended:
        return f"suspended, started {since} ago"
    return f"{'waits for a node' if needs_node(attempt) else 'runs'} for {since}"


def _pause(attempt: AttemptView, begin: float, end: float) -> _Span:
    waited = short_duration(end - begin)
    if attempt.attempt == 1:
        return _Span("wait", begin, end, f"waited {waited}")
    return _Span("backoff", begin, end, f"{waited} until attempt {attempt.attempt}")


def _bar(span: _Span, begin: float, scale: float) -> dict[str, object]:
    is_run = span.look not in {"wait", "backoff", "pending"}
    width = max((span.end - span.begin) * scale, LEAST_RUN if is_run else 0.0)
    x = min((span.begin - begin) * scale, WIDTH - width)
    return {"look": span.look, "x": round(x, 1), "width": round(width, 1), "title": span.words}


# --- Events


def history_of(view: JobView, events: list[EventView], attempts: list[AttemptView]) -> dict[str, object]:
    """Return the newest events of a job for the template history.html, the newest last.

    `attempts`: those whose outcomes are known. `by`: the user behind an event; None: bgd itself.
    """
    outcomes = {each.attempt: outcome_in_words(each) for each in attempts}
    shown = events[-MAX_SHOWN:]
    earlier = [None, *(event.state for event in events)][-len(shown) - 1 :]
    lines = [
        {
            "at": event.at,
            "what": _words(event, before).format(
                attempt=f"attempt {event.attempt}", outcome=outcomes.get(event.attempt) or event.outcome or ""
            ),
            "by": _asked_by(event, view),
            "reason": event.reason,
        }
        for event, before in zip(shown, earlier, strict=False)
    ]
    return {"lines": lines, "is_whole": bool(shown) and shown[0].what == SUBMIT}


def _asked_by(event: EventView, view: JobView) -> str | None:
    if event.what == SUBMIT:  # only those from a page say it
        return event.by or view.user
    return None if event.what == Move.START else event.by  # bgd starts jobs by itself


def _words(event: EventView, before: State | None) -> str:
    """Return what happened in words; `before`: the state of the job until then."""
    is_retried = before in FINAL and event.what in {Move.BLOCK, Move.DEFER}
    return f"{WORDS[Move.REVIVE]}; {WORDS[event.what]}" if is_retried else WORDS[event.what]


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
