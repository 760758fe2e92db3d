"""What each request does: asks the Supervisor or reads the store, and sends the replies."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import Protocol, TypeVar

from msgspec.structs import replace

import bgd
from bgd.core.job import FINAL, JobId, JobSpec, State, problem_with_environment
from bgd.daemon.access import Actor
from bgd.daemon.following import follow_logs, send_logs
from bgd.daemon.launching import LauncherLink
from bgd.daemon.store import Store
from bgd.daemon.supervisor import Supervisor
from bgd.daemon.web.site import Site
from bgd.errors import NoSuchJob, ProtocolError, Refused
from bgd.wire.messages import encode
from bgd.wire.replies import (
    Acted,
    ActResult,
    AttemptsPart,
    Done,
    End,
    Info,
    JobsPart,
    Login,
    Reply,
    Result,
    Shown,
    Submitted,
    code_of,
)
from bgd.wire.requests import (
    Cancel,
    GetInfo,
    GetLogin,
    GetResult,
    List,
    Logs,
    Request,
    Retry,
    Show,
    Shutdown,
    ShutdownMode,
    Submit,
    SubmitMany,
    Wait,
)
from bgd.wire.views import JobView

ATTEMPTS_AT_ONCE = 20  # read from the store, at most a result file's million bytes each
PART_BYTES = 512 * 1024  # of a list in one reply, unless it is a single thing

T = TypeVar("T")
R = TypeVar("R", JobsPart, AttemptsPart)


class Replies(Protocol):
    """Where replies go: the connection."""

    def send(self, reply: Reply) -> None: ...
    async def send_in_step(self, reply: Reply) -> None: ...


class Verbs:
    """Answers requests of actors that may connect.

    Args:
        shut_down: ends the daemon in the given way, None: as configured.
        site: the pages, None: there are none.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        store: Store,
        link: LauncherLink,
        shut_down: Callable[[ShutdownMode | None], None],
        site: Site | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._store = store
        self._link = link
        self._shut_down = shut_down
        self._site = site
        self._started_at = time.time()

    # --- the hot path: no task, no await ---------------------------------------------------------------

    def submit(self, request: Submit, actor: Actor, reply: Callable[[Reply], None]) -> None:
        """Take one job; `reply` is called when it is on disk."""
        self._supervisor.check(request.spec)
        job_id = self._supervisor.submit(request.spec, actor.uid)
        self._supervisor.when_saved(lambda: reply(Submitted(request.id, [job_id])))

    def submit_many(
        self, request_id: int, parts: list[SubmitMany], actor: Actor, reply: Callable[[Reply], None]
    ) -> None:
        """Take all of them or none, in one transaction."""
        for part in parts:  # each environment once, not once for every job that gets it
            problem = problem_with_environment(part.env or {})
            if problem is not None:
                raise Refused(f"of the batch: {problem}")
        for index, spec in enumerate(spec for part in parts for spec in part.specs):
            try:
                self._supervisor.check(spec)
            except Refused as error:
                raise type(error)(f"job {index} of the batch: {error}") from error
        specs = [_with_environment(spec, part.env) for part in parts for spec in part.specs]
        job_ids: list[int] = [self._supervisor.submit(spec, actor.uid) for spec in specs]
        self._supervisor.when_saved(lambda: reply(Submitted(request_id, job_ids)))

    # --- the rest ---------------------------------------------------------------------------------------

    async def answer(self, request: Request, actor: Actor, replies: Replies) -> None:  # noqa: C901 - a case a request
        """Answer one request, with one reply or a stream of them.

        Raises:
            BgdError: the request is refused; the caller tells the client.
        """
        match request:
            case List():
                await self._list(request, actor, replies)
            case Show():
                await self._show(request, actor, replies)
            case GetResult():
                view = await self._view(request.job)
                value, error = await self._store.result(JobId(request.job))
                # without its arguments: a frame has no room for both at their limits
                replies.send(Result(request.id, replace(view, arguments=None), value, error))
            case Logs():
                await self._logs(request, replies)
            case Wait():
                await self._wait(request, replies)
            case Cancel():
                replies.send(Acted(request.id, await self._act(request.jobs, self._cancel)))
            case Retry():
                replies.send(Acted(request.id, await self._act(request.jobs, self._supervisor.revive)))
            case GetInfo():
                replies.send(await self._info(request))
            case GetLogin():
                replies.send(Login(request.id, self._link_for(actor)))
            case Shutdown():
                replies.send(Done(request.id))
                self._shut_down(request.mode)
            case _:
                raise ProtocolError(f"{type(request).__name__} is not answered here")

    async def _list(self, request: List, actor: Actor, replies: Replies) -> None:
        await self._supervisor.saved()  # what this client was told of before must be in the list
        views = await self._store.list(request, actor.uid)
        for part in _portions(views, partial(JobsPart, request.id)):
            await replies.send_in_step(part)
        replies.send(End(request.id))

    async def _show(self, request: Show, actor: Actor, replies: Replies) -> None:
        job_id = request.job
        if job_id is None:
            job_id = await self._store.latest(actor.uid)
            if job_id is None:
                raise NoSuchJob("you have no jobs yet")
        replies.send(Shown(request.id, await self._view(job_id)))
        log_dir = self._supervisor.config.log_dir
        after = 0
        while views := await self._store.attempts(JobId(job_id), after, ATTEMPTS_AT_ONCE):
            located = [replace(view, log_path=f"{log_dir}/{view.log_path}") for view in views]
            for part in _portions(located, partial(AttemptsPart, request.id)):
                await replies.send_in_step(part)
            after = views[-1].attempt
        replies.send(End(request.id))

    async def _logs(self, request: Logs, replies: Replies) -> None:
        view = await self._view(request.job)
        log_dir = self._supervisor.config.log_dir
        if request.follow:
            await follow_logs(request, view, self._supervisor, self._store, log_dir, replies.send_in_step)
        else:
            await send_logs(request, view, log_dir, replies.send_in_step)
        replies.send(End(request.id))

    async def _wait(self, request: Wait, replies: Replies) -> None:
        waiting = set(map(JobId, request.jobs))
        with self._supervisor.following(waiting) as feed:
            while waiting:
                for job_id in feed.take_moved() & waiting:
                    if self._supervisor.is_unfinished(job_id):
                        continue
                    view = await self._view(job_id)
                    if view.state in FINAL:  # or its end is still being written: the feed will ring again
                        waiting.remove(job_id)
                        await replies.send_in_step(JobsPart(request.id, [view]))
                if waiting:
                    await feed.changed.wait()
        replies.send(End(request.id))

    async def _act(self, job_ids: Iterable[int], act: Callable[[JobId], Awaitable[State]]) -> list[ActResult]:
        """Do one thing to each of several jobs; what is refused for one does not keep the others from it."""
        results = []
        for job_id in job_ids:
            try:
                results.append(ActResult(job_id, state=await act(JobId(job_id))))
            except Refused as error:
                results.append(ActResult(job_id, code=code_of(error), message=str(error)))
        await self._supervisor.saved()
        return results

    async def _cancel(self, job_id: JobId) -> State:
        if not self._supervisor.is_unfinished(job_id):
            await self._supervisor.saved()
            view = await self._view(job_id)
            raise Refused(f"job {job_id} has already finished: it is {view.state}")
        return self._supervisor.cancel(job_id)

    async def _view(self, job_id: int) -> JobView:
        view = await self._store.view(JobId(job_id))
        if view is None:
            raise NoSuchJob(f"no job {job_id}")
        return view

    async def _info(self, request: GetInfo) -> Info:
        config = self._supervisor.config
        return Info(
            id=request.id,
            version=bgd.__version__,
            pid=os.getpid(),
            started_at=self._started_at,
            state_dir=config.daemon.state_dir,
            socket=config.daemon.socket,
            config=config.source,
            slots=config.daemon.slots,
            running=self._supervisor.running,
            counts=await self._store.counts(),
            launcher_pid=self._link.pid,
            store_id=self._store.store_id,
            http=None if self._site is None else self._site.place,
        )

    def _link_for(self, actor: Actor) -> str:
        if self._site is None:
            raise Refused("this daemon serves no pages: see [http] listen, and the daemon's log")
        return self._site.invite(actor.uid)


def _with_environment(spec: JobSpec, env: dict[str, str] | None) -> JobSpec:
    """Give a command of a batch the batch's environment, where it has none of its own."""
    return spec if env is None or spec.env is not None or spec.target is not None else replace(spec, env=env)


def _portions(items: list[T], part_of: Callable[[list[T]], R]) -> Iterator[R]:
    """Cut a list into replies that fit a frame."""
    portion: list[T] = []
    size = 0
    for item in items:
        bulk = len(encode(part_of([item])))
        if portion and size + bulk > PART_BYTES:
            yield part_of(portion)
            portion, size = [], 0
        portion.append(item)
        size += bulk
    if portion:
        yield part_of(portion)
