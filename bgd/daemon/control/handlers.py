"""Answers to requests: new jobs, actions on jobs, settings of queues, and maintenance."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, assert_never

from msgspec import UNSET
from msgspec.structs import replace

from bgd.core.job import VERBS, JobId, Now, State
from bgd.core.spec import JobSpec, problem_with_environment
from bgd.daemon import doctor
from bgd.daemon.access import Actor
from bgd.daemon.backups import Backups
from bgd.daemon.control.reads import ReadHandler, ReadRequest, ReplySender, send_parts
from bgd.daemon.idempotency import lines_of
from bgd.daemon.job_actions import JobActions
from bgd.daemon.launching import LauncherLink
from bgd.daemon.notifications import Notifications
from bgd.daemon.queue_controls import reset_queue, set_paused, set_queue_slots
from bgd.daemon.retention import Retention, requested_limits
from bgd.daemon.schedules import Schedules
from bgd.daemon.storage.lists import selected_by
from bgd.daemon.storage.records import QueueControls, Submission
from bgd.daemon.supervisor import Supervisor
from bgd.errors import ProtocolError, Refused
from bgd.escape import as_utf8
from bgd.wire.messages import tag_of
from bgd.wire.replies import (
    Acted,
    ActResult,
    BackupPart,
    BatchRuns,
    Checkup,
    Done,
    End,
    Pruned,
    Reloaded,
    Reply,
    Submitted,
)
from bgd.wire.requests import (
    Act,
    Edit,
    Forget,
    GetBackup,
    GetBatch,
    GetCheckup,
    Pause,
    Prune,
    Reload,
    RemoveQueue,
    Request,
    Resume,
    Selection,
    SendSignal,
    SendTest,
    SetProgress,
    SetQueue,
    SetSlots,
    Shutdown,
    ShutdownMode,
    Submit,
    SubmitMany,
)
from bgd.wire.schedules import (
    GetHistory,
    GetSchedules,
    HistoryPart,
    PauseSchedule,
    RemoveSchedule,
    RunSchedule,
    ScheduleRequest,
    SchedulesPart,
    SchedulesSet,
    SetSchedule,
    SetSchedules,
)
from bgd.wire.views import Finding, JobProgress, Progress

ACTIONS_PER_TRANSACTION = 200  # of one request: all others wait for the transaction

QueueRequest = SetSlots | SetQueue | RemoveQueue | Pause | Resume
MaintenanceRequest = Prune | GetBackup | GetCheckup | SendTest


class RequestHandler:
    """Answers requests of actors that may connect.

    Args:
        shut_down: ends the daemon in the given way; None means as configured.
        reload: reads the configuration again; returns what takes effect only at the next start.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        actions: JobActions,
        maintenance: MaintenanceHandler,
        reads: ReadHandler,
        schedules: ScheduleHandler,
        shut_down: Callable[[ShutdownMode | None], None],
        *,
        reload: Callable[[], Awaitable[list[str]]],
    ) -> None:
        self._supervisor = supervisor
        self._actions = actions
        self._maintenance = maintenance
        self._idempotency = actions.idempotency
        self._batches = actions.batches
        self._reads = reads
        self._schedules = schedules
        self._shut_down = shut_down
        self._reload = reload

    @property
    def newest(self) -> int:
        """The id of the newest job on disk."""
        return self._supervisor.newest_id

    # --- the hot path: no task, no await --------------------------------------------------------------

    def submit(self, request: Submit, actor: Actor, reply: Callable[[Reply], None]) -> None:
        """Submit one job that waits for no other; call `reply` when the job is on disk.

        Raises:
            Refused: it cannot be a job.
        """
        self._actions.check([request.spec])
        submitted = self._actions.submit([request.spec], actor.uid)
        self._idempotency.remember(request, submitted)
        self._supervisor.when_saved(lambda: reply(self._submitted(request.id, submitted)))

    def submit_many(self, parts: list[SubmitMany], actor: Actor, reply: Callable[[Reply], None]) -> None:
        """Submit all jobs of a batch in one transaction, or none; none of them waits for another job.

        Raises:
            Refused: one of them cannot be a job.
        """
        self._check(parts)
        submitted = self._submit_parts(parts, actor)
        self._supervisor.when_saved(lambda: reply(self._submitted(parts[0].id, submitted)))

    def report(self, request: SetProgress, reply: Callable[[Reply], None]) -> None:
        """Record the progress of an attempt; call `reply` at once, or later if it reports very often."""
        progress = JobProgress(request.job, request.attempt, Progress(request.fraction, request.message))
        self._supervisor.progress.report(progress, lambda: reply(Done(request.id)))

    # --- jobs that wait for others, and requests that are sent again: these have to be looked up --------

    def may_be_duplicate(self, request: Submit | SubmitMany) -> bool:
        """Return whether the request may have been answered before; if so, `submit_once` has to handle it."""
        return self._idempotency.may_be_duplicate(request)

    async def submit_once(self, parts: list[SubmitMany], actor: Actor) -> Reply:
        """Submit a batch unless that has been done before; return the reply once all is on disk.

        Raises:
            Refused: one of them cannot be a job.
        """
        async with self._idempotency.exclusive(parts[0]):
            submitted = await self._idempotency.recall(parts[0])
            if submitted is None:
                specs = self._check(parts)
                self._actions.check_dependency_limit(specs)
                others = {other for spec in specs for other in (*spec.after, *spec.after_any)}
                finished, at = await self._actions.finished_dependencies(others)
                # others may have been submitted meanwhile
                self._actions.check_dependency_limit(specs)
                self._check_place(parts)
                submitted = self._submit_parts(parts, actor, finished, at)
        await self._supervisor.saved()
        return self._submitted(parts[0].id, submitted)

    # --- everything else --------------------------------------------------------------------------------

    async def answer(  # noqa: C901 (a flat list of cases)
        self, request: Request | ScheduleRequest, actor: Actor, replies: ReplySender
    ) -> None:
        """Answer one request, with one reply or a stream of them.

        Raises:
            BgdError: the request is refused; the caller tells the client.
        """
        if isinstance(request, ReadRequest):
            await self._reads.answer(request, actor, replies)
        elif isinstance(request, Act | SendSignal | Edit):
            await self._act(request, actor, replies)
        elif isinstance(request, QueueRequest):
            replies.send(await self._set_queues(request))
        elif isinstance(request, MaintenanceRequest):
            await self._maintenance.answer(request, replies)
        elif isinstance(request, ScheduleRequest):
            await self._schedules.answer(request, actor, replies)
        elif isinstance(request, GetBatch):
            await self._send_batch(request, replies)
        elif isinstance(request, Submit):
            batch = SubmitMany(id=request.id, specs=[request.spec], token=request.token, again=request.again)
            replies.send(await self.submit_once([batch], actor))
        elif isinstance(request, Reload):
            replies.send(await self._reload_configuration(request))
        elif isinstance(request, Shutdown):
            replies.send(Done(request.id))
            self._shut_down(request.mode)
        elif isinstance(request, SubmitMany | SetProgress | Forget):
            raise ProtocolError(f"{type(request).__name__} is not answered here")
        else:
            assert_never(request)

    async def _act(self, request: Act | SendSignal | Edit, actor: Actor, replies: ReplySender) -> None:
        """Apply a verb to each of several jobs, once; a refusal for one does not affect the others."""
        actions, verb = self._actions.asked_by(actor.name), tag_of(request)
        given = {name: getattr(request, name) for name in request.__struct_fields__ if name not in _WHICH}
        if request.where is not None:
            await self._act_on_all(request.id, actions, verb, request.where, given, replies)
            return
        jobs, results = list(dict.fromkeys(request.jobs)), dict[int, ActResult]()
        for start in range(0, len(jobs), ACTIONS_PER_TRANSACTION):
            done = await actions.act(verb, jobs[start : start + ACTIONS_PER_TRANSACTION], **given)
            results |= {each.job: each for each in done}
            await self._supervisor.saved()
        replies.send(Acted(request.id, [results[job] for job in request.jobs]))

    async def _act_on_all(
        self,
        number: int,
        actions: JobActions,
        verb: str,
        where: Selection,
        given: dict[str, Any],
        replies: ReplySender,
    ) -> None:
        wanted = selected_by(where, VERBS[verb])
        if where.dry_run:
            async with aclosing(actions.states_of_all(wanted, where.after)) as found:
                async for states in found:
                    await replies.send_and_drain(Acted(number, [ActResult(*each) for each in states.items()]))
        else:
            async with aclosing(actions.act_on_all(verb, wanted, where.after, **given)) as portions:
                async for results in portions:
                    await replies.send_and_drain(Acted(number, results))
        replies.send(End(number))

    async def _set_queues(self, request: QueueRequest) -> Reply:
        is_repeated = getattr(request, "repeated", False)
        if isinstance(request, Pause | Resume) and request.queue is not None and not is_repeated:
            await self._reads.check_queue(request.queue, pause=isinstance(request, Pause))
        self._supervisor.set_controls(_with_request(self._supervisor.controls, request))
        await self._supervisor.saved()
        return await self._reads.queues(request.id)

    async def _reload_configuration(self, request: Reload) -> Reply:
        postponed = await self._reload()
        await self._supervisor.saved()  # the new configuration may have changed jobs that wait
        source = self._supervisor.config.source
        return Reloaded(request.id, source and as_utf8(source), postponed)

    def _check(self, parts: list[SubmitMany]) -> list[JobSpec]:
        """Check a batch, and return all its specs.

        Raises:
            Refused: one of them cannot be a job; the message says which.
        """
        for part in parts:  # check each environment once, not once per job
            problem = problem_with_environment(part.env or {})
            if problem is not None:
                raise Refused(f"of the batch: {problem}")
        self._check_place(parts)
        place = parts[0].place
        lines = () if place is UNSET else list(lines_of(place))
        specs = [spec for part in parts for spec in part.specs]
        self._actions.check(specs, lines)
        return specs

    def _check_place(self, parts: list[SubmitMany]) -> None:
        place = parts[0].place
        if place is not UNSET:
            self._batches.check(place, sum(len(part.specs) for part in parts))

    def _submit_parts(
        self,
        parts: list[SubmitMany],
        actor: Actor,
        finished: Mapping[JobId, State] | None = None,
        at: Now | None = None,
    ) -> Submission:
        """Submit a checked batch; note on disk, in the same transaction, which request made these jobs."""
        submitted = Submission()
        for part in parts:
            self._actions.submit(part.specs, actor.uid, part.env, finished, at, into=submitted)
        if (place := parts[0].place) is not UNSET:
            self._batches.take(place, submitted.jobs)
        else:
            self._idempotency.remember(parts[0], submitted)
        return submitted

    async def _send_batch(self, request: GetBatch, replies: ReplySender) -> None:
        last, after = await self._batches.open(request), request.after
        while runs := await self._batches.runs(request.batch, after, last):
            await replies.send_and_drain(BatchRuns(request.id, runs, last))
            after = runs[-1][0]
        replies.send(BatchRuns(request.id, [], last))
        replies.send(End(request.id))

    def _submitted(self, request_id: int, submitted: Submission) -> Submitted:
        return Submitted(
            request_id,
            submitted.jobs,
            created=not submitted.found,
            found=submitted.found,
            obstacle=self._supervisor.link.absence,
        )


