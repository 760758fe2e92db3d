"""Sends a batch of any length: in portions, several of them in flight, each line once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from bgd.client.channel import Channel, InlineConnection
from bgd.client.connection import Connection, Inbox
from bgd.client.portions import Portion
from bgd.client.programs import CannotStart, problem_with_follow_ups
from bgd.client.session import UNNUMBERED, Broken, NotSent, expected, from_caller
from bgd.client.specs import Caller, Item, checked, follow_up_words, spec_of
from bgd.core.spec import JobSpec, is_target
from bgd.errors import BgdError, DaemonUnreachable, Refused
from bgd.wire.replies import BatchesPart, BatchRuns, Run, Submitted, runs_of
from bgd.wire.requests import CloseBatch, GetBatch, NewBatch

FollowUp = Item | str | Callable[..., object]
"""A follow-up of a batch: a call; a target or its function, which is called without arguments."""

IN_FLIGHT = 4  # portions: one being written, one being decided, and one on the way each way
_TRIES = 3  # times that the connection may break without progress


class Taken(Struct, frozen=True):
    """Lines that are jobs on disk. `found`: those whose key a job already had; `obstacle`: see Submitted."""

    runs: list[Run]
    found: frozenset[int] = frozenset()
    obstacle: str | None = None


class BatchSender:
    """Sends the lines of one batch, and knows exactly which are jobs.

    The daemon takes the lines in order, and stops at one that it refuses.

    Args:
        channel: to the daemon.
        batch: the identity of the batch.
        last: the last line whose job is known.
        new: the batch to make of the lines; None: none.

    Attributes:
        object: the id of the batch, None if there is none yet.
    """

    def __init__(self, channel: Channel, batch: bytes, last: int = 0, new: NewBatch | None = None) -> None:
        self._channel = channel
        self._batch = batch
        self._new = new
        self.object: int | None = None
        self.last = last
        self._pending: deque[Portion] = deque()  # read, and not known to be taken
        self._is_read = False
        self._failure: BaseException | None = None  # of the source, raised when all before it is taken

    async def send(self, portions: Iterable[Portion | None]) -> AsyncGenerator[Taken, None]:
        """Queue the jobs of all portions; yield taken lines, in order.

        `portions`: None means that the next one may take a while, so portions in flight are awaited first.

        Raises:
            BgdError: the daemon refuses a line. Those before its portion are taken, none after it.
            DaemonUnreachable: no daemon came back within the client's timeout.
        """
        source = iter(portions)
        tries, before = 0, self.last
        while True:
            try:
                connection = await self._channel.connection()
                async with aclosing(self._send_over(connection, source)) as parts:
                    async for taken in parts:
                        yield taken
            except (NotSent, Broken):
                tries = tries + 1 if self.last == before else 1
                if tries > _TRIES:
                    raise
                await self._channel.reconnect()
            except DaemonUnreachable:
                raise
            except BgdError:  # perhaps because bytes of an earlier connection came late: ask for its position
                tries = tries + _TRIES if self.last == before else 1
                if tries > _TRIES:
                    raise
            else:
                break
            before = self.last
        if self._failure is not None:
            raise self._failure

    async def known(self, *, close: bool = False) -> AsyncGenerator[Taken, None]:
        """Ask the daemon which lines after the `last` it has taken.

        `close`: it takes no more, not even lines still on their way.
        """
        request = GetBatch(id=UNNUMBERED, batch=self._batch, after=self.last, close=close)
        for part in await self._channel.collect(request):
            reply = expected(part, BatchRuns)
            self.object = reply.batch or self.object
            self._drop_pending(reply.last)
            if reply.runs:
                self.last = reply.runs[-1][0] + reply.runs[-1][2] - 1
                yield Taken(reply.runs)

    async def close(self, *, reopen: bool = False) -> None:
        """Say that no more lines come, so that the batch can end; with `reopen` that they may after all."""
        if self.object is not None:
            request = CloseBatch(UNNUMBERED, self.object, reopen=reopen)
            await self._channel.ask(request, BatchesPart, repeatable=True)

    async def _send_over(
        self, connection: Connection | InlineConnection, source: Iterator[Portion | None]
    ) -> AsyncGenerator[Taken, None]:
        async with aclosing(self.known()) as known:  # this opens the batch
            async for taken in known:
                yield taken
        again = deque(self._pending)
        in_flight: deque[tuple[Portion, Inbox]] = deque()
        sent, has_pause = self.last, False
        try:
            while in_flight or again or not self._is_read:
                while not has_pause and len(in_flight) < IN_FLIGHT:
                    portion = again.popleft() if again else self._next(source)
                    if portion is not None and not (portion.waits and in_flight):
                        new = self._new if self.object is None else NewBatch()  # its token is enough
                        frames = partial(portion.frames, batch=self._batch, after=sent, new=new)
                        in_flight.append((portion, await connection.post(frames, self._deadline())))
                        sent, has_pause = portion.last, portion.waits
                    else:
                        has_pause = True
                        again.extendleft([portion] if portion else [])
                if in_flight:
                    yield await self._answer(connection, *in_flight.popleft())
                has_pause = has_pause and bool(in_flight)
        finally:
            for _, inbox in in_flight:
                connection.drop(inbox)

    def _next(self, source: Iterator[Portion | None]) -> Portion | None:
        """Return the next portion; None if there is none now, or never again."""
        if self._is_read:
            return None
        try:
            portion = next(source)
        except StopIteration:
            self._is_read = True
            return None
        except Exception as error:  # noqa: BLE001 - `send` raises it
            self._failure, self._is_read = error, True
            return None
        if portion is not None:
            self._pending.append(portion)
        return portion

    async def _answer(
        self, connection: Connection | InlineConnection, portion: Portion, inbox: Inbox
    ) -> Taken:
        try:
            reply = expected(await connection.reply_to(inbox, self._deadline()), Submitted)
        except TimeoutError as error:
            raise DaemonUnreachable(
                f"the daemon did not answer within {self._channel.timeout:g} s: some lines may or may not"
                " have been queued"
            ) from error
        self.last, self.object = portion.last, reply.batch or self.object
        self._drop_pending(portion.last)
        return Taken(
            runs_of(portion.lines, reply.jobs), portion.found_lines(reply.jobs, reply.found), reply.obstacle
        )

    def _drop_pending(self, last: int) -> None:
        while self._pending and self._pending[0].last <= last:
            self._pending.popleft()
        if self._pending and self._pending[0].lines[0] <= last:
            raise Refused("another program has continued this batch: only one may do so at a time")

    def _deadline(self) -> float:
        return time.monotonic() + self._channel.timeout


def new_batch_of(
    name: str | None,
    follow_ups: Mapping[str, FollowUp | None],
    caller: Caller,
    *,
    session: str | None,
    check_programs: bool,
    check_targets: bool,
) -> NewBatch:
    """Return a new batch with a name and follow-ups, by the fields of NewBatch; these are of its session.

    Raises:
        CannotStart: with `check_programs`: a command's program is missing.
        Refused, TypeError: it cannot follow; with `check_targets` also a target of this process, for
            example one that needs arguments.
    """
    given: dict[str, Any] = {}
    for key, call in follow_ups.items():
        item: Any = call
        if call is None:
            continue
        if not isinstance(call, JobSpec | Mapping):
            event = key.rstrip("_")
            words = follow_up_words(call, event)
            path = caller.environment.get("PATH")
            if check_programs and (problem := problem_with_follow_ups({event: words}, path, caller.folder)):
                raise CannotStart(f"{problem}; check=False queues the batch anyway", problem)
            item = {"target": words[0], "check": check_targets} if is_target(tuple(words)) else words
        spec = _with_environment(spec_of(item, caller), caller)
        [given[key]] = from_caller([replace(spec, session=spec.session or session)])
    return checked(NewBatch(name=name, **given))


def _with_environment(spec: JobSpec, caller: Caller) -> JobSpec:
    is_complete = spec.argv is None or spec.env is not None
    return spec if is_complete else replace(spec, env=caller.environment)
