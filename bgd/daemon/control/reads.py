"""Answers to requests that change nothing: jobs, queues, logs, events, and the daemon itself."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

import bgd
from bgd.core.job import ACTIVE, FINAL, JobId
from bgd.core.spec import NOTIFICATION_QUEUE
from bgd.daemon.dispatch import ANSWER_PATIENCE
from bgd.daemon.explaining import explanation_of, with_reasons, with_reasons_of_oldest
from bgd.daemon.logs import expected_log_bytes
from bgd.daemon.queue_controls import known_queues, unknown_queue
from bgd.daemon.storage import change_stream, lists, read, steps, summaries
from bgd.daemon.storage.store import StoreReader
from bgd.daemon.storage.summaries import UsualTimes
from bgd.daemon.supervisor import Supervisor
from bgd.daemon.web.auth import Authenticator
from bgd.errors import NoSuchJob, Refused
from bgd.logs.files import LogChunk, LogReader
from bgd.text.escape import as_utf8
from bgd.wire import replies, requests
from bgd.wire.launching import AttemptKey
from bgd.wire.messages import encode
from bgd.wire.replies import Reply
from bgd.wire.requests import Request
from bgd.wire.views import EventView, JobProgress, JobView, ScheduleEvent, StepView

if TYPE_CHECKING:
    from bgd.daemon.control.connection import ClientConnection

STEPS_AT_ONCE = 1000
ATTEMPTS_AT_ONCE = 20  # read from the store; a result file has a million bytes at most
# Each event takes half a KiB while it waits for a slow reader, and many clients may follow events
EVENTS_AT_ONCE = 200
LOG_PART_BYTES = 64 * 1024  # of a log in one reply
PART_BYTES = 512 * 1024  # of a list in one reply, unless a single item is larger
MANY_JOBS = 100  # a client that waits for more jobs than this hears of their ends in groups
GROUP_SECONDS = 0.01  # in which the ends of a group are collected
PROGRESS = "progress"  # EventView.what of an event that reports progress

T = TypeVar("T")
R = TypeVar("R", bound=Reply)


Answers = dict[type[Struct], Callable[[Any, "ClientConnection"], Awaitable[Reply | None]]]
"""The answer to each type of request: it returns the reply, or None after the parts of a stream."""


class ReadHandler:
    """Answers requests from the store, the logs and the Supervisor's subscriptions; changes no job.

    Args:
        authenticator: lets browsers see the pages; None if the daemon serves none.
        autostarted: as in Info.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        store: StoreReader,
        authenticator: Authenticator | None = None,
        *,
        autostarted: bool = False,
    ) -> None:
        self._supervisor = supervisor
        self._store = store
        self.authenticator = authenticator
        self._autostarted = autostarted
        self._started_at = time.time()
        self._usual_times = UsualTimes()
        self.answers: Answers = {
            requests.List: self._list,
            requests.Show: self._show,
            requests.GetSteps: self._steps,
            requests.Explain: self._explain,
            requests.Logs: self._logs,
            requests.GetKeyboard: self._open_keyboard,
            requests.Wait: self._wait,
            requests.GetResult: self._result,
            requests.GetEvents: self._events,
            requests.GetQueues: self.queues,
            requests.GetStats: self._stats,
            requests.GetUsage: self._usage,
            requests.GetInfo: self._info,
            requests.GetLogin: self._login,
        }

    async def queues(self, request: Request, _: ClientConnection) -> replies.Queues:
        """Return slots and queues as they are now, and not older than earlier answers to this client."""
        supervisor = self._supervisor
        await supervisor.saved_unless_stuck()
        oldest = await self._store.search(summaries.oldest_queued)
        return replies.Queues(
            id=request.id,
            slots=supervisor.slots,
            configured_slots=supervisor.config.daemon.slots,
            taken=supervisor.scheduler.taken,
            paused=supervisor.controls.paused,
            queues=with_reasons_of_oldest(supervisor.queue_views(), oldest, supervisor),
            obstacle=supervisor.link.obstacle,
            resources=supervisor.resource_views(),
        )

    async def check_queue(self, name: str, *, pause: bool) -> None:
        """Refuse the name of a queue that is neither configured nor set and has no jobs: it may be mistyped.

        A queue may be paused before it has jobs, but a number is meant as a job.

        Raises:
            Refused: there is no such queue; the message suggests the name that was probably meant.
        """
        supervisor = self._supervisor
        if name in {NOTIFICATION_QUEUE, *known_queues(supervisor.config, supervisor.controls)}:
            return
        if pause and not name.isdecimal():
            return
        await supervisor.saved_unless_stuck()
        if not await self._store.read(summaries.has_jobs_in, name):
            raise unknown_queue(name, (view.name for view in supervisor.queue_views()), pause=pause)

    async def _list(self, request: requests.List, client: ClientConnection) -> None:
        await self._supervisor.saved_unless_stuck()  # the list must have what this client was told before
        part_of = partial(replies.JobsPart, request.id)
        wanted = lists.asked_by(request, time.time(), client.uid)
        async with client.in_turn():
            views, rest = await self._store.search(read.first_views, request, wanted)
            await send_parts(await self._completed(views), part_of, client)
        while rest:
            async with client.in_turn():
                views, rest = await self._store.search(read.next_views, rest)
                # some jobs may have left these states meanwhile
                views = [view for view in views if view.state in wanted.states]
                await send_parts(await self._completed(views), part_of, client)

    async def _completed(self, views: list[JobView]) -> list[JobView]:
        """Return the views of a list with what is known of their names, and why they wait."""
        return with_reasons(await self._with_usual_times(views), self._supervisor)

    async def _with_usual_times(self, views: list[JobView]) -> list[JobView]:
        if all(view.name is None for view in views):  # most lists of most people
            return views
        return await self._store.search(self._usual_times.add_to, views)

    async def _show(self, request: requests.Show, client: ClientConnection) -> None:
        job_id = request.job
        if job_id is None:
            job_id = await self._store.search(read.latest, client.uid)
            if job_id is None:
                raise NoSuchJob("you have no jobs yet")
        async with client.in_turn():
            view = await _view(self._store, job_id)
            job = self._supervisor.get(JobId(job_id))
            if job is not None and job.state is not view.state:  # it asks about itself, launched by permit
                await self._supervisor.saved()
                view = await _view(self._store, job_id)
            [view] = await self._with_usual_times([view])
            client.send(replies.Shown(request.id, view))
        log_dir = self._supervisor.config.log_dir
        after = 0
        views = None
        while views is None or views:
            async with client.in_turn():
                views = await self._store.read(read.attempts_of, JobId(job_id), after, ATTEMPTS_AT_ONCE)
                located = [replace(view, log_path=f"{log_dir}/{view.log_path}") for view in views]
                await send_parts(located, partial(replies.AttemptsPart, request.id), client)
            after = views[-1].attempt if views else after

    async def _steps(self, request: requests.GetSteps, client: ClientConnection) -> None:
        is_own = request.attempt is not None
        job_id, after = JobId(request.job), request.after
        if is_own:
            sizes = await self._store.read(steps.sizes_of, job_id)
            self._supervisor.steps.admit(request, client.pid, *sizes)
        part_of = partial(replies.StepsPart, request.id, store=self._store.store_id)
        client.send(part_of([]))  # a job needs the id of the store
        found: list[StepView] | None = None
        while found is None or found:
            async with client.in_turn():
                found = await self._store.read(
                    steps.steps_of, job_id, after, STEPS_AT_ONCE, with_values=is_own
                )
                await send_parts(found, part_of, client)
            after = found[-1].position if found else after

    async def _explain(self, request: requests.Explain, client: ClientConnection) -> replies.Explained:
        async with client.in_turn():
            await self._supervisor.saved_unless_stuck()  # its state on disk is the one to explain
            view = await _view(self._store, request.job)
            asker = client.pid if request.waits else None
            explanation = await explanation_of(view, self._supervisor, self._store, asker)
            # without the arguments: at their limit both do not fit into a frame
            return replies.Explained(request.id, replace(view, arguments=None), explanation)

    async def _result(self, request: requests.GetResult, client: ClientConnection) -> replies.Result:
        async with client.in_turn():
            view = await _view(self._store, request.job)
            value, error = await self._store.read(read.result_of, JobId(request.job))
            # without the arguments: at their limits both do not fit into a frame
            return replies.Result(request.id, replace(view, arguments=None), value, error)

    async def _logs(self, request: requests.Logs, client: ClientConnection) -> None:
        view = await _view(self._store, request.job)
        send = _follow_logs if request.follow else _send_logs
        await send(request, view, self._supervisor, self._store, client)

    async def _open_keyboard(self, request: requests.GetKeyboard, client: ClientConnection) -> None:
        job_id, link = JobId(request.job), self._supervisor.link
        with (
            self._supervisor.subscribe_to_log(job_id, client.pid) as subscription,
            self._supervisor.subscriptions.watch(subscription, lambda: (link.is_connected, link.absence)),
        ):
            view = await _view(self._store, job_id)
            while view.state not in FINAL or not request.wait:
                if (problem := _why_no_keyboard(view, wait=request.wait)) is not None:
                    raise Refused(problem)
                key = AttemptKey(self._store.store_id, job_id, view.attempt)
                has_begun = self._supervisor.dispatcher.has_begun(job_id)  # before the launcher is asked
                if view.state in ACTIVE and (opened := await link.open_keyboard(key)):
                    with opened[0] as keyboard:
                        reply = replies.KeyboardOpened(request.id, view.attempt, opened[1])
                        client.send_descriptor(reply, keyboard.fileno())
                    break
                problem = "its terminal is closed" if has_begun and link.is_connected else None
                if not request.wait and (problem := link.obstacle or problem):
                    raise Refused(f"job {job_id} has no keyboard now: {problem}")
                try:
                    async with asyncio.timeout(
                        None if request.wait or link.is_connected else ANSWER_PATIENCE
                    ):
                        await subscription.changed.wait()
                except TimeoutError:
                    raise Refused(f"job {job_id} has no keyboard now: no launcher is connected") from None
                subscription.changed.clear()
                view = await _view(self._store, job_id)

    async def _wait(self, request: requests.Wait, client: ClientConnection) -> None:
        waiting, progress = set(map(JobId, request.jobs)), partial(replies.ProgressPart, request.id)
        with self._supervisor.subscriptions.subscribe(
            waiting, progress=request.progress, pid=client.pid
        ) as subscription:
            if request.progress:
                reports = await self._store.search(read.progress_of, list(waiting))
                await send_parts(reports, progress, client)
            while waiting:
                moved = subscription.take_moved() & waiting
                finished = [job for job in moved if not self._supervisor.is_unfinished(job)]
                while finished:
                    async with client.in_turn():
                        views, finished = await self._ended(finished)
                        await send_parts(views, partial(replies.JobsPart, request.id), client)
                    waiting.difference_update(JobId(view.id) for view in views)
                await send_parts(subscription.take_progress(), progress, client)
                if request.only_now:
                    break
                if waiting:
                    await subscription.changed.wait()
                if len(waiting) > MANY_JOBS:  # a reply for each end costs a tenth of a short job
                    await asyncio.sleep(GROUP_SECONDS)

    async def _ended(self, job_ids: list[JobId]) -> tuple[list[JobView], list[JobId]]:
        """Return the views of those of these jobs that have finished, and the ids that it did not look at.

        A job whose end is still being written has not finished; it moves once more when that is done.
        """
        views, rest = await self._store.search(read.next_views, job_ids)
        looked_at = job_ids[: len(job_ids) - len(rest)]
        if missing := set(looked_at) - {view.id for view in views}:
            raise NoSuchJob(f"no job {min(missing)}")
        return [view for view in views if view.state in FINAL], rest

    async def _events(self, request: requests.GetEvents, client: ClientConnection) -> None:
        """Send the events after `request.since`; with `request.follow` also later ones, forever.

        Send the first part at once, even without events: it says where the stream begins.
        """
        with self._supervisor.subscriptions.subscribe_to_all(
            progress=request.progress and request.follow
        ) as subscription:
            await self._supervisor.saved_unless_stuck()  # not older than earlier answers to this client
            oldest, newest = await self._store.read(change_stream.event_bounds)
            since = request.since
            if since is None:
                since = newest if request.follow else oldest - 1
            await client.send_and_drain(
                replies.EventsPart(request.id, [], last=since, lost=since < oldest - 1)
            )
            while True:
                subscription.changed.clear()
                events = None
                while events is None or events:
                    async with client.in_turn():
                        events = await self._store.read(change_stream.read_events, since, EVENTS_AT_ONCE)
                        if events:
                            since = events[-1].id
                            await client.send_and_drain(_events_part(request, events))
                if not request.follow:
                    return
                reports = list(_progress_events(subscription.take_progress(), self._supervisor, since))
                for start in range(0, len(reports), EVENTS_AT_ONCE):
                    await client.send_and_drain(
                        replies.EventsPart(request.id, reports[start : start + EVENTS_AT_ONCE], last=since)
                    )
                await subscription.changed.wait()

    async def _stats(self, request: requests.GetStats, _: ClientConnection) -> replies.Stats:
        await self._supervisor.saved_unless_stuck()
        return await self._store.search(summaries.stats, request, time.time() - request.window)

    async def _usage(self, request: requests.GetUsage, _: ClientConnection) -> replies.JobUsages:
        return replies.JobUsages(request.id, *await self._supervisor.dispatcher.usage())

    async def _info(self, request: requests.GetInfo, _: ClientConnection) -> replies.Info:
        config = self._supervisor.config
        return replies.Info(
            id=request.id,
            version=bgd.__version__,
            pid=os.getpid(),
            started_at=self._started_at,
            state_dir=config.daemon.state_dir,
            socket=config.daemon.socket,
            config=config.source and as_utf8(config.source),
            slots=self._supervisor.slots,
            running=self._supervisor.scheduler.running,
            counts=await self._store.read(summaries.counts),
            launcher_pid=self._supervisor.link.pid,
            store_id=self._store.store_id,
            http=None if self.authenticator is None else self.authenticator.url,
            obstacle=self._supervisor.link.obstacle,
            log_dir=as_utf8(self._supervisor.config.log_dir),
            autostarted=self._autostarted,
        )

    async def _login(self, request: requests.GetLogin, client: ClientConnection) -> replies.Login:
        if self.authenticator is None:
            raise Refused("this daemon serves no pages: see [http] listen, and the daemon's log")
        return replies.Login(
            request.id, self.authenticator.login_link(client.uid, can_write=not request.read_only)
        )


