"""Answers: what is told of jobs, queues and the daemon to those who ask."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from msgspec.structs import replace

import bgd
from bgd.core.job import FINAL, JobId
from bgd.daemon.access import Actor
from bgd.daemon.control.event_stream import send_events
from bgd.daemon.control.following import follow_logs, send_logs
from bgd.daemon.control.replying import Replies
from bgd.daemon.controls import known_queues, no_queue, views_of
from bgd.daemon.launching import LauncherLink
from bgd.daemon.storage.store import Readings
from bgd.daemon.supervisor import Supervisor
from bgd.daemon.web.site import Site
from bgd.errors import NoSuchJob, Refused
from bgd.harmless import as_utf8
from bgd.wire.messages import encode
from bgd.wire.replies import (
    AttemptsPart,
    End,
    Info,
    JobsPart,
    Login,
    ProgressPart,
    Queues,
    Reply,
    Result,
    Shown,
    Stats,
)
from bgd.wire.requests import GetEvents, GetResult, List, Logs, Show, Wait
from bgd.wire.steering import GetInfo, GetLogin, GetQueues, GetStats
from bgd.wire.views import JobProgress, JobView

ATTEMPTS_AT_ONCE = 20  # read from the store, at most a result file's million bytes each
MANY = 100  # jobs: who waits for more of them hears of their ends in company
GATHERING = 0.01  # seconds until they are told then
PART_BYTES = 512 * 1024  # of a list in one reply, unless it is a single thing

T = TypeVar("T")
R = TypeVar("R", JobsPart, AttemptsPart, ProgressPart)

AskingOnce = GetQueues | GetStats | GetInfo | GetLogin
Asking = List | Show | Logs | Wait | GetEvents | GetResult | AskingOnce


class Answers:
    """Reads the store, the logs and the Supervisor's feeds; changes no job.

    Args:
        site: the pages for browsers, None: there are none.
    """

    def __init__(
        self, supervisor: Supervisor, store: Readings, link: LauncherLink, site: Site | None = None
    ) -> None:
        self._supervisor = supervisor
        self._store = store
        self._link = link
        self._site = site
        self._started_at = time.time()

    async def answer(self, request: Asking, actor: Actor, replies: Replies) -> None:
        """Answer one question, with one reply or a stream of them.

        Raises:
            BgdError: it cannot be answered; the caller tells the client.
        """
        match request:
            case List():
                await self._list(request, actor, replies)
            case Show():
                await self._show(request, actor, replies)
            case Logs():
                await self._logs(request, replies)
            case Wait():
                await self._wait(request, replies)
            case GetResult():
                async with replies.in_turn():
                    replies.send(await self._result(request))
            case GetEvents():
                await send_events(request, self._supervisor, self._store, replies)
                replies.send(End(request.id))
            case _:
                replies.send(await self._reply(request, actor))

    async def _reply(self, request: AskingOnce, actor: Actor) -> Reply:
        match request:
            case GetQueues():
                return await self.queues(request.id)
            case GetStats():
                return await self._stats(request)
            case GetInfo():
                return await self._info(request)
            case GetLogin():
                return Login(request.id, self._link_for(actor))

    async def queues(self, request_id: int) -> Queues:
        """Return slots and queues as they are now."""
        supervisor = self._supervisor
        await supervisor.shown()  # what this client was told of before must be counted
        counts = await self._store.queue_counts()
        return Queues(
            id=request_id,
            slots=supervisor.slots,
            configured_slots=supervisor.config.daemon.slots,
            taken=supervisor.taken,
            paused=supervisor.controls.paused,
            queues=views_of(supervisor.config, supervisor.controls, counts),
            obstacle=self._link.obstacle,
        )

    async def check_queue(self, name: str) -> None:
        """Refuse a queue that is not configured, was never set and has no jobs: it may be mistyped.

        Raises:
            Refused: there is none of that name; the message says what was probably meant.
        """
        supervisor = self._supervisor
        if name in known_queues(supervisor.config, supervisor.controls):
            return
        await supervisor.shown()
        if not await self._store.has_jobs_in(name):
            counts = await self._store.queue_counts()
            raise no_queue(name, known_queues(supervisor.config, supervisor.controls) | counts.keys())

    async def _list(self, request: List, actor: Actor, replies: Replies) -> None:
        await self._supervisor.shown()  # what this client was told of before must be in the list
        async with replies.in_turn():
            views, rest = await self._store.begin_list(request, actor.uid)
            await self._send_jobs(request.id, views, replies)
        while rest:
            async with replies.in_turn():
                views, rest = await self._store.some_views(rest)
                if request.states is not None:  # which some may have left meanwhile
                    views = [view for view in views if view.state in request.states]
                await self._send_jobs(request.id, views, replies)
        replies.send(End(request.id))

    async def _send_jobs(self, request_id: int, views: list[JobView], replies: Replies) -> None:
        for part in _portions(views, partial(JobsPart, request_id)):
            await replies.send_in_step(part)

    async def _show(self, request: Show, actor: Actor, replies: Replies) -> None:
        job_id = request.job
        if job_id is None:
            job_id = await self._store.latest(actor.uid)
            if job_id is None:
                raise NoSuchJob("you have no jobs yet")
        async with replies.in_turn():
            replies.send(Shown(request.id, await self._view(job_id)))
        log_dir = self._supervisor.config.log_dir
        after = 0
        views = None
        while views is None or views:
            async with replies.in_turn():
                views = await self._store.attempts(JobId(job_id), after, ATTEMPTS_AT_ONCE)
                located = [replace(view, log_path=f"{log_dir}/{view.log_path}") for view in views]
                for part in _portions(located, partial(AttemptsPart, request.id)):
                    await replies.send_in_step(part)
            after = views[-1].attempt if views else after
        replies.send(End(request.id))

    async def _result(self, request: GetResult) -> Result:
        view = await self._view(request.job)
        value, error = await self._store.result(JobId(request.job))
        # without its arguments: a frame has no room for both at their limits
        return Result(request.id, replace(view, arguments=None), value, error)

    async def _logs(self, request: Logs, replies: Replies) -> None:
        view = await self._view(request.job)
        log_dir = self._supervisor.config.log_dir
        if request.follow:
            await follow_logs(request, view, self._supervisor, self._store, log_dir, replies)
        else:
            await send_logs(request, view, self._supervisor, self._store, log_dir, replies)
        replies.send(End(request.id))

    async def _wait(self, request: Wait, replies: Replies) -> None:
        waiting = set(map(JobId, request.jobs))
        with self._supervisor.following(waiting, progress=request.progress) as feed:
            if request.progress:
                await self._send_progress(request.id, await self._store.progress(list(waiting)), replies)
            while waiting:
                moved = feed.take_moved() & waiting
                finished = [job for job in moved if not self._supervisor.is_unfinished(job)]
                while finished:
                    async with replies.in_turn():
                        views, finished = await self._ended(finished)
                        await self._send_jobs(request.id, views, replies)
                    waiting.difference_update(JobId(view.id) for view in views)
                await self._send_progress(request.id, feed.take_progress(), replies)
                if request.only_now:
                    break
                if waiting:
                    await feed.changed.wait()
                if len(waiting) > MANY:  # to read and tell each end by itself costs a tenth of a short job
                    await asyncio.sleep(GATHERING)
        replies.send(End(request.id))

    async def _send_progress(self, request_id: int, told: list[JobProgress], replies: Replies) -> None:
        for part in _portions(told, partial(ProgressPart, request_id)):
            await replies.send_in_step(part)

    async def _ended(self, job_ids: list[JobId]) -> tuple[list[JobView], list[JobId]]:
        """Return those of the first of these jobs that have finished, and the ids of the rest.

        While an end is being written the job has not finished: it moves once more when that is done.
        """
        views, rest = await self._store.some_views(job_ids)
        looked_at = job_ids[: len(job_ids) - len(rest)]
        if missing := set(looked_at) - {view.id for view in views}:
            raise NoSuchJob(f"no job {min(missing)}")
        return [view for view in views if view.state in FINAL], rest

    async def _stats(self, request: GetStats) -> Stats:
        await self._supervisor.shown()
        figures = await self._store.stats(time.time() - request.window)
        return Stats(
            id=request.id,
            window=request.window,
            counts=await self._store.counts(),
            outcomes=figures.outcomes,
            wait_median=figures.wait_median,
            wait_p95=figures.wait_p95,
            run_median=figures.run_median,
            run_p95=figures.run_p95,
            oldest_queued_at=figures.oldest_queued_at,
        )

    async def _info(self, request: GetInfo) -> Info:
        config = self._supervisor.config
        return Info(
            id=request.id,
            version=bgd.__version__,
            pid=os.getpid(),
            started_at=self._started_at,
            state_dir=config.daemon.state_dir,
            socket=config.daemon.socket,
            config=config.source and as_utf8(config.source),
            slots=self._supervisor.slots,
            running=self._supervisor.running,
            counts=await self._store.counts(),
            launcher_pid=self._link.pid,
            store_id=self._store.store_id,
            http=None if self._site is None else self._site.place,
            obstacle=self._link.obstacle,
        )

    def _link_for(self, actor: Actor) -> str:
        if self._site is None:
            raise Refused("this daemon serves no pages: see [http] listen, and the daemon's log")
        return self._site.invite(actor.uid)

    async def _view(self, job_id: int) -> JobView:
        view = await self._store.view(JobId(job_id))
        if view is None:
            raise NoSuchJob(f"no job {job_id}")
        return view


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
