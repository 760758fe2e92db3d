"""Check all jobs of a daemon, between two kills and after everything has finished."""

from __future__ import annotations

from contextlib import closing

from bgd.core.job import FINAL, State
from bgd.wire.replies import EventsPart, JobsPart
from bgd.wire.requests import MAX_LIST, Continue, GetEvents, List, Release, Resume, SetSlots
from bgd.wire.views import JobView
from tests.end_to_end.chaos import Caller, Rig
from tests.end_to_end.clients import QUEUES


def listed(rig: Rig, states: list[State] | None) -> list[JobView]:
    """Return all jobs in these states; None means all states."""
    with closing(Caller(rig.socket)) as caller:
        views: list[JobView] = []
        while page := page_of(caller, states or list(State), before=views[-1].id if views else None):
            views += page
        return views


def page_of(caller: Caller, states: list[State], before: int | None) -> list[JobView]:
    """Return as many jobs as one answer may have, all as of the same instant."""
    views: list[JobView] = []
    reply = caller.ask(List(id=1, states=states, limit=MAX_LIST, before=before))
    while isinstance(reply, JobsPart):
        views += reply.jobs
        reply = caller.next()
    return views


def check_waits(rig: Rig) -> None:
    """Check that none of the newest jobs waits for one that has finished; they are listed at one instant."""
    with closing(Caller(rig.socket)) as caller:
        views = {view.id: view for view in page_of(caller, list(State), before=None)}
    for view in views.values():
        if view.state in {State.BLOCKED, State.HELD}:
            assert view.waits_for or view.state is State.HELD, f"job {view.id} is blocked by nobody"
            over = [other for other in view.waits_for if other in views and views[other].state in FINAL]
            assert not over, f"job {view.id} waits for {over}, which have finished"


def come_to_rest(rig: Rig) -> tuple[dict[int, JobView], int]:
    """Release everything that waits, and let it finish; return all jobs and the id of the last event."""
    with closing(Caller(rig.socket)) as caller:
        caller.ask(SetSlots(1, None))
        for queue in range(QUEUES):
            caller.ask(Resume(1, f"queue-{queue}"))
        for kind, state in (Release, State.HELD), (Continue, State.RUNNING):
            if ids := [view.id for view in listed(rig, [state])]:
                caller.ask(kind(1, ids))
        caller.wait([view.id for view in listed(rig, None)])
    return {view.id: view for view in listed(rig, None)}, last_event(rig)


def last_event(rig: Rig) -> int:
    """Return the id of the newest event."""
    with closing(Caller(rig.socket)) as caller:
        part = caller.ask(GetEvents(id=1, follow=True))  # from now on
        assert isinstance(part, EventsPart)
        return part.last