_WHICH = {"id", "jobs", "where"}  # fields of requests that act on jobs; the others say how


def _with_request(controls: QueueControls, request: QueueRequest) -> QueueControls:
    match request:
        case SetSlots():
            return replace(controls, slots=request.slots)
        case SetQueue():
            return set_queue_slots(controls, request.queue, request.slots)
        case RemoveQueue():
            if request.repeated and request.queue not in controls.queues:
                return controls
            return reset_queue(controls, request.queue)
        case Pause():
            return set_paused(controls, request.queue, paused=True)
        case Resume():
            return set_paused(controls, request.queue, paused=False)


class ScheduleHandler:
    """Answers requests about schedules."""

    def __init__(self, supervisor: Supervisor, schedules: Schedules) -> None:
        self._supervisor = supervisor
        self._schedules = schedules

    async def answer(self, request: ScheduleRequest, actor: Actor, replies: ReplySender) -> None:
        """Answer one request, with one reply or a stream of them.

        Raises:
            BgdError: the request is refused; the caller tells the client.
        """
        schedules = self._schedules
        match request:
            case GetSchedules():
                views = await schedules.views(request.name, request.upcoming)
                await send_parts(views, partial(SchedulesPart, request.id), replies)
                replies.send(End(request.id))
            case SetSchedule() | SetSchedules():
                await self._store(request, actor, replies)
            case RemoveSchedule():
                if not request.repeated or schedules.has(request.name):
                    schedules.remove(request.name)
                await self._supervisor.saved()
                replies.send(Done(request.id))
            case PauseSchedule():
                schedules.set_paused(request.name, paused=request.paused)
                await self._send_one(request.id, request.name, replies)
            case RunSchedule():
                job = schedules.run_now(request.name, actor.name)
                await self._supervisor.saved()
                replies.send(Submitted(request.id, [job], obstacle=self._supervisor.link.obstacle))
            case GetHistory():
                rows = await schedules.history(request.name, request.limit, request.before)
                replies.send(HistoryPart(request.id, rows))

    async def _store(self, request: SetSchedule | SetSchedules, actor: Actor, replies: ReplySender) -> None:
        schedules = self._schedules
        if isinstance(request, SetSchedule):
            if not (request.repeated and schedules.has(request.name, request.spec)):
                await schedules.set(
                    request.name, request.spec, actor.uid, replaces=request.replaces, digest=request.digest
                )
            await self._send_one(request.id, request.name, replies)
            return
        stored = await schedules.set_many(
            request.schedules, actor.uid, replaces=request.replaces, repeated=request.repeated
        )
        await self._supervisor.saved()
        replies.send(SchedulesSet(request.id, *stored))

    async def _send_one(self, request_id: int, name: str, replies: ReplySender) -> None:
        await self._supervisor.saved()
        replies.send(SchedulesPart(request_id, await self._schedules.views(name, 1)))


