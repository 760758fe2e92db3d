"""`map`: submits a job for each item and yields the results in order."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence, Sized
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar, cast

from msgspec.structs import replace

from bgd.client.bar import Advance, progress_bar
from bgd.client.channel import Channel
from bgd.client.connection import renew_after_fork, seconds_left
from bgd.client.options import JobOptions, MapOptions
from bgd.client.session import batch_frames
from bgd.client.specs import Caller, class_spec, results_late, seconds_of
from bgd.core.spec import JobSpec
from bgd.errors import BgdError, DaemonUnreachable, JobFailed, Refused
from bgd.jobfunction import Background, background_of
from bgd.wire.views import JobView

DEFAULT_BUFFERSIZE = 1000  # jobs: enough for fast slots, few enough for any memory
_PORTIONS = 4  # into which the buffer is divided, so that slots have work while one portion is read
_PORTION_BYTES = 8 << 20  # of arguments in one transaction: all clients of a daemon share its memory
_PORTION_SECONDS = 0.1  # that a call waits for more calls, if reading the items takes time

A = TypeVar("A")
R = TypeVar("R")

Called = Callable[[A], R] | Background[[A], R]
Awaited = Called[A, Coroutine[Any, Any, R]]
Target = str | Called[Any, Any]


class Mapper:
    """One `map`, with its buffer: the jobs whose results were not yielded yet.

    Its arguments are those of `map`.

    Raises:
        TypeError, Refused: no job can have this target or these options.
    """

    def __init__(
        self, channel: Channel, target: Target, items: Iterable[object], options: MapOptions
    ) -> None:
        self._channel = channel
        self._is_inherited = False
        renew_after_fork(self)
        self._name = target if isinstance(target, str) else getattr(target, "__qualname__", "map")
        self._total = len(items) if isinstance(items, Sized) else None  # None: unknown
        self._timeout = seconds_of(options.get("timeout"))
        self._progress = options.get("progress")
        self._buffersize = options.get("buffersize", DEFAULT_BUFFERSIZE)
        if self._buffersize < 1:
            raise ValueError("buffersize must be >= 1")
        self._items = enumerate(items)
        self._are_all_read = False
        self._spec = _spec_maker(target, options)
        # each job gets a key, so that it can be submitted again if the answer was lost
        self._key_prefix = f"map-{os.urandom(8).hex()}"
        self._portion = max(1, self._buffersize // _PORTIONS)
        self._buffer: deque[int] = deque()
        self._finished: set[int] = set()  # jobs of the buffer
        self._unanswered: Sequence[JobSpec] = ()  # submitted, and the daemon has not answered yet
        self._count = 0  # of results so far

    async def results(self, *, return_exceptions: bool) -> AsyncGenerator[Any, None]:
        """Yield the results; see `AsyncClient.map`."""
        timeout = self._timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        with progress_bar(self._name, self._total, wanted=self._progress) as advance:
            try:
                while await self._fill_buffer():
                    async with aclosing(self._finishing(deadline)) as finishing:
                        while not self._needs_more:
                            await self._wait_for_first(finishing, advance)
                            result = await self._result(self._buffer.popleft())
                            if isinstance(result, JobFailed) and not return_exceptions:
                                raise result
                            yield result
                            if self._is_inherited:
                                raise BgdError("this map belongs to the parent process: begin one after fork")
            except DaemonUnreachable:
                self._buffer.clear()  # there is no daemon that could cancel them
                raise
            finally:
                if not self._is_inherited:
                    await self._cancel()

    def renew(self) -> None:
        """Leave the jobs to the parent process: this is a forked child."""
        self._is_inherited = True

    @property
    def _needs_more(self) -> bool:
        has_room = len(self._buffer) <= self._buffersize - self._portion
        return not self._buffer or (has_room and not self._are_all_read)

    async def _fill_buffer(self) -> bool:
        """Submit as many jobs as the buffer has room for; return whether it has any."""
        while not self._are_all_read and (room := self._buffersize - len(self._buffer)) > 0:
            specs = self._next_specs(min(room, self._portion))
            is_first = not (self._buffer or self._count)
            submit = partial(self._submit, specs)
            self._unanswered = specs
            try:
                jobs = await (submit() if is_first else self._channel.ask_patiently(submit))
            except BgdError:
                self._unanswered = ()  # refused, or there is no daemon to ask about them
                raise
            self._unanswered = ()
            self._buffer.extend(jobs)
        return bool(self._buffer)

    async def _submit(self, specs: Sequence[JobSpec]) -> list[int]:
        if not specs:  # the items ended with the last portion
            return []
        return (await self._channel.submit(partial(batch_frames, specs=specs, env={}))).jobs

    async def _finishing(self, deadline: float | None) -> AsyncGenerator[JobView, None]:
        waiting = [job_id for job_id in self._buffer if job_id not in self._finished]
        await self._channel.reconnect()
        try:
            async with aclosing(self._channel.finished(waiting, seconds_left(deadline))) as finishing:
                async for job in finishing:
                    yield job
        except TimeoutError:
            raise results_late(self._count, self._total, self._timeout) from None

    async def _wait_for_first(self, finishing: AsyncGenerator[JobView, None], advance: Advance) -> None:
        """Wait until the first job of the buffer has finished."""
        while self._buffer[0] not in self._finished:
            job = await anext(finishing)
            self._finished.add(job.id)
            advance(1, job.state != "succeeded")

    async def _result(self, job_id: int) -> Any:
        """Return what a finished job returned, or the JobFailed of one that did not succeed."""
        self._finished.remove(job_id)
        self._count += 1
        try:
            return await self._channel.returned(job_id)
        except JobFailed as failure:
            return failure.with_traceback(None)  # its frames keep the connection alive

    async def _cancel(self) -> None:
        """Cancel the jobs of the buffer that have not started."""
        if self._unanswered:
            # submit them again: their keys tell which are jobs, and `hold` keeps new ones from starting
            self._buffer.extend(await self._submit([replace(spec, hold=True) for spec in self._unanswered]))
        waiting = [job_id for job_id in self._buffer if job_id not in self._finished]
        if waiting:
            await self._channel.cancel_waiting(waiting)

    def _next_specs(self, most: int) -> list[JobSpec]:
        """Read the next items, at most `most` and only as many as suit one transaction; return their specs.

        Raises:
            TypeError, Refused: an item cannot be an argument. The message names it.
        """
        specs: list[JobSpec] = []
        size, began_at = 0, time.monotonic()
        for number, item in self._items:
            spec = self._numbered(number, item)
            specs.append(spec)
            size += len(spec.arguments or "")
            is_late = time.monotonic() - began_at > _PORTION_SECONDS
            if len(specs) == most or size > _PORTION_BYTES or is_late:
                return specs
        self._are_all_read = True
        return specs

    def _numbered(self, number: int, item: object) -> JobSpec:
        try:
            spec = self._spec(item)
        except (TypeError, Refused) as error:
            raise type(error)(f"item {number}: {error}") from error
        if spec.key is not None:
            raise Refused("map gives each job a key of its own: one key would make one job of all items")
        return replace(spec, key=f"{self._key_prefix}-{number}")


def _spec_maker(target: Target, options: MapOptions) -> Callable[[object], JobSpec]:
    job_options = {
        _JOB_OPTION_NAMES.get(name, name): value for name, value in options.items() if name not in _OF_THE_MAP
    }
    given = cast(JobOptions, job_options)
    if not isinstance(target, str):
        return background_of(target, given).spec
    caller = Caller()
    return lambda item: class_spec(target, [item], {}, given, caller)


_OF_THE_MAP = {"timeout", "buffersize", "progress"}
_JOB_OPTION_NAMES = {"time_limit": "timeout"}
