"""The work of `map`, for both clients: submits a job for each item and yields the results in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from msgspec.structs import replace

from bgd.client.bar import Advance, progress_bar
from bgd.client.calls import Calls
from bgd.client.channel import Channel
from bgd.client.session import batch_frames
from bgd.client.transport import seconds_left
from bgd.core.spec import JobSpec
from bgd.errors import BgdError, DaemonUnreachable, JobFailed
from bgd.wire.views import JobView

_PORTIONS = 4  # into which the buffer is divided, so that slots have work while one portion is read


class Mapper:
    """One `map`, with its buffer: the jobs whose results were not yielded yet."""

    def __init__(self, channel: Channel, calls: Calls) -> None:
        self._channel = channel
        self._calls = calls
        self._portion = max(1, calls.buffersize // _PORTIONS)
        self._buffer: deque[int] = deque()
        self._finished: set[int] = set()  # jobs of the buffer
        self._unanswered: Sequence[JobSpec] = ()  # submitted, and the daemon has not answered yet
        self._count = 0  # of results so far

    async def results(self, *, return_exceptions: bool) -> AsyncGenerator[Any, None]:
        """Yield the results; see `AsyncClient.map`."""
        timeout = self._calls.timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        with progress_bar(self._calls.name, self._calls.total, wanted=self._calls.progress) as advance:
            try:
                while await self._fill_buffer():
                    async with aclosing(self._finishing(deadline)) as finishing:
                        while not self._needs_more:
                            await self._wait_for_first(finishing, advance)
                            result = await self._result(self._buffer.popleft())
                            if isinstance(result, JobFailed) and not return_exceptions:
                                raise result
                            yield result
            except DaemonUnreachable:
                self._buffer.clear()  # there is no daemon that could cancel them
                raise
            finally:
                await self._cancel()

    @property
    def _needs_more(self) -> bool:
        has_room = len(self._buffer) <= self._calls.buffersize - self._portion
        return not self._buffer or (has_room and not self._calls.are_all_read)

    async def _fill_buffer(self) -> bool:
        """Submit as many jobs as the buffer has room for; return whether it has any."""
        while not self._calls.are_all_read and (room := self._calls.buffersize - len(self._buffer)) > 0:
            specs = self._calls.portion(min(room, self._portion))
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
            of = "" if self._calls.total is None else f" of {self._calls.total}"
            raise TimeoutError(f"{self._count}{of} results came within {self._calls.timeout:g} s") from None

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