async def _view(store: StoreReader, job_id: int, if_gone: str = "no job {}") -> JobView:
    view = await store.read(read.view, JobId(job_id))
    if view is None:
        raise NoSuchJob(if_gone.format(job_id))
    return view


def _why_no_keyboard(view: JobView, *, wait: bool) -> str | None:
    """Return why a job has no keyboard; with `wait` it may start later. None: it has one."""
    if not view.pty:
        what = "a class job has no terminal" if view.target is not None else "it was submitted without --pty"
        return f"job {view.id} has no keyboard: {what}; `bgctl run -it PROGRAM` starts a command with one"
    if view.state in FINAL and not wait:
        return f"job {view.id} has no keyboard: it has {view.state}; `bgctl retry {view.id}` runs it again"
    if view.state not in ACTIVE and not wait:
        return (
            f"job {view.id} has no keyboard: it is {view.state}; `bgctl explain {view.id}` says why it waits"
        )
    return None


async def send_parts(items: list[T], part_of: Callable[[list[T]], R], client: ClientConnection) -> None:
    """Send items in as many replies as it takes to fit each into a frame."""
    part_items: list[T] = []
    size = 0
    for item in items:
        item_size = len(encode(part_of([item])))
        if part_items and size + item_size > PART_BYTES:
            await client.send_and_drain(part_of(part_items))
            part_items, size = [], 0
        part_items.append(item)
        size += item_size
    if part_items:
        await client.send_and_drain(part_of(part_items))