class MaintenanceHandler:
    """Deletes old jobs, sends backups and tests, and runs checks, without blocking others."""

    def __init__(
        self,
        supervisor: Supervisor,
        link: LauncherLink,
        retention: Retention,
        backups: Backups,
        notifications: Notifications,
    ) -> None:
        self._supervisor = supervisor
        self._link = link
        self._retention = retention
        self._backups = backups
        self._notifications = notifications
        self._checking = asyncio.Lock()  # a check may take long, and there are few threads

    async def answer(self, request: MaintenanceRequest, replies: ReplySender) -> None:
        """Answer one request, with one reply or a stream of them.

        Raises:
            Refused: it cannot be done.
        """
        match request:
            case Prune():
                await self._prune(request, replies)
                replies.send(End(request.id))
            case GetBackup():
                await self._send_backup(request, replies)
                replies.send(End(request.id))
            case GetCheckup():
                replies.send(Checkup(request.id, await self._findings()))
            case SendTest():
                job = self._notifications.test(request.target)
                await self._supervisor.saved()
                replies.send(Submitted(request.id, [job], obstacle=self._supervisor.link.obstacle))

    async def _prune(self, request: Prune, replies: ReplySender) -> None:
        keep = requested_limits(request, self._supervisor.config)
        if request.dry_run:
            replies.send(Pruned(request.id, *await self._retention.dry_run(keep)))
            return
        replies.send(Pruned(request.id, 0, 0))
        async with aclosing(self._retention.prune(keep)) as passes:
            async for jobs, log_bytes in passes:
                await replies.send_and_drain(Pruned(request.id, jobs, log_bytes))

    async def _send_backup(self, request: GetBackup, replies: ReplySender) -> None:
        async with self._backups.download() as (size, pieces), aclosing(pieces):
            async for data in pieces:
                await replies.send_and_drain(BackupPart(request.id, size, data))

    async def _findings(self) -> list[Finding]:
        async with self._checking:
            found = await doctor.check_all(self._supervisor.config, self._backups.folders)
        found += self._supervisor.lost_output.findings()
        found += await self._notifications.findings()
        return [*found, *doctor.check_parts(self._link, self._backups)]
