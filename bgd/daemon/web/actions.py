"""Act on jobs and queues as a page asks: on one job, on chosen ones, or on all that match a filter."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import replace

from bgd.core.filters import Filter
from bgd.core.job import VERBS, JobId, State
from bgd.core.spec import Priority, SlotCount
from bgd.daemon.job_actions import JobActions
from bgd.daemon.queue_controls import set_queue
from bgd.daemon.web.live import event
from bgd.daemon.web.queries import converted, list_query, parse_fields, read_value
from bgd.daemon.web.responses import PageResponse, event_stream, json_response
from bgd.daemon.web.site import Site
from bgd.text.formatting import pipeline_in_words
from bgd.wire.http import HttpRequest, not_found
from bgd.wire.replies import ActResult
from bgd.wire.requests import Changes
from bgd.wire.views import JobView

MAX_CHOSEN = 500  # jobs named in an address


class Button(Struct, frozen=True):
    """What a page can do to a job: a verb of `bgd.core.job.VERBS`, with what it is given.

    `asks`: a person has to confirm it. `for_many`: the list offers it.
    """

    label: str
    verb: str
    states: frozenset[State]
    given: dict[str, Any] = {}
    asks: bool = False
    for_many: bool = True


def _button(verb: str, *, asks: bool = False, for_many: bool = True) -> Button:
    return Button(verb.capitalize(), verb, VERBS[verb].states, asks=asks, for_many=for_many)


BUTTONS: dict[str, Button] = {
    "retry": _button("retry"),
    "run": Button(
        "Run now",
        "edit",
        frozenset({State.SCHEDULED}),
        {"changes": Changes(delay=0.0, at=None)},
        for_many=False,
    ),
    "hold": _button("hold"),
    "release": _button("release"),
    "suspend": _button("suspend", for_many=False),
    "continue": _button("continue", for_many=False),
    "cancel": _button("cancel", asks=True),
    "remove": _button("remove", asks=True),
}


def offered(view: JobView) -> list[tuple[str, Button]]:
    """Return the names and buttons that the page of a job offers."""
    idle = "suspend" if view.suspended else "continue"
    return [(name, each) for name, each in BUTTONS.items() if view.state in each.states and name != idle]


async def act(site: Site, request: HttpRequest, asked_by: str, job: str, name: str) -> PageResponse:
    """Act on one job; return its new state as JSON."""
    actions, job_id = site.actions.asked_by(asked_by), JobId(int(job))
    if name == "priority":
        changes = Changes(priority=read_value(request.query, Priority, shown_as="priority"))
        state, result = await actions.done("edit", job_id, changes=changes)
    else:
        button = _button_of(name)
        state, result = await actions.done(button.verb, job_id, **button.given)
    await site.supervisor.saved()
    answer: dict[str, object] = {"id": job_id, "state": state}
    if words := pipeline_in_words([result]):
        answer |= {"along": result.along, "left": result.left, "words": f"Job {job_id} is {state}{words}."}
    return await json_response(answer)


async def count(site: Site, request: HttpRequest, name: str) -> PageResponse:
    """Return how many jobs an action on all that match would reach, as JSON."""
    return await json_response({"count": await _count(site, *_affected(request, name))})


async def count_chosen(site: Site, request: HttpRequest) -> PageResponse:
    """Return how many of the jobs named in `ids` each action of the list would reach, as JSON."""
    found: list[State] = []
    async for part in site.actions.states_of_all(Filter(), ids=_named_jobs(request) or []):
        found += part.values()
    offers = {name: each.states for name, each in BUTTONS.items() if each.for_many}
    return await json_response(
        {name: sum(state in states for state in found) for name, states in offers.items()}
    )


async def act_on_all(site: Site, request: HttpRequest, asked_by: str, name: str) -> PageResponse:
    """Act on all jobs that match now; return how far it is, as server-sent events.

    It ends when the browser hangs up.
    """
    wanted, ids = _affected(request, name)
    return event_stream(_progress(site, _button_of(name), site.actions.asked_by(asked_by), wanted, ids))


async def pause(
    site: Site, request: HttpRequest, asked_by: str, queue: str | None, name: str
) -> PageResponse:
    """Pause a queue, or all of them together, or undo that."""
    del request, asked_by
    paused = name == "pause"
    return await _control(site, queue, {"paused": paused}, paused=paused)


async def set_slots(site: Site, request: HttpRequest, asked_by: str, queue: str | None) -> PageResponse:
    """Set the slots of a queue, or of the daemon; without a value to no limit, or as configured."""
    del asked_by
    slots = read_value(request.query, SlotCount | None, shown_as="slots")
    changes = {} if queue is None else {"has_slots": True}
    return await _control(site, queue, {"slots": slots}, slots=slots, **changes)


async def _control(site: Site, queue: str | None, answer: dict[str, object], **changes: Any) -> PageResponse:
    """Change a queue, or all of them together, and answer with this once that is on disk."""
    await site.supervisor.set_controls(set_queue(site.supervisor.controls, queue, **changes))
    return await json_response({"queue": queue, **answer})


def states_acted_on(name: str, wanted: Filter) -> frozenset[State]:
    """Return the states of the jobs that an action on all that match is for."""
    button = _button_of(name)
    return button.states & VERBS[button.verb].states_in(wanted.states)


def _affected(request: HttpRequest, name: str) -> tuple[Filter, list[JobId] | None]:
    """Return the jobs that an action is for: all that match, or those that are named in `ids`."""
    if (ids := _named_jobs(request)) is not None:
        return Filter(states=tuple(_button_of(name).states)), ids
    wanted = list_query(request.query).wanted(time.time())
    return replace(wanted, states=tuple(states_acted_on(name, wanted))), None


def _named_jobs(request: HttpRequest) -> list[JobId] | None:
    """Return the ids in the field `ids`; None if the field is missing. Refuse an empty field."""
    named = parse_fields(request.query, keep_empty=True).get("ids")
    return None if named is None else converted(named[-1].split(","), _ChosenJobs, "ids")


async def _count(site: Site, wanted: Filter, ids: list[JobId] | None) -> int:
    return sum([len(part) async for part in site.actions.states_of_all(wanted, ids=ids)])


async def _progress(
    site: Site, button: Button, actions: JobActions, wanted: Filter, ids: list[JobId] | None
) -> AsyncGenerator[bytes, None]:
    of, done, refused = await _count(site, wanted, ids), 0, list[str | None]()
    pipeline: list[ActResult] = []
    portions = actions.act_on_all(button.verb, wanted, ids=ids, **button.given)
    async with aclosing(portions):
        async for results in portions:
            done += len(results)
            refused += [result.message for result in results if result.state is None]
            pipeline += (result for result in results if result.along or result.left)
            progress: dict[str, object] = {
                "done": done,
                "of": of,
                "refused": len(refused),
                "why": refused[:3],
            }
            if words := pipeline_in_words(pipeline, done - len(refused)):
                progress["also"] = words
            yield event(progress)
    yield event({"end": True})


_ChosenJobs = Annotated[list[Annotated[int, Meta(ge=1, le=2**62)]], Meta(max_length=MAX_CHOSEN)]


def _button_of(name: str) -> Button:
    if name not in BUTTONS:
        raise not_found(f"There is no action {name!r}.")
    return BUTTONS[name]
