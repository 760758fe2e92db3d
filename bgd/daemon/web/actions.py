"""Act on jobs and queues as a page asks: on one job, on chosen ones, or on all that match a filter."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from bgd.core.job import FINAL, WAITING, JobId, State
from bgd.core.spec import Priority, SlotCount
from bgd.daemon.job_actions import JobActions
from bgd.daemon.queue_controls import set_paused, set_queue_slots
from bgd.daemon.storage import read
from bgd.daemon.storage.records import QueueControls
from bgd.daemon.storage.store import StoreReader
from bgd.daemon.supervisor import Supervisor
from bgd.daemon.web.finding import find
from bgd.daemon.web.live import event
from bgd.daemon.web.queries import convert_fields, list_query, parse_fields, read_query
from bgd.daemon.web.responses import PageResponse, event_stream, json_response
from bgd.errors import NoSuchJob, Refused
from bgd.wire.http import HttpRequest, RequestRefused
from bgd.wire.requests import Changes
from bgd.wire.views import JobView

AT_ONCE = 100  # jobs of one transaction: everybody else waits for it
MAX_CHOSEN = 500  # jobs named in an address


class Verb(Struct, frozen=True):
    """What a page can do to a job, and in which states the job must be.

    `asks`: a person has to confirm it. `for_many`: the list offers it.
    """

    label: str
    do: Callable[[JobActions, JobId], Awaitable[State]]
    states: frozenset[State]
    asks: bool = False
    for_many: bool = True


VERBS: dict[str, Verb] = {
    "retry": Verb("Retry", JobActions.revive, FINAL),
    "run": Verb(
        "Run now",
        partial(JobActions.edit, changes=Changes(delay=0.0, at=None)),
        frozenset({State.SCHEDULED}),
        for_many=False,
    ),
    "hold": Verb("Hold", JobActions.hold, WAITING - {State.HELD}),
    "release": Verb("Release", JobActions.release, frozenset({State.HELD})),
    "suspend": Verb("Suspend", JobActions.suspend, frozenset({State.RUNNING}), for_many=False),
    "continue": Verb("Continue", JobActions.continue_, frozenset({State.RUNNING}), for_many=False),
    "cancel": Verb("Cancel", JobActions.cancel, WAITING | {State.RUNNING}, asks=True),
    "remove": Verb("Remove", JobActions.remove, FINAL, asks=True),
}
_FAILED = {State.FAILED, State.CANCELLED}  # that `retry` takes, unless the filter says otherwise


def offered(view: JobView) -> list[tuple[str, Verb]]:
    """Return the names and verbs that the page of a job offers."""
    idle = "suspend" if view.suspended else "continue"
    return [(name, verb) for name, verb in VERBS.items() if view.state in verb.states and name != idle]


class PageActions:
    """What pages may ask for. The history of each job says who did it: `asked_by`."""

    def __init__(self, supervisor: Supervisor, actions: JobActions, store: StoreReader) -> None:
        self._supervisor = supervisor
        self._actions = actions
        self._store = store

    async def act(self, request: HttpRequest, asked_by: str, job: str, name: str) -> PageResponse:
        """Act on one job; return its new state as JSON."""
        actions, job_id = self._actions.asked_by(asked_by), JobId(int(job))
        try:
            if name == "priority":
                query = read_query(request.query, _PriorityQuery)
                state = await actions.edit(job_id, Changes(priority=query.value))
            else:
                state = await _verb(name).do(actions, job_id)
        except NoSuchJob as error:
            raise RequestRefused(HTTPStatus.NOT_FOUND, str(error)) from error
        except Refused as error:
            raise RequestRefused(HTTPStatus.CONFLICT, str(error)) from error
        await self._supervisor.saved()
        return await json_response({"id": job_id, "state": state})

    async def count(self, request: HttpRequest, name: str) -> PageResponse:
        """Return how many jobs an action on all that match would reach, as JSON."""
        return await json_response({"count": len(await self._matching(request, name))})

    async def act_on_all(self, request: HttpRequest, asked_by: str, name: str) -> PageResponse:
        """Act on all jobs that match now; return how far it is, as server-sent events.

        It ends when the browser hangs up.
        """
        job_ids = await self._matching(request, name)
        return event_stream(self._progress(_verb(name), self._actions.asked_by(asked_by), job_ids))

    async def pause(self, request: HttpRequest, asked_by: str, name: str) -> PageResponse:
        """Pause all queues together, or undo that."""
        del request, asked_by
        return await self._set_paused(None, name)

    async def pause_queue(self, request: HttpRequest, asked_by: str, queue: str, name: str) -> PageResponse:
        """Pause one queue, or resume it."""
        del request, asked_by
        return await self._set_paused(queue, name)

    async def set_slots(self, request: HttpRequest, asked_by: str) -> PageResponse:
        """Set the slots of the daemon; without a value they are as configured."""
        del asked_by
        slots = read_query(request.query, _SlotsQuery).value
        return await self._control(lambda controls: replace(controls, slots=slots), {"slots": slots})

    async def set_queue_slots(self, request: HttpRequest, asked_by: str, queue: str) -> PageResponse:
        """Set the slots of a queue; without a value it has no limit."""
        del asked_by
        slots = read_query(request.query, _SlotsQuery).value
        return await self._control(
            lambda controls: set_queue_slots(controls, queue, slots), {"queue": queue, "slots": slots}
        )

    async def _set_paused(self, queue: str | None, name: str) -> PageResponse:
        paused = name == "pause"
        return await self._control(
            lambda controls: set_paused(controls, queue, paused=paused), {"queue": queue, "paused": paused}
        )

    async def _control(
        self, change: Callable[[QueueControls], QueueControls], answer: dict[str, object]
    ) -> PageResponse:
        """Change slots or queues, and answer with this once that is on disk."""
        try:
            controls = change(self._supervisor.controls)
        except Refused as error:
            raise RequestRefused(HTTPStatus.CONFLICT, str(error)) from error
        self._supervisor.set_controls(controls)
        await self._supervisor.saved()
        return await json_response(answer)

    async def _matching(self, request: HttpRequest, name: str) -> list[JobId]:
        """Return the jobs that an action is for, newest first: those named in `ids`, or all that match."""
        verb, query = _verb(name), list_query(request.query)
        if chosen := parse_fields(request.query).get("ids"):
            found = [JobId(each) for each in convert_fields({"ids": chosen[-1].split(",")}, _ChosenJobs).ids]
            states = await self._store.read(read.states, found)
            return [job_id for job_id in found if states.get(job_id) in verb.states]
        wanted = query.wanted(time.time())
        named = set(wanted.states)
        affected = (_FAILED if name == "retry" and named == set(State) else verb.states) & named
        return (await find(self._store, replace(wanted, states=tuple(affected)))).ids

    async def _progress(
        self, verb: Verb, actions: JobActions, job_ids: list[JobId]
    ) -> AsyncGenerator[bytes, None]:
        refused: list[str] = []
        for start in range(0, len(job_ids), AT_ONCE):
            for job_id in job_ids[start : start + AT_ONCE]:
                try:
                    await verb.do(actions, job_id)
                except Refused as error:  # it has changed meanwhile; the others are not affected
                    refused.append(str(error))
            await self._supervisor.saved()
            done = min(start + AT_ONCE, len(job_ids))
            yield event({"done": done, "of": len(job_ids), "refused": len(refused), "why": refused[:3]})
        yield event({"end": True})


class _PriorityQuery(Struct, frozen=True):
    value: Priority


class _SlotsQuery(Struct, frozen=True):
    value: SlotCount | None = None


class _ChosenJobs(Struct, frozen=True):
    ids: Annotated[list[Annotated[int, Meta(ge=1, le=2**62)]], Meta(max_length=MAX_CHOSEN)]


def _verb(name: str) -> Verb:
    if name not in VERBS:
        raise RequestRefused(HTTPStatus.NOT_FOUND, f"There is no action {name!r}.")
    return VERBS[name]
