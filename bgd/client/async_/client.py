"""The client: submits jobs, looks at them, waits for them and acts on them."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Never, TypeVar, Unpack, cast, overload

from bgd.client.async_.daemon import AsyncDaemonClient
from bgd.client.async_.job import AsyncJob
from bgd.client.programs import checked_changes, checked_command, is_relative
from bgd.client.session import (
    UNNUMBERED,
    Sent,
    batch_frames,
    expected,
    submit_frames,
    take_output,
    take_results,
)
from bgd.client.specs import Caller, Item, checked, class_spec, ids_of, seconds_of, specs_of, states_of
from bgd.core.explain import Explanation
from bgd.core.job import State
from bgd.core.spec import JobSpec
from bgd.errors import JobFailed, NoSuchJob
from bgd.wire import replies, requests
from bgd.wire.replies import ActResult, LogPart
from bgd.wire.requests import Selection
from bgd.wire.views import AttemptView, JobProgress, JobView, StepView

if TYPE_CHECKING:
    from bgd.client.async_.batches import AsyncBatch
    from bgd.client.async_.schedules import AsyncSchedules
    from bgd.client.batch import BatchSender, FollowUp
    from bgd.client.keyboard import Keyboard
    from bgd.client.mapping import Awaited, Called, Target
    from bgd.client.options import Duration, EditOptions, JobOptions, JobReference, MapOptions
    from bgd.wire.requests import NewBatch

A = TypeVar("A")
R = TypeVar("R")


class AsyncClient(AsyncDaemonClient):
    """A client of one daemon. It connects at first use, and again after a restart of the daemon.

    The tasks of one event loop may share an AsyncClient, but a forked child makes its own.
    A closed client can be used again. Methods take jobs as ids or as objects with an id, and durations as
    seconds, as texts such as "10s", or as timedeltas.
    """

    # --- submitting jobs ------------------------------------------------------------------------------

    async def submit(
        self, argv: Sequence[str | os.PathLike[str]], *call: Never, **options: Unpack[JobOptions]
    ) -> AsyncJob:
        """Queue a command; return when it is on disk.

        The command gets this process's environment, working directory and umask, unless told otherwise.

        Raises:
            Refused: a value is out of range, the program, its folder or its input is missing, or the daemon
                does not accept the job.
            DaemonUnreachable: no daemon answers. If the connection breaks before the answer, the client asks
                once more, which makes no second job; if that fails too, it is unknown whether there is a job.
        """
        if call or callable(argv):
            from bgd.client.functions import other_call  # noqa: PLC0415 - only for an error

            raise other_call("await client", argv, call, options)
        return await self._submit(checked_command(argv, options))

    async def call(
        self,
        target: str,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
        **options: Unpack[JobOptions],
    ) -> AsyncJob:
        """Queue a class job: `package.module:Class.method` or `package.module:function`.

        Raises:
            TypeError: JSON cannot represent an argument, or the target, which this process has imported, does
                not take the arguments.
            Refused, DaemonUnreachable: as `submit`.
        """
        return await self._submit(class_spec(target, args, kwargs or {}, options, Caller()))

    async def submit_many(self, items: Iterable[Item]) -> list[AsyncJob]:
        """Queue many jobs in one transaction: all of them, or none.

        Args:
            items: argvs, JobSpecs, or mappings with the keys of JSON (argv or target, args, kwargs, and the
                options of `submit`).

        Raises:
            Refused: one of them is not accepted, which the message names, so none is queued.
            Full: they are too many for one transaction.
            DaemonUnreachable: as `submit`.
        """
        return await self._submit_many(items)

    async def chain(self, *calls: Item) -> list[AsyncJob]:
        """Queue jobs that run one after another, in one transaction: all of them, or none.

        Each job waits until the one before it has succeeded. If it fails or is cancelled, the rest is
        cancelled.

        Args:
            calls: what `task.s(...)` returns, or any item of `submit_many`.

        Raises:
            Refused, Full, DaemonUnreachable: as `submit_many`.
        """
        return await self._submit_many(calls, chain=True)

    async def batch(
        self,
        calls: Iterable[Item],
        name: str | None = None,
        then: FollowUp | None = None,
        catch: FollowUp | None = None,
        finally_: FollowUp | None = None,
        **options: Any,
    ) -> AsyncBatch:
        """Queue any number of jobs that belong together; return when all are on disk.

        Calls are read as they are sent, some thousand in a transaction. A batch that fits into one is queued
        as a whole or not at all. If the connection breaks, the client asks which calls are jobs already, and
        queues the rest. The programs of calls are not looked for.

        Args:
            calls: what `task.s(...)` returns, or any item of `submit_many`.
            name: of the batch.
            then: a call to start once all jobs have succeeded; or a function or its target, to be called
                without arguments. The program of a list of words is looked for.
            catch: likewise, once the first job has failed.
            finally_: likewise, once all jobs have ended.
            options: of all jobs, as of `submit`, without `name`; an item can override them.

        Raises:
            Refused: a call is not accepted; the message names it. Jobs that are queued already are cancelled.
            DaemonUnreachable: no daemon came back within the client's timeout.
        """
        from bgd.client.async_ import batches  # noqa: PLC0415 - most programs have none, and bgctl starts often

        follow_ups = {"then": then, "catch": catch, "finally_": finally_}
        return await batches.made(self, self._channel, calls, name, follow_ups, options)

    async def find_batch(self, batch: int | str) -> AsyncBatch:
        """Look up a batch by its id, or the newest one with a name.

        Raises:
            NoSuchJob: there is no such batch.
        """
        from bgd.client.async_ import batches  # noqa: PLC0415 - as above

        return await batches.found(self, self._channel, batch)

    async def batches(
        self, *, name: str | None = None, before: int | None = None, limit: int = requests.DEFAULT_LIST
    ) -> list[AsyncBatch]:
        """List at most `limit` batches, newest first: with a name, with ids below `before`."""
        from bgd.client.async_ import batches  # noqa: PLC0415 - as above

        return await batches.listed(self, self._channel, name, before, limit)

    def batch_sender(self, batch: bytes, last: int = 0, new: NewBatch | None = None) -> BatchSender:
        """Return a sender of a batch whose identity the caller keeps, to continue it later."""
        from bgd.client.batch import BatchSender  # noqa: PLC0415 - as above

        return BatchSender(self._channel, batch, last, new)

    @overload
    def map(
        self,
        target: Awaited[A, R],
        items: Iterable[A],
        *,
        return_exceptions: Literal[False] = False,
        **options: Unpack[MapOptions],
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def map(
        self,
        target: Awaited[A, R],
        items: Iterable[A],
        *,
        return_exceptions: Literal[True],
        **options: Unpack[MapOptions],
    ) -> AsyncGenerator[R | JobFailed, None]: ...
    @overload
    def map(
        self,
        target: Called[A, R],
        items: Iterable[A],
        *,
        return_exceptions: Literal[False] = False,
        **options: Unpack[MapOptions],
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def map(
        self,
        target: Called[A, R],
        items: Iterable[A],
        *,
        return_exceptions: Literal[True],
        **options: Unpack[MapOptions],
    ) -> AsyncGenerator[R | JobFailed, None]: ...
    @overload
    def map(
        self,
        target: str,
        items: Iterable[object],
        *,
        return_exceptions: bool = False,
        **options: Unpack[MapOptions],
    ) -> AsyncGenerator[object, None]: ...
    def map(
        self,
        target: Target,
        items: Iterable[Any],
        *,
        return_exceptions: bool = False,
        **options: Unpack[MapOptions],
    ) -> AsyncGenerator[Any, None]:
        """Queue a class job for each of many items; yield their results in the order of the items.

        Each item is the only argument of a call. Nothing is read or queued before the first step; then up to
        `buffersize` jobs are queued or have results that were not yielded yet. The map continues after a
        restart of the daemon. If it ends early, it cancels its jobs that are not running.

        Args:
            target: as of `call`, or the function itself, with or without `bgd.job`.
            items: may be endless. They are read in the thread or task that asks for the results.
            return_exceptions: yield the JobFailed of a job that did not succeed in place of its result.
            options: of each job, as of `call`, and those of the map: see MapOptions.

        Raises:
            JobFailed: the job whose turn it is did not succeed.
            TimeoutError: not all results have come in time.
            TypeError: a worker would not find the function, or an item does not fit it.
            Refused, DaemonUnreachable: as `submit_many`; also if no daemon came back within the client's
                timeout.
        """
        from bgd.client.mapping import Mapper  # noqa: PLC0415 - most programs map nothing, and bgctl starts often

        return Mapper(self._channel, target, items, options).results(return_exceptions=return_exceptions)

    async def _submit_many(self, items: Iterable[Item], **fields: Any) -> list[AsyncJob]:
        caller = Caller()
        specs = specs_of(items, caller)
        if not specs:
            return []
        frames = partial(batch_frames, specs=specs, env=caller.environment, **fields)
        reply = await self._channel.submit(frames)
        found = set(reply.found)
        return [
            AsyncJob(self, job_id, is_new=job_id not in found, obstacle=reply.obstacle)
            for job_id in reply.jobs
        ]

    async def _submit(self, spec: JobSpec, sent: Sent | None = None) -> AsyncJob:
        reply = await self._channel.submit(partial(submit_frames, spec=spec), sent)
        return AsyncJob(self, reply.jobs[0], is_new=reply.created, obstacle=reply.obstacle)

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            from bgd.client.functions import other_method  # noqa: PLC0415 - only for an error

            return other_method("await client", name)

    # --- looking at jobs and waiting for them ---------------------------------------------------------

    async def job(self, job_id: int | None = None) -> AsyncJob:
        """Look up a job; None: the caller's latest.

        Raises:
            NoSuchJob: there is no such job.
        """
        view = await self.view(job_id)
        return AsyncJob(self, view.id, view)

    async def jobs(  # noqa: PLR0913 - one parameter per filter
        self,
        *,
        states: Iterable[State | str] | None = None,
        queue: str | None = None,
        name: str | None = None,
        tag: str | None = None,
        since: float | None = None,
        until: float | None = None,
        before: int | None = None,
        limit: int = requests.DEFAULT_LIST,
        words: str | None = None,
    ) -> list[AsyncJob]:
        """List at most `limit` jobs, newest first.

        For the next page, pass the last id as `before`. A list without `states` and `before` begins with
        all unfinished jobs, however old: continue with its oldest finished one.

        Args:
            states: only jobs in these states; None: the unfinished and the latest finished ones.
            queue: only jobs of this queue.
            name: only jobs whose name matches this pattern: * and ? are wildcards.
            tag: only jobs with this tag.
            since: only jobs submitted at or after this instant, in epoch seconds.
            until: only jobs submitted before this instant.
            before: only jobs with ids below this one.
            limit: the length of the list.
            words: only jobs that match these words of the filter box of the pages, for example
                "error:refused -queue:mail".
        """
        given: dict[str, Any] = {"queue": queue, "name": name, "tag": tag, "words": words}
        given |= {"since": since, "until": until}
        chosen = states_of(states) if states else None
        request = requests.List(id=UNNUMBERED, states=chosen, before=before, limit=limit, **given)
        parts = await self._channel.collect(request)
        views = [view for part in parts for view in expected(part, replies.JobsPart).jobs]
        return [AsyncJob(self, view.id, view) for view in views]

    async def wait(self, jobs: Iterable[JobReference], *, timeout: Duration | None = None) -> list[AsyncJob]:
        """Wait until all of these jobs have finished; return them in this order.

        Raises:
            TimeoutError, NoSuchJob, DaemonUnreachable: as `as_finished`.
        """
        wanted = ids_of(jobs)
        finished = {job.id: job async for job in self.as_finished(wanted, timeout=timeout)}
        return [finished[job_id] for job_id in wanted]

    async def as_finished(
        self,
        jobs: Iterable[JobReference],
        *,
        timeout: Duration | None = None,
        on_progress: Callable[[JobProgress], object] | None = None,
    ) -> AsyncGenerator[AsyncJob, None]:
        """Yield jobs as they finish, finished ones at once; continues when the daemon was restarted.

        Args:
            jobs: the jobs to wait for.
            timeout: all must finish within this time from the first step; 0: they must have finished now.
            on_progress: called with the progress that running jobs report: first with their latest reports,
                then at most once a second.

        Raises:
            TimeoutError: not all have finished within `timeout`.
            NoSuchJob: one of them does not exist.
            DaemonUnreachable: there is no daemon, or none came back within the client's timeout.
        """
        wanted = list(dict.fromkeys(ids_of(jobs)))
        async with aclosing(self._channel.finished(wanted, seconds_of(timeout), on_progress)) as views:
            async for view in views:
                yield AsyncJob(self, view.id, view)

    @overload
    async def result(self, job: AsyncJob[R], *, timeout: Duration | None = None) -> R: ...
    @overload
    async def result(self, job: JobReference, *, timeout: Duration | None = None) -> object: ...
    async def result(self, job: JobReference, *, timeout: Duration | None = None) -> object:
        """Wait for a job, then return the value of a class job, or 0 for a command.

        Raises:
            JobFailed: it did not succeed.
            TimeoutError, NoSuchJob, DaemonUnreachable: as `as_finished`.
        """
        [finished] = await self.wait([job], timeout=timeout)
        return await self.returned(finished.id)

    def logs(  # noqa: PLR0913 - one parameter per option
        self,
        job: JobReference,
        *,
        attempt: int | None = None,
        follow: bool = False,
        tail: int | None = None,
        timestamps: bool = False,
        since: float | None = None,
        offset: int | None = None,
        timeout: Duration | None = None,
    ) -> AsyncGenerator[LogPart, None]:
        """Yield a job's output in pieces; continues when the daemon was restarted, every byte once.

        Args:
            job: whose output.
            attempt: None: the latest one; 0: all of them, oldest first.
            follow: go on until the job has finished, across attempts.
            tail: only this many last lines of the output so far.
            timestamps: set `LogPart.times` to the times of the bytes.
            since: only what was written at or after this instant, in epoch seconds.
            offset: begin with this byte; requires the number of the attempt.
            timeout: limit on the whole call.

        Raises:
            TimeoutError: it takes longer than `timeout`.
        """
        [job_id] = ids_of([job])
        fields: dict[str, Any] = {"attempt": attempt, "tail": tail, "since": since, "offset": offset}
        request = requests.Logs(id=UNNUMBERED, job=job_id, follow=follow, timestamps=timestamps, **fields)
        take = partial(take_output, of_one=attempt != 0 and not follow)
        late = f"the output of job {job_id} has not ended"
        return self._channel.resumed(checked(request), take, seconds_of(timeout), late)

    async def keyboard(self, job: JobReference, *, wait: bool = False) -> Keyboard | None:
        """Open the keyboard of a running job that was submitted with `pty`.

        Args:
            job: whose terminal.
            wait: wait until the next attempt runs; return None if the job finishes instead.

        Raises:
            Refused: the job has no terminal; or it does not run, without `wait`.
        """
        from bgd.client.keyboard import Keyboard  # noqa: PLC0415 - most programs open none, and bgctl starts often

        [job_id] = ids_of([job])
        request = checked(requests.GetKeyboard(UNNUMBERED, job_id, wait))
        async with aclosing(self._channel.follow(lambda: request, alone=True)) as parts:
            async for part in parts:
                return Keyboard(expected(part, replies.KeyboardOpened))
        return None

    async def view(self, job_id: int | None = None) -> JobView:
        """Return a job as the daemon shows it; None: the caller's latest."""
        [shown, *_] = await self._channel.collect(requests.Show(UNNUMBERED, job_id))
        return expected(shown, replies.Shown).job

    async def explain(self, job_id: int, *, waits: bool = False) -> Explanation:
        """Return what keeps a job from running, in order, and when it will likely start.

        `waits`: this process is about to wait for the job. If it belongs to a job itself, that may be a
        deadlock.
        """
        request = requests.Explain(UNNUMBERED, job_id, waits)
        reply = await self._channel.ask(request, replies.Explained, repeatable=True)
        return reply.explanation

    async def attempts(self, job_id: int) -> list[AttemptView]:
        """Return all attempts of a job, oldest first."""
        [_, *parts] = await self._channel.collect(requests.Show(UNNUMBERED, job_id))
        return [attempt for part in parts for attempt in expected(part, replies.AttemptsPart).attempts]

    async def steps(self, job: JobReference, *, attempt: int | None = None) -> list[StepView]:
        """Return what a job has recorded of its steps, in their order.

        `attempt`: its running attempt, for the process that will record further steps with `save_step`; only
        it gets their values.

        Raises:
            Refused: this attempt is not running, or another of its processes records its steps.
        """
        [job_id] = ids_of([job])
        request = requests.GetSteps(id=UNNUMBERED, job=job_id, attempt=attempt)
        parts = await self._channel.collect(request)
        return [step for part in parts for step in expected(part, replies.StepsPart).steps]

    async def save_step(
        self,
        job: JobReference,
        attempt: int,
        position: int,
        name: str,
        value: bytes,
        *,
        seconds: float = 0.0,
        done: bool = True,
    ) -> None:
        """Record a step of a running attempt, after a call of `steps`. A job calls bgd_job.step instead.

        Raises:
            Refused: this process may not record it, or a value is out of range.
        """
        [job_id] = ids_of([job])
        request = requests.SaveStep(
            id=UNNUMBERED,
            job=job_id,
            attempt=attempt,
            position=position,
            name=name,
            done=done,
            value=value,
            seconds=seconds,
        )
        await self._channel.ask(request, replies.Done, repeatable=True)

    async def returned(self, job_id: int) -> Any:
        """Return the value of a finished job, even if the daemon is restarting; see `result`."""
        return await self._channel.returned(job_id)

    # --- acting on jobs: the entry of a job that an action was refused for says why ---------------------

    async def cancel(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Cancel jobs; running ones get the stop signal, and are killed after the grace time."""
        return await self._channel.act("cancel", ids_of(jobs))

    async def cancel_waiting(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Cancel the waiting ones of these jobs; the entries of running ones say that they still run."""
        return await self._channel.cancel_waiting(ids_of(jobs))

    async def retry(self, jobs: Iterable[JobReference], *, alone: bool = False) -> list[ActResult]:
        """Let finished jobs wait again as when they were new, with all their retries, without their delay.

        Jobs that were cancelled because of them are retried, too, and named in `along`, unless `alone`.
        """
        return await self._channel.act("retry", ids_of(jobs), alone=alone)

    async def hold(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Keep waiting jobs from starting until they are released."""
        return await self._channel.act("hold", ids_of(jobs))

    async def release(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Let held jobs start when their turn comes."""
        return await self._channel.act("release", ids_of(jobs))

    async def suspend(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Stop the processes of running jobs; their time limits pause, and they keep their slots."""
        return await self._channel.act("suspend", ids_of(jobs))

    async def continue_(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Continue running jobs that were suspended or that stopped by themselves."""
        return await self._channel.act("continue", ids_of(jobs))

    async def signal(
        self, jobs: Iterable[JobReference], signum: int, *, whole_tree: bool = False
    ) -> list[ActResult]:
        """Send a signal to the first process of running jobs, or to all of their processes."""
        return await self._channel.act("signal", ids_of(jobs), signal=signum, whole_tree=whole_tree)

    async def remove(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Delete finished jobs and their logs; their ids are not used again."""
        return await self._channel.act("remove", ids_of(jobs))

    async def edit(
        self, jobs: Iterable[JobReference], *, check: bool = True, **changes: Unpack[EditOptions]
    ) -> list[ActResult]:
        """Change waiting jobs.

        With `check`, a new program, folder or input that is missing here is refused. A program with a
        relative path is checked if the folder changes too, or if only one job is changed.

        Raises:
            Refused: a value is out of range, there is nothing to change, or something is missing.
        """
        ids = ids_of(jobs)
        folder = await self._folder_of(ids) if check and is_relative(changes) else None
        return await self._channel.act("edit", ids, changes=checked_changes(changes, folder, check=check))

    async def _folder_of(self, ids: Sequence[int]) -> str | None:
        """Return the working directory of a job; None if `ids` are several, or if the job does not exist."""
        try:
            return (await self.view(ids[0])).cwd if len(ids) == 1 else None
        except NoSuchJob:
            return None

    async def set_progress(
        self, job: JobReference, attempt: int, fraction: float | None = None, message: str | None = None
    ) -> None:
        """Replace the progress of a running attempt. Code inside a job calls bgd_job instead.

        `fraction` is from 0 to 1; None: unknown.

        Raises:
            Refused: this attempt is not running, or a value is out of range.
        """
        [job_id] = ids_of([job])
        request = requests.SetProgress(
            id=UNNUMBERED, job=job_id, attempt=attempt, fraction=fraction, message=message
        )
        await self._channel.ask(request, replies.Done, repeatable=True)

    def act_on_all(
        self, verb: str, where: Selection, **options: Any
    ) -> AsyncGenerator[list[ActResult], None]:
        """Act on all jobs that match, oldest first; yield the results, some hundred at a time.

        The daemon finds them, so neither side holds them all. It continues when the daemon was restarted,
        unless a second time would do more than the first.

        Args:
            verb: cancel, retry, hold, release, suspend, continue, signal, remove or edit.
            where: the jobs; with `dry_run`, the entries have their present states.
            options: of `retry`: `alone`; of `signal`: `signal`, its number, and `whole_tree`; of `edit` those
                of `Client.edit`.

        Raises:
            DaemonUnreachable: no daemon came back within the client's timeout, or it is a retry or signal.
        """
        if verb == "edit":
            check, changes = options.pop("check", True), cast("EditOptions", options)
            options = {"changes": checked_changes(changes, None, check=check)}
        return self._channel.resumed(checked(requests.act(verb, where=where, **options)), take_results)

    async def test_notification(self, target: str) -> AsyncJob:
        """Send a test message to a notification target, once; return the job that sends it."""
        reply = await self._channel.ask(requests.SendTest(UNNUMBERED, target), replies.Submitted)
        return AsyncJob(self, reply.jobs[0], is_new=True, obstacle=reply.obstacle)

    @property
    def schedules(self) -> AsyncSchedules:
        """The daemon's schedules."""
        from bgd.client.async_.schedules import AsyncSchedules  # noqa: PLC0415 - few programs use them

        return AsyncSchedules(self, self._channel)