# --- events


def _events_part(
    request: requests.GetEvents, events: Sequence[EventView | ScheduleEvent]
) -> replies.EventsPart:
    """Return a part with those events that this client understands."""
    of_jobs = [event for event in events if isinstance(event, EventView)]
    of_schedules = [event for event in events if isinstance(event, ScheduleEvent)]
    return replies.EventsPart(
        request.id, of_jobs, last=events[-1].id, schedules=of_schedules if request.schedules else []
    )


def _progress_events(
    reports: Iterable[JobProgress], supervisor: Supervisor, since: int
) -> Iterator[EventView]:
    """Yield progress as events, unless its attempt has ended; their id is that of the event before them."""
    for each in reports:
        job = supervisor.get(JobId(each.job))
        if job is not None and job.attempt == each.attempt:
            yield EventView(
                id=since,
                at=time.time(),
                job=each.job,
                what=PROGRESS,
                state=job.state,
                attempt=each.attempt,
                progress=each.progress,
            )


# --- logs


async def _send_logs(
    request: requests.Logs,
    view: JobView,
    supervisor: Supervisor,
    store: StoreReader,
    client: ClientConnection,
) -> None:
    """Send what the requested attempts have written so far, oldest first."""
    log_dir = supervisor.config.log_dir
    for attempt in _requested_attempts(request, view):
        log = LogReader(log_dir, view.id, attempt)
        is_later = request.offset is not None and attempt != request.attempt
        offset = await (_since(request, log) if is_later else _first_offset(request, log))
        # before the log is read: the attempt may end meanwhile
        written = await _written(supervisor, store, view.id, attempt)
        offset = await _send_from(request, log, attempt, offset, client)
        await _send_missing(request, log, attempt, offset, written, client)


