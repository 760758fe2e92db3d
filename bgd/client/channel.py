"""The channel from a client to the daemon: connects when first used, and again after the connection broke."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from bgd.client.connection import (
    Connection,
    Connector,
    Inbox,
    process_descriptor,
    renew_after_fork,
    seconds_left,
)
from bgd.client.session import (
    UNNUMBERED,
    Broken,
    Idempotency,
    NotSent,
    ProgressCallback,
    ResumableWait,
    Sent,
    expected,
    framed,
    portions,
    value_of,
)
from bgd.client.specs import checked
from bgd.core.explain import deadlock_in_words
from bgd.core.job import VERBS, State
from bgd.errors import BgdError, DaemonUnreachable, Refused
from bgd.wire.messages import tag_of
from bgd.wire.replies import (
    Acted,
    ActResult,
    Done,
    End,
    Explained,
    Failed,
    Info,
    Reply,
    Result,
    Submitted,
    error_of,
)
from bgd.wire.requests import (
    Explain,
    GetInfo,
    GetResult,
    Request,
    Shutdown,
    ShutdownMode,
    act,
)
from bgd.wire.views import JobView

if TYPE_CHECKING:
    from bgd.client.concurrency import Concurrency

Q = TypeVar("Q", bound=Request)
R = TypeVar("R")
T = TypeVar("T")

_MIN_PAUSE = 0.05  # seconds between two attempts to connect again; each pause is twice the one before
_MAX_PAUSE = 1.0
_MAX_PAUSE_OF_REQUEST = 0.2  # a request has only some seconds
_PATIENCE = 10  # times that the daemon may go away before it answers a request
_EXIT_SECONDS = 30.0  # between the end of a daemon's last connection and that of its process
_OTHERS_FIRST = 5.0  # seconds in which a person or a service manager may restart the daemon before we do


class Channel:
    """Requests and streams that outlive a connection.

    Until its deadline, a request that the daemon surely did not take is sent again over a new connection. One
    that it may have taken is sent again only if that is safe.
    """

    def __init__(self, connector: Connector, timeout: float, io: Concurrency) -> None:
        self._connector = connector
        self.timeout = timeout
        self._io = io
        self._owner: tuple[int, object] | None = None  # the process and the event loop of the first use
        self._connecting = io.new_lock()
        self._connection: Connection | None = None
        renew_after_fork(self)

    def renew(self) -> None:
        """Connect again in a forked child."""
        self._connecting, self._connection = self._io.new_lock(), None

    async def ask(self, request: Request, kind: type[R], *, repeatable: bool = False) -> R:
        """Send a request and return its only reply.

        Args:
            request: its field `repeated`, if any, is set when it is sent again, so that the daemon accepts
                what is already done.
            kind: the type of the reply.
            repeatable: the request may be taken twice, so send it again if the daemon goes away before it
                answers.

        Raises:
            Refused: a value of the request is out of range.
            DaemonUnreachable: the request may or may not have been executed.
        """
        request = checked(request)
        was_lost = False

        async def send(connection: Connection | InlineConnection, deadline: float) -> Reply:
            nonlocal was_lost
            is_repeat = was_lost and "repeated" in request.__struct_fields__
            try:
                sent = replace(request, repeated=True) if is_repeat else request
                return await connection.exchange(partial(framed, sent), deadline)
            except Broken:
                was_lost = True
                raise

        return expected(await self._answered(send, lambda: repeatable), kind)

    async def submit(self, frames: Callable[..., bytes], sent: Sent | None = None) -> Submitted:
        """Send a request for new jobs, and again if its answer is lost: the daemon recognises it.

        `frames` makes the request's frames, given its id, and its token as keywords. `sent`: what
        was sent before, without an answer.

        Raises:
            DaemonUnreachable: the jobs may or may not have been taken.
        """
        idempotency = Idempotency(sent)

        async def send(connection: Connection | InlineConnection, deadline: float) -> Reply:
            try:
                return await connection.exchange(
                    partial(frames, **idempotency.fields(connection.newest)), deadline
                )
            except Broken as error:
                idempotency.lost = idempotency.lost or error
                raise

        try:
            return expected(await self._answered(send, lambda: idempotency.may_repeat), Submitted)
        except DaemonUnreachable as error:
            if idempotency.lost is None:
                raise
            raise idempotency.lost from error  # also of NotSent: it may have been taken the first time

    async def collect(self, request: Request) -> list[Reply]:
        """Return all replies of a stream that only reads and is expected to end soon; refuses as `ask`."""
        request = checked(request)

        async def send(connection: Connection | InlineConnection, deadline: float) -> list[Reply]:
            return [reply async for reply in connection.stream(request, deadline)]

        return await self._answered(send, lambda: True)

    async def follow(
        self, rest: Callable[[], Request | None], deadline: float | None = None, *, alone: bool = False
    ) -> AsyncGenerator[Reply, None]:
        """Yield the replies of a stream over as many connections as it takes.

        Args:
            rest: returns the request for what was not yielded yet, None if nothing is left. Called again
                whenever the daemon went away.
            deadline: on the monotonic clock, None: no limit.
            alone: use a connection of its own. The daemon sends a long stream no faster than it is read, and
                the answers to other requests must not wait for that.

        Raises:
            TimeoutError: the deadline has passed.
            DaemonUnreachable: the daemon went away, and none came back within `timeout`.
        """
        connect = self._open if alone else self.connection
        connection = await connect()
        pauses, was_asked = _growing_pauses(), False
        try:
            request = rest()
            while request is not None:
                try:
                    async with aclosing(connection.stream(request, deadline)) as replies:
                        async for reply in replies:
                            pauses = _growing_pauses()
                            yield reply
                except (NotSent, Broken) as error:
                    if alone:  # others use the common one, which may be fine: only this request had no time
                        await connection.close()
                    if (request := rest()) is None:
                        return
                    was_away = not was_asked and isinstance(error, NotSent)  # before it was asked
                    was_asked = True
                    connection = await self._connected_again(connect, pauses, deadline, was_away=was_away)
                else:
                    return
        finally:
            if alone:
                await connection.close()

    async def resumed(
        self,
        request: Q,
        take: Callable[[Q, Reply], tuple[Q | None, Iterable[T]]],
        seconds: float | None = None,
        late: str = "",
    ) -> AsyncGenerator[T, None]:
        """Yield what is in the replies; whenever the connection breaks, ask for the rest over another one.

        Args:
            request: what to ask for.
            take: returns the request for the rest, None if nothing is left, and what is in a reply.
            seconds: limit on all of it.
            late: what has not happened if it takes longer.

        Raises:
            TimeoutError: it takes longer than `seconds`.
            DaemonUnreachable: as `follow`; or the daemon may have acted on more jobs than it reported, and
                must not act twice.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        rest, was_asked = request, False

        def ask() -> Q:
            nonlocal was_asked
            verb = tag_of(request)
            if was_asked and verb in VERBS and VERBS[verb].does_more:
                raise DaemonUnreachable(
                    f"the daemon went away in the middle of this {verb}: see which jobs are left"
                )
            was_asked = True
            return rest

        try:
            async with aclosing(self.follow(ask, deadline, alone=True)) as parts:
                async for part in parts:
                    again, found = take(rest, part)
                    for each in found:
                        yield each
                    if again is None:
                        return
                    rest = again
        except TimeoutError:
            raise TimeoutError(f"{late} within {seconds or 0:g} s") from None

    async def act(self, verb: str, job_ids: Sequence[int], **fields: object) -> list[ActResult]:
        """Act on jobs; a verb that may be done twice is repeated."""
        results: list[ActResult] = []
        for portion in portions(job_ids):
            request = act(verb, jobs=portion, **fields)
            reply = await self.ask(request, Acted, repeatable=VERBS[verb].is_repeatable)
            results += reply.results
        return results

    async def cancel_waiting(self, job_ids: Sequence[int]) -> list[ActResult]:
        """Cancel the waiting ones of these jobs; the entries of running ones say that they still run."""
        results = await self.act("hold", job_ids)  # a held job is not started before the next request
        held = [result.job for result in results if result.state is State.HELD]
        cancelled = iter(await self.act("cancel", held))
        return [next(cancelled) if result.state is State.HELD else result for result in results]

    async def returned(self, job_id: int) -> Any:
        """Return what a finished job returned, also if the daemon is being restarted; see `value_of`."""
        ask = partial(self.ask, GetResult(UNNUMBERED, job_id), Result, repeatable=True)
        return value_of(await self.ask_patiently(ask))

    async def finished(
        self, job_ids: list[int], seconds: float | None, on_progress: ProgressCallback | None = None
    ) -> AsyncGenerator[JobView, None]:
        """Yield jobs as they finish; all must within some seconds, 0: they must have finished now.

        Raises:
            TimeoutError: not all have.
        """
        only_now = seconds is not None and seconds <= 0
        patience = self.timeout if only_now else seconds  # even then an answer takes its time
        deadline = None if patience is None else time.monotonic() + patience
        count, late = len(job_ids), None
        try:
            for portion in portions(job_ids):
                rest = ResumableWait(portion, on_progress, only_now=only_now)
                async with aclosing(self.follow(rest.request, deadline)) as parts:
                    async for part in parts:
                        for view in rest.take(part):
                            count -= 1
                            yield view
                late = rest.first if late is None else late
        except TimeoutError:
            raise _unfinished(rest.first, count, seconds, await self._deadlock(rest.first)) from None
        if late is not None:  # with `only_now`, the daemon does not wait for it
            raise _unfinished(late, count, seconds)

    async def _deadlock(self, job_id: int | None) -> str:
        """Return why a job for which this process waits never starts; "" if it is no job itself."""
        if "BGD_JOB_ID" not in os.environ or job_id is None:
            return ""
        with suppress(BgdError):
            reply = await self.ask(Explain(UNNUMBERED, job_id, waits=True), Explained, repeatable=True)
            return deadlock_in_words(reply.explanation)
        return ""

    async def connection(self, *, may_start: bool = True) -> Connection | InlineConnection:
        """Return the connection, a new one if there is none or it broke."""
        self._check_owner()
        if (backend := installed_backend()) is not None:
            return InlineConnection(backend, self._io)
        if (connection := self._connection) is not None and not connection.is_broken:
            return connection
        await self._io.acquire(self._connecting, None)
        try:
            if self._connection is not None and self._connection.is_broken:
                await self._connection.close()
                self._connection = None
            if self._connection is None:
                self._connection = await self._connect(may_start=may_start)
            return self._connection
        finally:
            self._connecting.release()

    async def reconnect(self) -> None:
        """Wait until there is a connection, as a broken stream does.

        Raises:
            DaemonUnreachable: no daemon came back within `timeout`.
        """
        await self._connected_again(self.connection, _growing_pauses(), None)

    async def ask_patiently(self, ask: Callable[[], Awaitable[R]]) -> R:
        """Call `ask`, which may be repeated; whenever the daemon goes away, again when it is back.

        Raises:
            DaemonUnreachable: as `reconnect`, or the daemon went away some times more.
        """
        for _ in range(_PATIENCE):
            try:
                return await ask()
            except DaemonUnreachable:
                await self.reconnect()
        return await ask()

    async def shut_down(self, mode: ShutdownMode | None, seconds: float | None) -> None:
        """End the daemon and wait until its process is gone.

        Raises:
            TimeoutError: it has not ended in time.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        pid = (await self.ask(GetInfo(UNNUMBERED), Info, repeatable=True)).pid
        with process_descriptor(pid) as process:
            connection = await self.connection()
            await self.ask(Shutdown(UNNUMBERED, mode), Done)
            try:
                await connection.wait_for_end(deadline)
            except TimeoutError:
                raise TimeoutError(f"the daemon has not ended within {seconds:g} s") from None
            try:
                if process is not None:
                    await self._io.wait_ready(process, time.monotonic() + _EXIT_SECONDS)
            except TimeoutError:
                raise TimeoutError(
                    f"the daemon has stopped serving, but its process {pid} has not ended: it waits for a"
                    " disk that does not answer"
                ) from None

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _check_owner(self) -> None:
        """Raise BgdError on another event loop than that of the first use. Threads and children have none."""
        if self._io.running_loop is None:
            return
        if self._owner is not None and self._owner[0] != os.getpid():
            raise BgdError(f"{self._io.CLIENT} belongs to the parent process: make a new one after fork")
        owner = os.getpid(), self._io.running_loop()
        self._owner = self._owner or owner
        if self._owner != owner:
            raise BgdError(f"{self._io.CLIENT} belongs to another event loop: make one for each loop")

    async def _answered(
        self,
        send: Callable[[Connection | InlineConnection, float], Awaitable[R]],
        may_repeat: Callable[[], bool],
    ) -> R:
        """Send a request over one connection after another until it is answered or `timeout` has passed.

        `may_repeat`: whether it may be sent again although it may have been taken.
        """
        deadline = time.monotonic() + self.timeout
        connection = await self.connection()
        pauses = _growing_pauses(_MAX_PAUSE_OF_REQUEST)
        failures = 0
        may_be_taken = False
        try:
            while True:
                try:
                    return await send(connection, deadline)
                except NotSent:
                    if not may_be_taken and seconds_left(deadline) == 0:
                        raise
                except Broken:
                    if not may_repeat():
                        raise
                    may_be_taken = True
                failures += 1
                if failures == 1 and not may_be_taken:  # the daemon went away before it was asked
                    connection = await self.connection()
                else:
                    connection = await self._connected_again(self.connection, pauses, deadline)
        except TimeoutError as error:
            raise DaemonUnreachable(
                f"the daemon did not answer within {self.timeout:g} s: "
                "the request may or may not have been executed"
            ) from error

    async def _open(self, *, may_start: bool = True) -> Connection | InlineConnection:
        """Return a connection for one stream alone."""
        self._check_owner()
        if (backend := installed_backend()) is not None:
            return InlineConnection(backend, self._io)
        return await self._connect(may_start=may_start)

    async def _connect(self, *, may_start: bool) -> Connection:
        return await self._connector.connect(time.monotonic() + self.timeout, self._io, may_start=may_start)

    async def _connected_again(
        self,
        connect: Callable[..., Awaitable[Connection | InlineConnection]],
        pauses: Iterator[float],
        deadline: float | None,
        *,
        was_away: bool = False,
    ) -> Connection | InlineConnection:
        """Connect to the daemon that follows one that went away.

        `was_away`: it went away before it was asked anything. No service is known to restart it, so this
        does, at once.
        """
        began_at = time.monotonic()
        while True:
            remaining = seconds_left(deadline)
            if remaining == 0:
                raise TimeoutError
            seconds = next(pauses)
            await self._io.sleep(seconds if remaining is None else min(seconds, remaining))
            waited = time.monotonic() - began_at
            try:
                return await connect(may_start=was_away or waited > _OTHERS_FIRST)
            except DaemonUnreachable:
                if waited > self.timeout:
                    raise


def _unfinished(first: int | None, count: int, seconds: float | None, deadlock: str = "") -> TimeoutError:
    jobs = f"job {first} has" if count == 1 else f"{count} jobs have"
    why = f": job {first} waits {deadlock}" if deadlock else ""
    return TimeoutError(f"{jobs} not finished within {seconds or 0:g} s{why}")


def _growing_pauses(longest: float = _MAX_PAUSE) -> Iterator[float]:
    yield 0.0
    seconds = _MIN_PAUSE
    while True:
        yield seconds
        seconds = min(2 * seconds, longest)


# --- a backend in this process ---------------------------------------------------------------------------


Pause = Callable[[], None]
"""Blocks until there is more to reply, or the end."""


Backend = Callable[[bytes], Iterator[Reply | Pause]]
"""Answers requests in place of a daemon: in frames, but without a socket.

