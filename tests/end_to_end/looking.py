"""Looks at all jobs of a daemon: between two kills, and when everything has come to rest."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path

from bgd.core.job import FINAL, State
from bgd.wire.replies import EventsPart, JobsPart
from bgd.wire.requests import MAX_LIST, Continue, GetEvents, List, Release, Resume, SetSlots
from bgd.wire.views import JobView
from tests.end_to_end.chaos import Caller, Rig
from tests.end_to_end.people import LANES
from tests.support import wait_until


def listed(rig: Rig, states: list[State] | None) -> list[JobView]:
    """Return all jobs in these states, None: in all."""
    with closing(Caller(rig.socket)) as caller:
        views: list[JobView] = []
        while True:
            before = views[-1].id if views else None
            reply = caller.ask(List(id=1, states=states or list(State), limit=MAX_LIST, before=before))
            count = len(views)
            while isinstance(reply, JobsPart):
                views += reply.jobs
                reply = caller.next()
            if len(views) == count:
                return views


def check_waits(rig: Rig) -> None:
    """No job waits for one that has finished."""
    over = {view.id for view in listed(rig, list(FINAL))}
    for view in listed(rig, [State.BLOCKED, State.HELD]):
        assert view.waits_for or view.state is State.HELD, f"job {view.id} is blocked, and waits for nobody"
        assert not over & set(view.waits_for), f"job {view.id} waits for a job that has finished"


def check_suspended(rig: Rig) -> None:
    """Who is said to stand still does, and who is said to run does not."""
    with closing(Caller(rig.socket)) as caller:
        for view in listed(rig, [State.RUNNING]):
            wait_until(partial(is_as_told, caller, view.id))


def is_as_told(caller: Caller, job: int) -> bool:
    view, attempts = caller.show(job)
    if view.state is not State.RUNNING:
        return True
    pid = attempts[-1].pid
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return (status.rpartition(") ")[2][0] == "T") == view.suspended


def come_to_rest(rig: Rig) -> tuple[dict[int, JobView], int]:
    """Let all end that waits; return all jobs, and the id of the last event."""
    with closing(Caller(rig.socket)) as caller:
        caller.ask(SetSlots(1, None))
        for lane in range(LANES):
            caller.ask(Resume(1, f"lane-{lane}"))
        for kind, state in (Release, State.HELD), (Continue, State.RUNNING):
            if ids := [view.id for view in listed(rig, [state])]:
                caller.ask(kind(1, ids))
        caller.wait([view.id for view in listed(rig, None)])
        part = caller.ask(GetEvents(id=1))
        assert isinstance(part, EventsPart)
        return {view.id: view for view in listed(rig, None)}, part.last