async def _follow_logs(
    request: requests.Logs,
    view: JobView,
    supervisor: Supervisor,
    store: StoreReader,
    client: ClientConnection,
) -> None:
    """Send what attempts write until the job has finished; raise NoSuchJob if it is removed before.

    It misses nothing without polling, because it subscribes before its first read.
    """
    log_dir = supervisor.config.log_dir
    job_id = JobId(view.id)
    attempts = _requested_attempts(request, view)
    attempt = attempts[0] if attempts else view.attempt + 1
    offset = None if attempts else 0  # an attempt that is yet to come is sent whole
    with supervisor.subscribe_to_log(job_id, client.pid) as subscription:
        if request.tail is not None:  # a client that resumes needs to know where the output began
            offset = await _first_offset(request, LogReader(log_dir, view.id, attempt)) if attempts else 0
            await client.send_and_drain(replies.LogPart(request.id, attempt, b"", offset=offset))
        while True:
            if subscription.take_moved():
                view = await _view(store, job_id, "job {} has been removed")
            while attempt <= view.attempt:
                log = LogReader(log_dir, view.id, attempt)
                if offset is None:
                    offset = await _first_offset(request, log)
                offset = await _send_from(request, log, attempt, offset, client)
                if attempt < view.attempt or view.state in FINAL:
                    written = await _written(supervisor, store, view.id, attempt)
                    await _send_missing(request, log, attempt, offset, written, client)
                if attempt == view.attempt:
                    break  # it may write more
                attempt += 1
                offset = await _since(request, LogReader(log_dir, view.id, attempt))
            if view.state in FINAL:
                return
            await subscription.changed.wait()