Yields the replies to a request, including a stream's end mark, and a Pause before each wait.
"""


def installed_backend() -> Backend | None:
    """Return the backend that answers in this process, None if clients connect to daemons."""
    return _backends[-1] if _backends else None


@contextmanager
def install_backend(backend: Backend) -> Iterator[None]:
    """Let a backend answer all clients of this process, in all threads; the latest one wins."""
    _backends.append(backend)
    try:
        yield
    finally:
        _backends.remove(backend)


_backends: list[Backend] = []


class InlineConnection:
    """Replaces a Connection while a backend is installed. It never breaks, and ignores deadlines."""

    is_broken = False
    newest = 0

    def __init__(self, backend: Backend, io: Concurrency) -> None:
        self._backend = backend
        self._io = io

    async def exchange(self, frames: Callable[[int], bytes], deadline: float | None) -> Reply:
        """Send a request, and return its only reply."""
        del deadline
        replies = await self._io.run_blocking(list, self._backend(frames(UNNUMBERED)))
        return _checked_reply(replies[0])

    async def post(self, frames: Callable[[int], bytes], deadline: float | None) -> Inbox:
        """Send a request; `reply_to` returns its only reply."""
        inbox = Inbox(UNNUMBERED, self._io.new_bell())
        inbox.append(await self.exchange(frames, deadline))
        return inbox

    async def reply_to(self, inbox: Inbox, deadline: float | None) -> Reply:
        """Return the reply to a request that was posted."""
        del deadline
        return inbox.popleft()

    def drop(self, inbox: Inbox) -> None:
        """Do nothing: its reply is there."""

    async def stream(self, request: Request, deadline: float | None) -> AsyncGenerator[Reply, None]:
        """Send a request and yield its replies up to the end mark."""
        del deadline
        for reply in self._backend(framed(request, UNNUMBERED)):
            if callable(reply):
                await self._io.run_blocking(reply)
            elif isinstance(reply, End):
                return
            else:
                yield _checked_reply(reply)

    async def wait_for_end(self, deadline: float | None) -> None:
        """Raise Refused: inline jobs have no daemon to wait for."""
        del deadline
        raise Refused("there is no daemon to shut down: jobs run inline")

    async def close(self) -> None:
        """Do nothing: nothing is open."""


def _checked_reply(reply: object) -> Reply:
    if isinstance(reply, Failed):
        raise error_of(reply.code, reply.message)
    if not isinstance(reply, Reply):
        raise TypeError(f"{reply!r} is not a reply")
    return reply
