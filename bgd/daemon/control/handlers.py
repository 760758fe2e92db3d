"""Answers to requests: new jobs, actions on jobs, settings of queues, and maintenance."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from msgspec import UNSET
from msgspec.structs import replace

from bgd.core.job import VERBS, JobId, Now, State
from bgd.core.spec import JobSpec, problem_with_environment
from bgd.daemon import doctor
from bgd.daemon.access import check_dependencies, user_name
from bgd.daemon.backups import Backups
from bgd.daemon.control.inboxes import Inboxes
from bgd.daemon.control.reads import Answers, ReadHandler, send_parts
from bgd.daemon.idempotency import lines_of
from bgd.daemon.job_actions import JobActions
from bgd.daemon.notifications import Notifications
from bgd.daemon.queue_controls import reset_queue, set_queue
from bgd.daemon.retention import Retention, requested_limits
from bgd.daemon.schedules import Schedules
from bgd.daemon.storage.lists import selected_by
from bgd.daemon.storage.records import QueueControls, Submission
from bgd.daemon.supervisor import Supervisor
from bgd.errors import Refused
from bgd.text.escape import as_utf8
from bgd.wire import replies, requests, schedules
from bgd.wire.messages import tag_of
from bgd.wire.replies import Reply
from bgd.wire.requests import Request
from bgd.wire.views import JobProgress, Progress

if TYPE_CHECKING:
    from bgd.daemon.control.connection import ClientConnection

ACTIONS_PER_TRANSACTION = 200  # of one request: all others wait for the transaction

QueueRequest = requests.SetSlots | requests.SetQueue | requests.RemoveQueue | requests.Pause | requests.Resume


class RequestHandler:
    """Answers requests of users who may connect.

    Args:
        shut_down: ends the daemon in the given way; None means as configured.
        reload: reads the configuration again; returns what takes effect only at the next start.
    """

    def __init__(  # noqa: PLR0913 (the parts of the daemon that clients talk to)
        self,
        supervisor: Supervisor,
        actions: JobActions,
        reads: ReadHandler,
        *,
        schedules: Schedules,
        retention: Retention,
        backups: Backups,
        notifications: Notifications,
        inboxes: Inboxes,
        shut_down: Callable[[requests.ShutdownMode | None], None],
        reload: Callable[[], Awaitable[list[str]]],
    ) -> None:
        self._supervisor = supervisor
        self._actions = actions
        self._reads = reads
        self._schedules = schedules
        self._retention = retention
        self._backups = backups
        self._notifications = notifications
        self._idempotency = actions.idempotency
        self._shut_down = shut_down
        self._reload = reload
        self._checking = asyncio.Lock()  # a check may take long, and there are few threads
        self._answers = self._own_answers() | reads.answers | inboxes.answers

    def _own_answers(self) -> Answers:
        return {
            **dict.fromkeys(get_args(requests.Action), self._act),
            **dict.fromkeys(get_args(QueueRequest), self._set_queues),
            requests.Submit: self._submit_single,
            requests.GetBatch: self._send_batch,
            requests.GetBatches: self._send_batches,
            requests.CloseBatch: self._close_batch,
            schedules.GetSchedules: self._send_schedules,
            schedules.SetSchedule: self._set_schedule,
            schedules.SetSchedules: self._set_schedules,
            schedules.RemoveSchedule: self._remove_schedule,
            schedules.PauseSchedule: self._pause_schedule,
            schedules.RunSchedule: self._run_schedule,
            schedules.GetHistory: self._history,
            requests.Prune: self._prune,
            requests.GetBackup: self._send_backup,
            requests.GetCheckup: self._check_up,
            requests.SendTest: self._send_test,
            requests.Reload: self._reload_configuration,
            requests.Shutdown: self._end,
        }

    @property
    def newest(self) -> int:
        """The id of the newest job on disk."""
        return self._supervisor.newest_id

    # --- the hot path: no task, no await --------------------------------------------------------------

    def submit(self, request: requests.Submit, uid: int, reply: Callable[[Reply], None]) -> None:
        """Submit one job that waits for no other; call `reply` when the job is on disk.

        Raises:
            Refused: it cannot be a job.
        """
        self._actions.check([request.spec])
        if request.spec.batch is not None:
            self._actions.batches.check_may_join(request.spec, uid)
        submitted = self._actions.submit([request.spec], uid)
        self._idempotency.remember(request, submitted)
        self._supervisor.when_saved(lambda: reply(self._submitted(request.id, submitted)))

    def submit_many(self, parts: list[requests.SubmitMany], uid: int, reply: Callable[[Reply], None]) -> None:
        """Submit all jobs of a batch in one transaction, or none; none of them waits for another job.

        Raises:
            Refused: one of them cannot be a job.
        """
        self._check(parts, uid)
        submitted = self._submit_parts(parts, uid)
        self._supervisor.when_saved(lambda: reply(self._submitted(parts[0].id, submitted)))

    def report(self, request: requests.SetProgress, reply: Callable[[Reply], None]) -> None:
        """Record the progress of an attempt; call `reply` at once, or later if it reports very often."""
        progress = JobProgress(request.job, request.attempt, Progress(request.fraction, request.message))
        self._supervisor.progress.report(progress, lambda: reply(replies.Done(request.id)))

    def save_step(self, step: requests.SaveStep, pid: int, reply: Callable[[Reply], None]) -> None:
        """Record a step for a process of its job; call `reply` when it is on disk.

        Raises:
            Refused: this process may not record it.
        """

        def saved() -> None:
            reply(replies.Done(step.id))
            self._supervisor.subscriptions.notify_step(step.job)

        self._supervisor.steps.check(step, pid)
        self._supervisor.transaction.steps.append(step)
        self._supervisor.when_saved(saved)

    # --- jobs that wait for others, and requests that are sent again: these have to be looked up --------

    def may_be_duplicate(self, request: requests.Submit | requests.SubmitMany) -> bool:
        """Return whether the request may have been answered before; if so, `submit_once` has to handle it."""
        match request:  # most submits have no batch, and this costs them no call
            case requests.SubmitMany(
                place=requests.BatchPlace(batch=token, after=after), batch=requests.NewBatch()
            ) if after:
                if not self._actions.batches.is_open(token):
                    return True
        return self._idempotency.may_be_duplicate(request)

    def may_follow_finished(self, parts: list[requests.SubmitMany]) -> bool:
        """Return whether a job of a chain follows a finished one, which has the key of the job before."""
        return parts[0].chain and any(self._actions.has_kept_key(part.specs) for part in parts)

    async def submit_once(self, parts: list[requests.SubmitMany], uid: int) -> Reply:
        """Submit a batch unless that has been done before; return the reply once all is on disk.

        Raises:
            Refused: one of them cannot be a job.
        """
        async with self._idempotency.exclusive(parts[0]):
            submitted = await self._idempotency.recall(parts[0])
            if submitted is None:
                specs = self._check(parts, uid)
                check_dependencies(specs, self._supervisor.scheduler.waits)
                place, has_batch = parts[0].place, parts[0].batch is not UNSET
                token = place.batch if has_batch and place is not UNSET else None
                async with (
                    self._actions.keeping_jobs(specs, always=has_batch or parts[0].chain),
                    self._actions.batches.reopened(token, uid),
                ):
                    finished, at = await self._finished_before(specs, chain=parts[0].chain)
                    # others may have been submitted meanwhile
                    check_dependencies(specs, self._supervisor.scheduler.waits)
                    self._check_place(parts, specs, uid)
                    submitted = self._submit_parts(parts, uid, finished, at)
        await self._supervisor.saved()
        return self._submitted(parts[0].id, submitted)

    async def _finished_before(self, specs: list[JobSpec], *, chain: bool) -> tuple[dict[JobId, State], Now]:
        """Return what `finished_dependencies` returns for those that new jobs wait for."""
        others = {JobId(other) for spec in specs for other in (*spec.after, *spec.after_any)}
        while True:
            holders = self._actions.key_holders(specs) if chain else set[JobId]()
            found = await self._actions.finished_dependencies(others | holders)
            if not chain or self._actions.key_holders(specs) <= holders:
                return found

    # --- everything else --------------------------------------------------------------------------------

    async def answer(self, request: Request, client: ClientConnection) -> None:
        """Answer one request, with one reply or a stream of them.

        Raises:
            BgdError: the request is refused; the caller tells the client.
        """
        reply = await self._answers[type(request)](request, client)
        client.send(replies.End(request.id) if reply is None else reply)

    async def _submit_single(self, request: requests.Submit, client: ClientConnection) -> Reply:
        batch = requests.SubmitMany(
            id=request.id, specs=[request.spec], token=request.token, again=request.again
        )
        return await self.submit_once([batch], client.uid)

    async def _act(self, request: requests.Action, client: ClientConnection) -> Reply | None:
        """Apply a verb to each of several jobs, once; a refusal for one does not affect the others."""
        actions, verb = self._actions.asked_by(user_name(client.uid)), tag_of(request)
        given = {name: getattr(request, name) for name in request.__struct_fields__ if name not in _WHICH}
        if request.where is not None:
            await self._act_on_all(request.id, actions, verb, request.where, given, client)
            return None
        results: dict[int, replies.ActResult] = {}
        rest = sorted({*request.jobs})  # jobs wait for earlier ones, which are retried before them
        while rest:
            done = await actions.act(verb, rest[:ACTIONS_PER_TRANSACTION], **given)
            along = [self._supervisor.get(JobId(job)) for each in done for job in each.along]
            results |= {job.id: replies.ActResult(job.id, job.state) for job in along if job is not None}
            results |= {each.job: each for each in done}
            rest = [job for job in rest[ACTIONS_PER_TRANSACTION:] if job not in results]
            await self._supervisor.saved()
        return replies.Acted(request.id, [results[job] for job in request.jobs])

    async def _act_on_all(
        self,
        number: int,
        actions: JobActions,
        verb: str,
        where: requests.Selection,
        given: dict[str, Any],
        client: ClientConnection,
    ) -> None:
        wanted = selected_by(where, VERBS[verb], time.time())
        if where.dry_run:
            async with aclosing(actions.states_of_all(wanted, where.after)) as found:
                async for states in found:
                    await client.send_and_drain(
                        replies.Acted(number, [replies.ActResult(*each) for each in states.items()])
                    )
        else:
            async with aclosing(actions.act_on_all(verb, wanted, where.after, **given)) as portions:
                async for results in portions:
                    await client.send_and_drain(replies.Acted(number, results))

    async def _set_queues(self, request: QueueRequest, client: ClientConnection) -> Reply:
        is_repeated = getattr(request, "repeated", False)
        if (
            isinstance(request, requests.Pause | requests.Resume)
            and request.queue is not None
            and not is_repeated
        ):
            await self._reads.check_queue(request.queue, pause=isinstance(request, requests.Pause))
        await self._supervisor.set_controls(_with_request(self._supervisor.controls, request))
        return await self._reads.queues(request, client)

    async def _reload_configuration(self, request: requests.Reload, _: ClientConnection) -> Reply:
        postponed = await self._reload()
        await self._supervisor.saved()  # the new configuration may have changed jobs that wait
        source = self._supervisor.config.source
        return replies.Reloaded(request.id, source and as_utf8(source), postponed)

    def _check_place(self, parts: list[requests.SubmitMany], specs: list[JobSpec], uid: int) -> None:
        """Check that these lines come next, and that the jobs may join the batches that they name."""
        self._idempotency.check_lines(parts)
        for spec in specs:
            self._actions.batches.check_may_join(spec, uid)

    def _check(self, parts: list[requests.SubmitMany], uid: int) -> list[JobSpec]:
        """Check a batch, and return all its specs.

        Raises:
            Refused: one of them cannot be a job; the message says which.
        """
        for part in parts:  # check each environment once, not once per job
            problem = problem_with_environment(part.env or {})
            if problem is not None:
                raise Refused(f"of the batch: {problem}")
        place, batch = parts[0].place, parts[0].batch
        specs = [spec for part in parts for spec in part.specs]
        self._check_place(parts, specs, uid)
        lines = () if place is UNSET else list(lines_of(place))
        if parts[0].chain:
            self._actions.check_chain(specs)
        else:
            self._actions.check(specs, lines)
        if batch is not UNSET:
            if place is UNSET:
                raise Refused("a batch needs a place")
            self._actions.batches.check(place.batch, batch)
        return specs

    def _submit_parts(
        self,
        parts: list[requests.SubmitMany],
        uid: int,
        finished: Mapping[JobId, State] | None = None,
        at: Now | None = None,
    ) -> Submission:
        """Submit a checked batch; note on disk, in the same transaction, which request made these jobs."""
        first, submitted = parts[0], Submission()
        if (place := first.place) is not UNSET and first.batch is not UNSET:
            submitted.batch = self._actions.batches.make(place.batch, first.batch, uid)
        for part in parts:
            specs = part.specs
            if submitted.batch is not None:
                specs = [replace(spec, batch=submitted.batch) for spec in specs]
            self._actions.submit(specs, uid, part.env, finished, at, into=submitted, chain=first.chain)
        self._supervisor.advance(at)
        if place is not UNSET:
            self._idempotency.take_lines(place, submitted.jobs)
        else:
            self._idempotency.remember(first, submitted)
        return submitted

    async def _send_batch(self, request: requests.GetBatch, client: ClientConnection) -> None:
        last, after = await self._idempotency.open_batch(request), request.after
        batch = await self._actions.batches.id_of(request.batch)
        while runs := await self._idempotency.runs_of_batch(request.batch, after, last):
            await client.send_and_drain(replies.BatchRuns(request.id, runs, last, batch))
            after = runs[-1][0]
        client.send(replies.BatchRuns(request.id, [], last, batch))

    async def _send_batches(self, request: requests.GetBatches, client: ClientConnection) -> None:
        views = await self._actions.batches.views(request)
        if not views:
            client.send(replies.BatchesPart(request.id, []))
        await send_parts(views, partial(replies.BatchesPart, request.id), client)

    async def _close_batch(self, request: requests.CloseBatch, client: ClientConnection) -> Reply:
        return replies.BatchesPart(request.id, [await self._actions.batches.close(request, client.uid)])

    def _submitted(self, request_id: int, submitted: Submission) -> replies.Submitted:
        return replies.Submitted(
            request_id,
            submitted.jobs,
            created=not submitted.found,
            found=submitted.found,
            obstacle=self._supervisor.link.absence,
            batch=UNSET if submitted.batch is None else submitted.batch,
        )

    async def _end(self, request: requests.Shutdown, _: ClientConnection) -> Reply:
        self._shut_down(request.mode)
        return replies.Done(request.id)

    # --- schedules --------------------------------------------------------------------------------------

    async def _send_schedules(self, request: schedules.GetSchedules, client: ClientConnection) -> None:
        views = await self._schedules.views(request.name, request.upcoming)
        await send_parts(views, partial(schedules.SchedulesPart, request.id), client)

    async def _set_schedule(self, request: schedules.SetSchedule, client: ClientConnection) -> Reply:
        await self._schedules.set(
            {request.name: request.spec},
            client.uid,
            replaces=request.replaces,
            repeated=request.repeated,
            digests={request.name: request.digest} if request.replaces else {},
        )
        return await self._one_schedule(request)

    async def _set_schedules(self, request: schedules.SetSchedules, client: ClientConnection) -> Reply:
        stored = await self._schedules.set(
            request.schedules, client.uid, replaces=request.replaces, repeated=request.repeated
        )
        await self._supervisor.saved()
        return schedules.SchedulesSet(request.id, *stored)

    async def _remove_schedule(self, request: schedules.RemoveSchedule, _: ClientConnection) -> Reply:
        if not request.repeated or self._schedules.has(request.name):
            self._schedules.remove(request.name)
        await self._supervisor.saved()
        return replies.Done(request.id)

    async def _pause_schedule(self, request: schedules.PauseSchedule, _: ClientConnection) -> Reply:
        self._schedules.set_paused(request.name, paused=request.paused)
        return await self._one_schedule(request)

    async def _run_schedule(self, request: schedules.RunSchedule, client: ClientConnection) -> Reply:
        return await self._queued(request, self._schedules.run_now(request.name, user_name(client.uid)))

    async def _history(self, request: schedules.GetHistory, _: ClientConnection) -> Reply:
        rows = await self._schedules.history(request.name, request.limit, request.before)
        return schedules.HistoryPart(request.id, rows)

    async def _one_schedule(self, request: schedules.SetSchedule | schedules.PauseSchedule) -> Reply:
        await self._supervisor.saved()
        return schedules.SchedulesPart(request.id, await self._schedules.views(request.name, 1))

    async def _queued(self, request: schedules.RunSchedule | requests.SendTest, job: JobId) -> Reply:
        await self._supervisor.saved()
        return replies.Submitted(request.id, [job], obstacle=self._supervisor.link.obstacle)

    # --- maintenance ------------------------------------------------------------------------------------

    async def _prune(self, request: requests.Prune, client: ClientConnection) -> None:
        keep = requested_limits(request, self._supervisor.config)
        if request.dry_run:
            client.send(replies.Pruned(request.id, *await self._retention.dry_run(keep)))
            return
        client.send(replies.Pruned(request.id, 0, 0))
        async with aclosing(self._retention.prune(keep)) as passes:
            async for jobs, log_bytes in passes:
                await client.send_and_drain(replies.Pruned(request.id, jobs, log_bytes))

    async def _send_backup(self, request: requests.GetBackup, client: ClientConnection) -> None:
        async with self._backups.download() as (size, pieces), aclosing(pieces):
            async for data in pieces:
                await client.send_and_drain(replies.BackupPart(request.id, size, data))

    async def _check_up(self, request: requests.GetCheckup, _: ClientConnection) -> Reply:
        config, pages = self._supervisor.config, self._reads.authenticator
        served = replace(config.http, listen=None if pages is None else pages.address)  # a port may be taken
        async with self._checking:
            found = await doctor.check_all(replace(config, http=served), self._backups.folders)
        found += doctor.check_served(config.http, served)
        found += self._supervisor.lost_output.findings()
        found += await self._notifications.findings()
        found += doctor.check_parts(self._supervisor.link, self._backups)
        return replies.Checkup(request.id, found)

    async def _send_test(self, request: requests.SendTest, _: ClientConnection) -> Reply:
        return await self._queued(request, self._notifications.test(request.target))


_WHICH = {"id", "jobs", "where"}  # fields of requests that act on jobs; the others say how


def _with_request(controls: QueueControls, request: QueueRequest) -> QueueControls:
    match request:
        case requests.SetSlots():
            return replace(controls, slots=request.slots)
        case requests.SetQueue():
            return set_queue(controls, request.queue, has_slots=True, slots=request.slots)
        case requests.RemoveQueue():
            if request.repeated and request.queue not in controls.queues:
                return controls
            return reset_queue(controls, request.queue)
        case requests.Pause() | requests.Resume():
            return set_queue(controls, request.queue, paused=isinstance(request, requests.Pause))