def _requested_attempts(request: requests.Logs, view: JobView) -> range:
    """Return the numbers of those requested attempts that exist.

    Raises:
        Refused: the job has no attempt of the requested number; or an offset comes without a number.
    """
    if request.offset is not None and not request.attempt:
        raise Refused("an offset needs the number of an attempt: ask for that too")
    if request.attempt is None:
        return range(max(view.attempt, 1), view.attempt + 1)
    if request.attempt == 0:
        return range(1, view.attempt + 1)
    is_next = request.offset == 0 and request.attempt == view.attempt + 1
    if request.attempt > view.attempt and not is_next:
        raise Refused(f"job {view.id} has no attempt {request.attempt}: it has had {view.attempt}")
    return range(request.attempt, request.attempt + 1 if request.offset is None else view.attempt + 1)


async def _first_offset(request: requests.Logs, log: LogReader) -> int:
    if request.offset is not None:
        return request.offset
    since = await _since(request, log)
    return (
        since if request.tail is None else max(since, await asyncio.to_thread(log.tail_offset, request.tail))
    )


async def _since(request: requests.Logs, log: LogReader) -> int:
    return 0 if request.since is None else await asyncio.to_thread(log.offset_since, request.since)


async def _send_from(
    request: requests.Logs, log: LogReader, attempt: int, offset: int, client: ClientConnection
) -> int:
    """Send the log from an offset to its present end; return that end."""
    while True:
        async with client.in_turn():
            chunk = await asyncio.to_thread(log.read, offset, LOG_PART_BYTES)
            if not chunk.data:
                return offset
            await client.send_and_drain(_part(request, attempt, chunk))
        offset = chunk.offset + len(chunk.data)


async def _written(supervisor: Supervisor, store: StoreReader, job: int, attempt: int) -> int:
    """Return how many bytes an attempt has written at least, or in all if it has ended."""
    found = await store.read(read.attempts_of, JobId(job), attempt - 1, 1)
    if not found or found[0].attempt != attempt:
        return 0
    if found[0].outcome is None:
        return supervisor.lost_output.written(AttemptKey(store.store_id, job, attempt))
    return expected_log_bytes(found[0])


async def _send_missing(
    request: requests.Logs, log: LogReader, attempt: int, offset: int, written: int, client: ClientConnection
) -> None:
    """Tell the client how many bytes are missing at the end of the log, if any are."""
    chunk = await asyncio.to_thread(log.missing, offset, written)
    if chunk is not None:
        await client.send_and_drain(_part(request, attempt, chunk))


def _part(request: requests.Logs, attempt: int, chunk: LogChunk) -> replies.LogPart:
    times = chunk.times if request.timestamps else []
    return replies.LogPart(
        request.id, attempt, chunk.data, times, chunk.left_out, chunk.offset, chunk.missing
    )
