"""Requests about the daemon as a whole: slots and queues, events and figures, shutdown."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, overload

from msgspec.structs import replace

from bgd.client.async_ import concurrency
from bgd.client.channel import Channel
from bgd.client.connection import Connector
from bgd.client.inherited import caller_session
from bgd.client.session import TAIL_BYTES, UNNUMBERED, expected, portions, tail_of, take_events
from bgd.client.specs import checked, seconds_of, states_of
from bgd.core.job import State
from bgd.errors import DaemonUnreachable, NoSuchJob, Refused
from bgd.wire import replies, requests
from bgd.wire.replies import Info, JobUsages, LogPart, Pruned, Queues, Reloaded, Stats
from bgd.wire.requests import ShutdownMode
from bgd.wire.views import EventView, Finding, JobEnd, ScheduleEvent

if TYPE_CHECKING:
    from bgd.client.options import Duration

TIMEOUT = 30.0  # seconds; a daemon usually answers in milliseconds, but may have a full disk or a long queue
STATS_WINDOW = 3600.0  # default window of figures, in seconds


class AsyncDaemonClient:
    """The connection of an AsyncClient, and its requests that name no jobs."""

    def __init__(
        self,
        socket: str | os.PathLike[str] | None = None,
        *,
        timeout: Duration = TIMEOUT,
        autostart: bool = True,
        config: str | os.PathLike[str] | None = None,
        user: bool = False,
        system: bool = False,
        on_autostart: Callable[[int, str], None] | None = None,
    ) -> None:
        """Note where the daemon is; nothing connects before the first request.

        Args:
            socket: the daemon's socket; None: $BGD_SOCKET, else the caller's own daemon, else the system's.
            timeout: limit on connecting, on each answer, and on the wait of a stream for a daemon that is
                gone; then DaemonUnreachable is raised.
            autostart: start the caller's own daemon when none answers and `socket` is None. A stream that
                lost its daemon waits some seconds first, because a service manager may restart it.
            config: the configuration file that says where the daemon is; None: the usual one.
            user: only the caller's own daemon.
            system: only the system's daemon.
            on_autostart: called with the pid and the log file of a daemon that was started.
        """
        connector = Connector(
            socket=None if socket is None else os.fspath(socket),
            config=None if config is None else os.fspath(config),
            user=user,
            system=system,
            autostart=autostart,
            on_autostart=on_autostart,
        )
        self._channel = Channel(connector, seconds_of(timeout), concurrency)

    async def close(self) -> None:
        """Close the connection; the next use opens another."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def reconnect(self) -> None:
        """Wait until a daemon answers, which may be restarting.

        Raises:
            DaemonUnreachable: none came back within the client's timeout.
        """
        await self._channel.reconnect()

    # --- slots and queues: each method returns how they are now; what is set is kept over restarts ------

    async def queues(self) -> Queues:
        return await self._channel.ask(requests.GetQueues(UNNUMBERED), Queues, repeatable=True)

    async def set_slots(self, slots: int | None) -> Queues:
        """Set the number of the daemon's slots; None: as configured."""
        return await self._channel.ask(requests.SetSlots(UNNUMBERED, slots), Queues, repeatable=True)

    async def set_queue(self, name: str, slots: int | None) -> Queues:
        """Set the number of a queue's slots; None: no limit except the daemon's."""
        return await self._channel.ask(requests.SetQueue(UNNUMBERED, name, slots), Queues, repeatable=True)

    async def remove_queue(self, name: str) -> Queues:
        """Reset a queue to its configuration."""
        return await self._channel.ask(requests.RemoveQueue(UNNUMBERED, name), Queues, repeatable=True)

    async def pause(self, queue: str | None = None) -> Queues:
        """Start no jobs of a queue, None: of any queue, until it is resumed."""
        return await self._channel.ask(requests.Pause(UNNUMBERED, queue), Queues, repeatable=True)

    async def resume(self, queue: str | None = None) -> Queues:
        """Undo `pause`. None undoes only `pause(None)`; queues paused by name stay paused."""
        return await self._channel.ask(requests.Resume(UNNUMBERED, queue), Queues, repeatable=True)

    # --- events --------------------------------------------------------------------------------------------

    @overload
    def events(
        self,
        since: int | None = None,
        *,
        follow: bool = True,
        progress: bool = False,
        schedules: Literal[False] = False,
    ) -> AsyncGenerator[EventView, None]: ...
    @overload
    def events(
        self,
        since: int | None = None,
        *,
        follow: bool = True,
        progress: bool = False,
        schedules: Literal[True],
    ) -> AsyncGenerator[EventView | ScheduleEvent, None]: ...
    def events(
        self,
        since: int | None = None,
        *,
        follow: bool = True,
        progress: bool = False,
        schedules: bool = False,
    ) -> AsyncGenerator[EventView | ScheduleEvent, None]:
        """Yield what happens to jobs; continues when the daemon was restarted, every event once.

        Args:
            since: only events after this id; 0: from the oldest that is kept; None: from the first step on,
                or without `follow` from the oldest.
            follow: do not end, but wait for events to come.
            progress: with `follow`, also yield progress of jobs, at most once a second, as
                events whose `what` is "progress". These are not kept, and have the id of the event before.
            schedules: also yield results of schedules, as ScheduleEvent.

        Raises:
            Refused: events after `since` are no longer kept.
        """
        request = requests.GetEvents(
            id=UNNUMBERED, since=since, follow=follow, progress=progress, schedules=schedules
        )
        return self._channel.resumed(checked(request), take_events)

    async def last_event(self) -> int:
        """Return the id of the latest event: pass it to `events` to get all later events."""
        request = requests.GetEvents(id=UNNUMBERED, follow=True)
        async with aclosing(self._channel.follow(lambda: request)) as parts:
            return expected(await anext(parts), replies.EventsPart).last

    # --- inboxes -------------------------------------------------------------------------------------------

    async def inbox(
        self,
        session: str | None = None,
        *,
        wait: Duration | None = 0.0,
        peek: bool = False,
        limit: int = requests.DEFAULT_ENDS,
    ) -> list[JobEnd]:
        """Return the unacknowledged ends of a session's jobs, the oldest first.

        No other client gets these ends until this one closes. Ends that it does not acknowledge are handed
        out again, as `redelivered`.

        Args:
            session: its name; None: $BGD_SESSION.
            wait: seconds to wait for the first end; None: no limit.
            peek: do not keep these ends from other clients, and include those that other clients have.
            limit: limit on the number of ends.

        Raises:
            Refused: no session is named.
        """
        name = _named(session)
        seconds = seconds_of(wait, "wait")
        waits = seconds is None or seconds > 0
        request = checked(requests.GetInbox(id=UNNUMBERED, session=name, wait=waits, peek=peek, limit=limit))
        parts = await self._inbox_parts(request, seconds)
        # by event, because one may come twice if the daemon goes away in between
        found = {end.event: end for part in parts for end in expected(part, replies.InboxPart).ends}
        return [replace(end, tail=await self._tail(end)) for end in found.values()]

    async def acknowledge(
        self, ends: Iterable[JobEnd] = (), *, jobs: Iterable[int] = (), session: str | None = None
    ) -> None:
        """Delete ends that have been read from their inboxes; return when that is on disk.

        `jobs`: ids of jobs whose ends to delete, too, from the inbox of the session; None: $BGD_SESSION.

        Raises:
            Refused: there are jobs, and no session is named.
        """
        asked = [requests.AcknowledgeEnds(UNNUMBERED, each) for each in portions([end.event for end in ends])]
        asked += [
            requests.AcknowledgeEnds(UNNUMBERED, session=_named(session), jobs=each)
            for each in portions(list(jobs))
        ]
        for request in asked:
            await self._channel.ask(request, replies.Done, repeatable=True)

    async def _tail(self, end: JobEnd) -> str:
        """Return the last lines of the output of the attempt that ended, escaped; empty if they are gone."""
        if not end.log_bytes:
            return ""
        offset = max(end.log_bytes - TAIL_BYTES, 0)
        request = requests.Logs(id=UNNUMBERED, job=end.job, attempt=end.attempt, offset=offset)
        data = b""
        try:
            async with aclosing(self._channel.follow(lambda: None if data else request)) as parts:
                async for part in parts:
                    piece = expected(part, LogPart)
                    if piece.attempt != end.attempt:  # later ones follow
                        break
                    data += piece.data
        except NoSuchJob:  # it has been removed
            return ""
        return tail_of(data, is_all=not offset)

    async def _inbox_parts(self, request: requests.GetInbox, seconds: float | None) -> list[replies.Reply]:
        """Return the replies to a request; none if it waits and they do not come within some seconds."""
        if not request.wait:
            return await self._channel.collect(request)
        deadline = None if seconds is None else time.monotonic() + seconds
        try:
            async with aclosing(self._channel.follow(lambda: request, deadline)) as stream:
                return [part async for part in stream]
        except TimeoutError:
            return []

    # --- the daemon itself ----------------------------------------------------------------------------

    async def info(self) -> Info:
        return await self._channel.ask(requests.GetInfo(UNNUMBERED), Info, repeatable=True)

    async def stats(self, window: Duration = STATS_WINDOW) -> Stats:
        """Return figures of the last `window`, and of all waiting and running jobs."""
        request = requests.GetStats(UNNUMBERED, seconds_of(window, "window"))
        return await self._channel.ask(request, Stats, repeatable=True)

    async def usage(self) -> JobUsages:
        """Return the processor time and memory that running jobs use now, by id.

        The first answer after a pause of 10 seconds takes about half a second.
        """
        return await self._channel.ask(requests.GetUsage(UNNUMBERED), JobUsages, repeatable=True)

    async def login_link(self, *, read_only: bool = False) -> str:
        """Return a link that logs this user's browser in to the dashboard, once and within a minute.

        `read_only`: the browser sees everything and can change nothing.

        Raises:
            Refused: the daemon serves no dashboard.
        """
        request = requests.GetLogin(UNNUMBERED, read_only)
        return (await self._channel.ask(request, replies.Login, repeatable=True)).url

    async def reload(self) -> Reloaded:
        """Make the daemon read its configuration again.

        Raises:
            ConfigError: the configuration cannot be used; the daemon keeps the old one.
        """
        return await self._channel.ask(requests.Reload(UNNUMBERED), Reloaded, repeatable=True)

    async def shutdown(
        self, mode: ShutdownMode | str | None = None, *, timeout: Duration | None = None
    ) -> None:
        """Stop the daemon and wait until it is gone, so that the next one can use the state folder.

        Args:
            mode: what happens to running jobs (see ShutdownMode); None: as configured.
            timeout: how long to wait, None: no limit.

        Raises:
            TimeoutError: the daemon has not ended in time. It goes on shutting down.
        """
        await self._channel.shut_down(None if mode is None else ShutdownMode(mode), seconds_of(timeout))

    async def prune(
        self,
        *,
        states: Iterable[State | str] | None = None,
        older_than: Duration | None = None,
        keep: int | None = None,
        logs_total: int | None = None,
        dry_run: bool = False,
    ) -> Pruned:
        """Delete finished jobs and their logs, oldest first; return their count.

        Without `older_than`, `keep` and `logs_total`, the retention rules of the configuration apply.

        Args:
            states: only jobs in these final states.
            older_than: delete jobs that finished longer ago than this.
            keep: delete all but this many of the latest jobs of each state.
            logs_total: delete jobs until all logs together have at most this many bytes.
            dry_run: only count the jobs.
        """
        chosen, sizes = (
            None if states is None else states_of(states),
            {"keep": keep, "logs_total": logs_total},
        )
        seconds = seconds_of(older_than, "older_than")
        request = requests.Prune(id=UNNUMBERED, states=chosen, older_than=seconds, dry_run=dry_run, **sizes)
        pruned = Pruned(UNNUMBERED, 0, 0)
        async with aclosing(self._channel.follow(lambda: checked(request))) as parts:
            async for part in parts:
                pruned = expected(part, Pruned)
        return pruned

    async def backup(self) -> AsyncGenerator[bytes, None]:
        """Yield a verified copy of the daemon's database in pieces: a file for `bgd --recover`.

        Raises:
            Refused: the daemon cannot write a backup.
            Full: the daemon has no space for one.
            DaemonUnreachable: the backup broke off; the pieces so far are useless.
        """
        size, received = 1, 0
        request = requests.GetBackup(UNNUMBERED)
        parts = self._channel.follow(lambda: None if received else request, alone=True)
        async with aclosing(parts) as pieces:
            async for part in pieces:
                piece = expected(part, replies.BackupPart)
                size, received = piece.size, received + len(piece.data)
                yield piece.data
        if received != size:
            raise DaemonUnreachable(
                f"the daemon went away after {received} bytes of a backup: ask for it again"
            )

    async def checkup(self) -> list[Finding]:
        """Return the problems that the daemon finds in its installation, with remedies."""
        reply = await self._channel.ask(requests.GetCheckup(UNNUMBERED), replies.Checkup, repeatable=True)
        return reply.findings


def _named(session: str | None) -> str:
    name = session or caller_session()
    if name is None:
        raise Refused("no session is named: pass its name, or set BGD_SESSION")
    return name
