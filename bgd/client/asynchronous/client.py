"""Client: hands jobs to the daemon, asks about them, and says what shall become of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from msgspec.structs import replace

from bgd.client.asynchronous.channel import Channel
from bgd.client.asynchronous.door import Door
from bgd.client.asynchronous.ending import shut_down
from bgd.client.asynchronous.job import AsyncJob
from bgd.client.asynchronous.results import Results
from bgd.client.asynchronous.runtime import closed_at_exit
from bgd.client.batch import batch_frames, submit_frames
from bgd.client.caller import Caller
from bgd.client.calls import Awaited, Called, Calls, Target
from bgd.client.failure import failure_of
from bgd.client.options import EditOptions, JobOptions, JobReference, MapOptions, ids_of, states_of
from bgd.client.remainders import EventRemainder, LogRemainder, WaitRemainder
from bgd.client.session import UNNUMBERED, expected
from bgd.client.specs import Item, changes_of, class_spec, command_spec, specs_of
from bgd.client.wording import checked
from bgd.core.job import State
from bgd.core.spec import JobSpec
from bgd.errors import DaemonUnreachable, JobFailed
from bgd.wire import replies, requests
from bgd.wire.replies import ActResult, BackupPart, Checkup, Info, LogPart, Pruned, Queues, Reloaded, Stats
from bgd.wire.requests import Request, ShutdownMode
from bgd.wire.views import AttemptView, EventView, Finding, JobProgress, JobView

A = TypeVar("A")
R = TypeVar("R")

TIMEOUT = 30.0  # seconds; a daemon answers in milliseconds, but may have a full disk or a long queue to write
WINDOW = 3600.0  # seconds that figures are about, unless told otherwise


class AsyncClient:
    """A way to one daemon. It connects when it is first used, and again when the daemon was restarted.

    The tasks of one event loop may share an AsyncClient; a forked child makes its own. After `close` it may
    be used again. Jobs are named by their ids, or by themselves.

    Args:
        socket: the daemon's socket; None: $BGD_SOCKET, else the caller's own daemon, else the system's.
        timeout: seconds that connecting and each answer may take, and that a stream bears to be without a
            daemon; then DaemonUnreachable.
        autostart: start the caller's own daemon when none answers, and `socket` names none. A stream that
            lost its daemon leaves that to others for some seconds, as to a service manager.
        config: configuration that says where the daemon is; None: the usual one.
        user: only the caller's own daemon.
        system: only the system's.
        on_autostart: is told the pid of a daemon that was started, and the file it logs to.
    """

    def __init__(
        self,
        socket: str | None = None,
        *,
        timeout: float = TIMEOUT,
        autostart: bool = True,
        config: str | None = None,
        user: bool = False,
        system: bool = False,
        on_autostart: Callable[[int, str], None] | None = None,
    ) -> None:
        door = Door(
            socket=socket,
            config=config,
            user=user,
            system=system,
            autostart=autostart,
            on_autostart=on_autostart,
        )
        self._channel = Channel(door, timeout)

    # --- handing over jobs ----------------------------------------------------------------------------

    async def submit(self, argv: Sequence[str | os.PathLike[str]], **options: Unpack[JobOptions]) -> AsyncJob:
        """Queue a command; returns when it is on disk.

        The command gets this process's environment, working directory and umask, unless told otherwise.

        Raises:
            Refused: a value is out of range, or the daemon does not take it.
            DaemonUnreachable: nobody answers; or, after an answer was awaited in vain, nobody knows. When the
                connection breaks before the answer it is asked for again, once, and no second job is made.
        """
        caller = Caller()
        spec = command_spec(argv, options, caller)
        return await self._submit(spec if spec.env is not None else replace(spec, env=caller.environment))

    async def call(
        self,
        target: str,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
        **options: Unpack[JobOptions],
    ) -> AsyncJob:
        """Queue a class job: `package.module:Class.method` or `package.module:function`.

        Raises:
            TypeError: an argument is not what JSON can say.
            Refused, DaemonUnreachable: as `submit`.
        """
        return await self._submit(class_spec(target, args, kwargs or {}, options, Caller()))

    async def submit_many(self, items: Iterable[Item]) -> list[AsyncJob]:
        """Queue many jobs in one transaction: all of them, or none.

        Args:
            items: argvs, JobSpecs, or mappings with the keys of JSON (argv or target, args, kwargs, and the
                options of `submit`).

        Raises:
            Refused: one of them is not taken, which the message names, so none is.
            Full: they are too many for one transaction.
            DaemonUnreachable: as `submit`.
        """
        caller = Caller()
        specs = specs_of(items, caller)
        if not specs:
            return []
        frames = partial(batch_frames, specs=specs, env=caller.environment)
        has_keys = all(spec.key is not None for spec in specs)
        reply = await self._channel.submit(frames, has_keys=has_keys)
        found = set(reply.found)
        return [AsyncJob(self, job_id, is_new=job_id not in found) for job_id in reply.jobs]

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

        Each item is the one argument of a call. Nothing is read or queued before the first step; from then
        on up to `buffersize` jobs are on hand, which are those whose results were not yielded yet. It goes on
        when the daemon was restarted. When it ends early, by an error or because it is closed, those of its
        jobs that do not run are cancelled.

        Args:
            target: as of `call`, or the function itself, with or without `bgd.job`.
            items: they may be endless, and are read where the results are asked for.
            return_exceptions: yield the JobFailed of a job that did not succeed in the place of its result.
            options: of each job, as of `call`, and those of all: see MapOptions.

        Raises:
            JobFailed: the job whose turn it is did not succeed.
            TimeoutError: not all results have come in time.
            TypeError: a worker would not find the function, or an item is no argument for it.
            Refused, DaemonUnreachable: as `submit_many`; and if no daemon came back within the client's
                timeout.
        """
        calls = Calls(target, items, options)
        results = Results(self, self._channel, calls, options)
        return closed_at_exit(results.in_order(return_exceptions=return_exceptions))

    # --- asking about jobs ----------------------------------------------------------------------------

    async def job(self, job_id: int | None = None) -> AsyncJob:
        """Look a job up; None: the caller's latest.

        Raises:
            NoSuchJob: there is none.
        """
        view = await self.view(job_id)
        return AsyncJob(self, view.id, view)

    async def jobs(
        self,
        *,
        states: Iterable[State | str] | None = None,
        queue: str | None = None,
        name: str | None = None,
        tag: str | None = None,
        since: float | None = None,
        before: int | None = None,
        limit: int = requests.DEFAULT_LIST,
    ) -> list[AsyncJob]:
        """List at most `limit` jobs, newest first.

        Without `states` these are the unfinished and the latest finished ones. `name` is a shell pattern;
        `since`, in epoch seconds, leaves out what was submitted before. `before` leaves out that id and
        those above it: the last of one list leads to the next.
        """
        request = requests.List(
            id=UNNUMBERED,
            states=states_of(states) if states else None,
            queue=queue,
            name=name,
            tag=tag,
            since=since,
            before=before,
            limit=limit,
        )
        parts = await self._channel.collect(checked(request))
        views = [view for part in parts for view in expected(part, replies.JobsPart).jobs]
        return [AsyncJob(self, view.id, view) for view in views]

    async def wait(self, jobs: Iterable[JobReference], *, timeout: float | None = None) -> list[AsyncJob]:
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
        timeout: float | None = None,
        on_progress: Callable[[JobProgress], object] | None = None,
    ) -> AsyncGenerator[AsyncJob, None]:
        """Yield jobs as they finish, those at once that have; it goes on when the daemon was restarted.

        `on_progress` is called meanwhile with what those that run say of themselves, first with what they
        said last, then once a second at most.

        Raises:
            TimeoutError: not all have within `timeout` seconds from the first step.
            NoSuchJob: one of them does not exist.
            DaemonUnreachable: there is no daemon, or none came back within the client's timeout.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        wanted = list(dict.fromkeys(ids_of(jobs)))
        count = len(wanted)
        try:
            for portion in _portions(wanted):
                rest = WaitRemainder(portion, on_progress)
                async with aclosing(self._channel.follow(rest.request, deadline)) as parts:
                    async for part in parts:
                        for view in rest.take(part):
                            count -= 1
                            yield AsyncJob(self, view.id, view)
        except TimeoutError:
            late = f"job {rest.first} has" if count == 1 else f"{count} jobs have"
            raise TimeoutError(f"{late} not finished within {timeout:g} s") from None

    @overload
    async def result(self, job: AsyncJob[R], *, timeout: float | None = None) -> R: ...
    @overload
    async def result(self, job: JobReference, *, timeout: float | None = None) -> object: ...
    async def result(self, job: JobReference, *, timeout: float | None = None) -> object:
        """Wait for a job, then return what a class job returned, for a command 0.

        Raises:
            JobFailed: it did not succeed.
            TimeoutError, NoSuchJob, DaemonUnreachable: as `as_finished`.
        """
        [finished] = await self.wait([job], timeout=timeout)
        return await self.returned(finished.id)

    async def logs(
        self,
        job: JobReference,
        *,
        attempt: int | None = None,
        follow: bool = False,
        tail: int | None = None,
        timestamps: bool = False,
    ) -> AsyncGenerator[LogPart, None]:
        """Yield a job's output in pieces; it goes on when the daemon was restarted, every byte once.

        `attempt` None is the latest one, 0 all of them, oldest first. With `follow` it goes on until the job
        has finished, across attempts. `tail`: only so many last lines of what there is. `timestamps` tells,
        in `LogPart.times`, when the bytes came.
        """
        [job_id] = ids_of([job])
        request = requests.Logs(
            id=UNNUMBERED, job=job_id, attempt=attempt, follow=follow, tail=tail, timestamps=timestamps
        )
        rest = LogRemainder(checked(request))
        async with aclosing(self._channel.follow(rest.request, alone=True)) as parts:
            async for part in parts:
                if (piece := rest.take(part)) is not None:
                    yield piece

    async def events(
        self, since: int | None = None, *, follow: bool = True, progress: bool = False
    ) -> AsyncGenerator[EventView, None]:
        """Yield what happens to jobs; it goes on when the daemon was restarted, every event once.

        `since` is the id of the last event that is known, 0: begin with the oldest that is kept. None: from
        the first step on, without `follow` from the oldest. With `follow` it does not end.

        With `progress`, and `follow`, what jobs say of themselves comes too, as it is said and once a second
        at most: as events whose `what` is "progress". They are not kept, and bear the id of the one before.

        Raises:
            Refused: events after `since` are no longer kept.
        """
        request = requests.GetEvents(id=UNNUMBERED, since=since, follow=follow, progress=progress)
        rest = EventRemainder(checked(request))
        async with aclosing(self._channel.follow(rest.request, alone=True)) as parts:
            async for part in parts:
                for event in rest.take(part):
                    yield event

    async def last_event(self) -> int:
        """Return the id of the latest event: `events` since it tells all that happens from now on."""
        request = requests.GetEvents(id=UNNUMBERED, follow=True)
        async with aclosing(self._channel.follow(lambda: request)) as parts:
            return expected(await anext(parts), replies.EventsPart).last

    # --- acting on jobs: what is refused for one of them stands in its entry, and is not raised -----------

    async def cancel(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Cancel jobs; those that run are asked to end, and made to end after the grace time."""
        return await self._act(jobs, requests.Cancel)

    async def cancel_waiting(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Cancel those of the jobs that wait; those that run run on, and the entry of each says so."""
        results = await self.hold(jobs)  # a job that is held is not started between this and the next
        cancelled = iter(await self.cancel(result.job for result in results if result.state is State.HELD))
        return [next(cancelled) if result.state is State.HELD else result for result in results]

    async def retry(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Queue finished jobs again, with their retries unused."""
        return await self._act(jobs, requests.Retry)

    async def hold(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Let waiting jobs wait until they are released."""
        return await self._act(jobs, requests.Hold)

    async def release(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Let held jobs wait for their turn again."""
        return await self._act(jobs, requests.Release)

    async def suspend(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Stop the processes of running jobs; their time limits stand still, their slots stay taken."""
        return await self._act(jobs, requests.Suspend)

    async def continue_(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Let suspended jobs go on."""
        return await self._act(jobs, requests.Continue)

    async def signal(
        self, jobs: Iterable[JobReference], signum: int, *, whole_tree: bool = False
    ) -> list[ActResult]:
        """Send a signal to the first process of running jobs, or to all of their processes."""
        return await self._act(jobs, requests.SendSignal, signal=signum, whole_tree=whole_tree)

    async def remove(self, jobs: Iterable[JobReference]) -> list[ActResult]:
        """Delete finished jobs and their logs; their ids are not given out again."""
        return await self._act(jobs, requests.Remove)

    async def prune(
        self,
        *,
        states: Iterable[State | str] | None = None,
        older_than: float | None = None,
        keep: int | None = None,
        logs_total: int | None = None,
        dry_run: bool = False,
    ) -> Pruned:
        """Delete finished jobs and their logs, the longest finished first; return how many they were.

        Args:
            states: only jobs in these final states.
            older_than: those that finished more than so many seconds ago.
            keep: all but so many of each state, the latest.
            logs_total: so many that all logs together are no more than so many bytes.
            dry_run: only say how many they would be.

        With neither `older_than`, `keep` nor `logs_total` those go that the configuration does not keep.
        """
        request = checked(
            requests.Prune(
                id=UNNUMBERED,
                states=None if states is None else states_of(states),
                older_than=older_than,
                keep=keep,
                logs_total=logs_total,
                dry_run=dry_run,
            )
        )
        pruned = Pruned(UNNUMBERED, 0, 0)
        async with aclosing(self._channel.follow(lambda: request)) as parts:
            async for part in parts:
                pruned = expected(part, Pruned)
        return pruned

    async def edit(self, jobs: Iterable[JobReference], **changes: Unpack[EditOptions]) -> list[ActResult]:
        """Change jobs that wait.

        Raises:
            Refused: a value is out of range, or there is nothing to change.
        """
        return await self._act(jobs, requests.Edit, changes=changes_of(changes, Caller()))

    async def backup(self) -> AsyncGenerator[bytes, None]:
        """Yield a checked copy of the daemon's database, piece by piece: a file for `bgd --recover`.

        Raises:
            Refused: the daemon cannot write one; Full: it has no room for it.
            DaemonUnreachable: it broke off; what came is no copy.
        """
        size, came = 1, 0
        request = requests.GetBackup(UNNUMBERED)
        async with aclosing(self._channel.follow(lambda: None if came else request, alone=True)) as parts:
            async for part in parts:
                piece = expected(part, BackupPart)
                size, came = piece.size, came + len(piece.data)
                yield piece.data
        if came != size:
            raise DaemonUnreachable(f"the daemon went away after {came} bytes of a backup: ask for it again")

    async def set_progress(
        self, job: JobReference, attempt: int, fraction: float | None = None, message: str | None = None
    ) -> None:
        """Say how far an attempt that runs is, in place of what it said before; code in a job has bgd_job.

        `fraction` is one of 1; None: it does not say.

        Raises:
            Refused: this attempt does not run, or a value is out of range.
        """
        [job_id] = ids_of([job])
        request = requests.SetProgress(
            id=UNNUMBERED, job=job_id, attempt=attempt, fraction=fraction, message=message
        )
        await self._channel.ask(checked(request), replies.Done, repeatable=True)

    async def checkup(self) -> list[Finding]:
        """Return what the daemon finds of its installation, and what to do about it."""
        reply = await self._channel.ask(requests.GetCheckup(UNNUMBERED), Checkup, repeatable=True)
        return reply.findings

    # --- slots and queues: each returns how they are now; what is set is kept over restarts -----------------

    async def queues(self) -> Queues:
        return await self._channel.ask(requests.GetQueues(UNNUMBERED), Queues)

    async def set_slots(self, slots: int | None) -> Queues:
        """Give the daemon so many slots, None: as many as configured."""
        return await self._channel.ask(checked(requests.SetSlots(UNNUMBERED, slots)), Queues)

    async def set_queue(self, name: str, slots: int | None) -> Queues:
        """Give a queue so many slots, None: no limit but the daemon's."""
        return await self._channel.ask(checked(requests.SetQueue(UNNUMBERED, name, slots)), Queues)

    async def remove_queue(self, name: str) -> Queues:
        """Forget what was set of a queue: it is as configured again."""
        return await self._channel.ask(checked(requests.RemoveQueue(UNNUMBERED, name)), Queues)

    async def pause(self, queue: str | None = None) -> Queues:
        """Start no job of a queue, None: of any, until it is resumed."""
        return await self._channel.ask(checked(requests.Pause(UNNUMBERED, queue)), Queues)

    async def resume(self, queue: str | None = None) -> Queues:
        """Undo `pause`; None: that of all queues together, not those of single queues."""
        return await self._channel.ask(checked(requests.Resume(UNNUMBERED, queue)), Queues)

    # --- the daemon itself --------------------------------------------------------------------------------

    async def info(self) -> Info:
        return await self._channel.ask(requests.GetInfo(UNNUMBERED), Info)

    async def stats(self, window: float = WINDOW) -> Stats:
        """Return figures of the last `window` seconds, and of all that waits and runs."""
        return await self._channel.ask(checked(requests.GetStats(UNNUMBERED, window)), Stats)

    async def login_link(self) -> str:
        """Return a link that logs a browser of this user in to the daemon's pages, once and within a minute.

        Raises:
            Refused: the daemon serves no pages.
        """
        login = await self._channel.ask(requests.GetLogin(UNNUMBERED), replies.Login)
        return login.url

    async def reload(self) -> Reloaded:
        """Let the daemon read its configuration again.

        Raises:
            ConfigError: it cannot be used; the daemon goes on with the old one.
        """
        return await self._channel.ask(requests.Reload(UNNUMBERED), Reloaded)

    async def shutdown(self, mode: ShutdownMode | str | None = None, *, timeout: float | None = None) -> None:
        """End the daemon, and wait until it is gone.

        Args:
            mode: what becomes of running jobs (see ShutdownMode); None: as configured.
            timeout: seconds to wait, None: as long as it takes.

        Raises:
            TimeoutError: it is still there; it goes on ending.
        """
        await shut_down(self._channel, None if mode is None else ShutdownMode(mode), timeout)

    # --- what jobs ask for ----------------------------------------------------------------------------

    async def view(self, job_id: int | None = None) -> JobView:
        """Return a job as the daemon shows it; None: the caller's latest."""
        [shown, *_] = await self._channel.collect(checked(requests.Show(UNNUMBERED, job_id)))
        return expected(shown, replies.Shown).job

    async def attempts(self, job_id: int) -> list[AttemptView]:
        """Return all attempts of a job, oldest first."""
        [_, *parts] = await self._channel.collect(checked(requests.Show(UNNUMBERED, job_id)))
        return [attempt for part in parts for attempt in expected(part, replies.AttemptsPart).attempts]

    async def returned(self, job_id: int) -> Any:
        """Return what a finished job returned, even if the daemon is just away; see `result`."""
        request = requests.GetResult(UNNUMBERED, job_id)
        ask = partial(self._channel.ask, request, replies.Result, repeatable=True)
        reply = await self._channel.persist(ask)
        if reply.job.state is not State.SUCCEEDED:
            raise failure_of(reply.job, reply.error)
        if reply.job.target is None:
            return 0
        return None if reply.value is None else json.loads(reply.value)

    # --- being one --------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the connection; the client opens another when it is used again."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _submit(self, spec: JobSpec) -> AsyncJob:
        frames = partial(submit_frames, spec=spec)
        reply = await self._channel.submit(frames, has_keys=spec.key is not None)
        return AsyncJob(self, reply.jobs[0], is_new=reply.created)

    async def _act(
        self, jobs: Iterable[JobReference], kind: Callable[..., Request], **fields: object
    ) -> list[ActResult]:
        results: list[ActResult] = []
        for portion in _portions(ids_of(jobs)):
            request = checked(kind(id=UNNUMBERED, jobs=portion, **fields))
            reply = await self._channel.ask(request, replies.Acted)
            results += reply.results
        return results


def _portions(job_ids: Sequence[int]) -> Iterator[list[int]]:
    """Cut a list of ids into what one request may name."""
    for start in range(0, len(job_ids), requests.MAX_IDS):
        yield list(job_ids[start : start + requests.MAX_IDS])
