"""Batches: jobs that belong together, and the actions on all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Self

from msgspec.structs import replace

from bgd.client.batch import BatchSender, new_batch_of
from bgd.client.portions import SpecMaker, marked, new_batch, portions_of
from bgd.client.session import UNNUMBERED, expected
from bgd.client.specs import Caller, Item, checked, seconds_of, specs_of, states_of
from bgd.core.job import State
from bgd.errors import BgdError, Refused
from bgd.text.brief import BATCH_COUNTS
from bgd.wire.replies import BatchesPart
from bgd.wire.requests import MAX_LIST, CloseBatch, GetBatches, Selection
from bgd.wire.views import BatchView

if TYPE_CHECKING:
    from bgd.client.async_.client import AsyncClient
    from bgd.client.async_.job import AsyncJob
    from bgd.client.batch import FollowUp
    from bgd.client.channel import Channel
    from bgd.client.options import Duration


class AsyncBatch:
    """A batch. `view` and `counts` are as it was last looked up; `wait`, `cancel` and `refresh` do so again.

    Attributes:
        id: its number.
        view: the daemon's last answer about it: counts, times and follow-ups.
    """

    def __init__(self, client: AsyncClient, channel: Channel, view: BatchView) -> None:
        self.id = view.id
        self.view = view
        self._client = client
        self._channel = channel
        self._words = f"batch:{view.id}"

    @property
    def name(self) -> str | None:
        return self.view.name

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs are in which state; `total` counts all."""
        return {name: getattr(self.view, name) for name in BATCH_COUNTS}

    async def refresh(self) -> Self:
        """Look the batch up again; return the batch itself."""
        [self.view] = await _looked_up(self._channel, GetBatches(id=UNNUMBERED, batch=self.id))
        return self

    async def jobs(self, states: Iterable[State | str] | None = None) -> list[AsyncJob]:
        """Return its jobs, or those in these states, that were not removed; the oldest first."""
        wanted, found = states_of(State if states is None else states), list["AsyncJob"]()
        while part := await self._client.jobs(
            states=wanted, words=self._words, before=found[-1].id if found else None, limit=MAX_LIST
        ):
            found += part
        return found[::-1]

    async def add(self, *calls: Item) -> list[AsyncJob]:
        """Queue more jobs of the batch, all or none; it cannot end before they have.

        Raises:
            Refused: it has ended or was cancelled, or one of them is not accepted.
        """
        specs = [replace(spec, batch=self.id) for spec in specs_of(calls, Caller())]
        return await self._client.submit_many(specs)

    async def wait(self, timeout: Duration | None = None) -> Self:
        """Wait until all jobs have ended and the jobs that follow are queued; return the batch itself.

        Continues when the daemon was restarted.

        Raises:
            TimeoutError: they have not within `timeout`.
        """
        request = GetBatches(id=UNNUMBERED, batch=self.id, wait=True)
        waited = self._channel.resumed(
            request,
            lambda rest, part: (rest, expected(part, BatchesPart).batches),
            seconds_of(timeout),
            f"batch {self.id} has not ended",
        )
        async with aclosing(waited) as views:
            async for view in views:
                self.view = view
        return self

    async def cancel(self) -> Self:
        """Cancel its jobs that have not ended; no more can be added. Return the batch itself."""
        request = CloseBatch(UNNUMBERED, self.id, cancel=True)
        await self._channel.ask(request, BatchesPart, repeatable=True)
        async with aclosing(self._client.act_on_all("cancel", Selection(words=self._words))) as results:
            async for _ in results:
                pass
        return await self.refresh()

    async def retry_failed(self, *, alone: bool = False) -> int:
        """Run its failed jobs again, and unless `alone` those that were cancelled because of them.

        Return how many jobs that are. No follow-up starts a second time.
        """
        count, where = 0, Selection(words=self._words, states=[State.FAILED])
        async with aclosing(self._client.act_on_all("retry", where, alone=alone)) as results:
            async for some in results:
                count += sum(1 + len(result.along) for result in some if result.state is not None)
        await self.refresh()
        return count

    def __repr__(self) -> str:
        return f"<AsyncBatch {self.id}>"


async def made(
    client: AsyncClient,
    channel: Channel,
    calls: Iterable[Item],
    name: str | None,
    follow_ups: Mapping[str, FollowUp | None],
    options: Any,
) -> AsyncBatch:
    """Make a batch; see `AsyncClient.batch`."""
    caller = Caller()
    check = options.get("check", True)
    session = options.get("session")
    new = new_batch_of(name, follow_ups, caller, session=session, check_programs=check, check_targets=check)
    sender = BatchSender(channel, new_batch(), new=new)
    try:
        async with aclosing(sender.send(marked(portions_of(calls, SpecMaker(options, caller))))) as parts:
            async for _ in parts:
                pass
    except BgdError:
        if sender.object is not None:
            with suppress(BgdError):
                await (await found(client, channel, sender.object)).cancel()
        raise
    if sender.object is None:
        raise Refused("a batch needs at least one call")
    return await found(client, channel, sender.object)


async def found(client: AsyncClient, channel: Channel, batch: int | str) -> AsyncBatch:
    """Look up a batch by its id, or the newest one with a name."""
    which = {"name": batch} if isinstance(batch, str) else {"batch": batch}
    [view] = await _looked_up(channel, GetBatches(id=UNNUMBERED, **which))
    return AsyncBatch(client, channel, view)


async def listed(
    client: AsyncClient, channel: Channel, name: str | None, before: int | None, limit: int
) -> list[AsyncBatch]:
    """Return the newest batches."""
    request = checked(GetBatches(id=UNNUMBERED, name=name, before=before, limit=limit))
    return [AsyncBatch(client, channel, view) for view in await _looked_up(channel, request)]


async def _looked_up(channel: Channel, request: GetBatches) -> list[BatchView]:
    parts = await channel.collect(request)
    return [view for part in parts for view in expected(part, BatchesPart).batches]
