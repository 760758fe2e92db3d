# Generated from bgd/client/async_/batches.py by `make client`: edit that file.
"""Batches: jobs that belong together, and the actions on all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Self

from msgspec.structs import replace

from bgd.client.batch import BatchSender, new_batch_of
from bgd.client.blocking.concurrency import iterate, run
from bgd.client.portions import SpecMaker, marked, new_batch, portions_of
from bgd.client.session import UNNUMBERED, expected
from bgd.client.specs import Caller, Item, checked, seconds_of, specs_of, states_of
from bgd.core.job import State
from bgd.errors import BgdError, Refused
from bgd.wire.replies import BatchesPart
from bgd.wire.requests import MAX_LIST, CloseBatch, GetBatches, Selection
from bgd.wire.views import BATCH_COUNTS, BatchView

if TYPE_CHECKING:
    from bgd.client.batch import FollowUp
    from bgd.client.blocking.client import Client
    from bgd.client.blocking.job import Job
    from bgd.client.channel import Channel
    from bgd.client.options import Duration


class Batch:
    """A batch. `view` and `counts` are as it was last looked up; `wait`, `cancel` and `refresh` do so again.

    Attributes:
        id: its number.
        view: the daemon's last answer about it: counts, times and follow-ups.
    """

    def __init__(self, client: Client, channel: Channel, view: BatchView) -> None:
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

    def refresh(self) -> Self:
        """Look the batch up again; return the batch itself."""
        [self.view] = _looked_up(self._channel, GetBatches(id=UNNUMBERED, batch=self.id))
        return self

    def jobs(self, states: Iterable[State | str] | None = None) -> list[Job]:
        """Return its jobs, or those in these states, that were not removed; the oldest first."""
        wanted, found = states_of(State if states is None else states), list["Job"]()
        while part := self._client.jobs(
            states=wanted, words=self._words, before=found[-1].id if found else None, limit=MAX_LIST
        ):
            found += part
        return found[::-1]

    def add(self, *calls: Item) -> list[Job]:
        """Queue more jobs of the batch, all or none; it cannot end before they have.

        Raises:
            Refused: it has ended or was cancelled, or one of them is not accepted.
        """
        specs = [replace(spec, batch=self.id) for spec in specs_of(calls, Caller())]
        return self._client.submit_many(specs)

    def wait(self, timeout: Duration | None = None) -> Self:
        """Wait until all jobs have ended and the jobs that follow are queued; return the batch itself.

        Continues when the daemon was restarted.

        Raises:
            TimeoutError: they have not within `timeout`.
        """
        request = GetBatches(id=UNNUMBERED, batch=self.id, wait=True)
        waited = iterate(
            self._channel.resumed(
                request,
                lambda rest, part: (rest, expected(part, BatchesPart).batches),
                seconds_of(timeout),
                f"batch {self.id} has not ended",
            )
        )
        with closing(waited) as views:
            for view in views:
                self.view = view
        return self

    def cancel(self) -> Self:
        """Cancel its jobs that have not ended; no more can be added. Return the batch itself."""
        request = CloseBatch(UNNUMBERED, self.id, cancel=True)
        run(self._channel.ask(request, BatchesPart, repeatable=True))
        with closing(self._client.act_on_all("cancel", Selection(words=self._words))) as results:
            for _ in results:
                pass
        return self.refresh()

    def retry_failed(self, *, alone: bool = False) -> int:
        """Run its failed jobs again, and unless `alone` those that were cancelled because of them.

        Return how many jobs that are. No follow-up starts a second time.
        """
        count, where = 0, Selection(words=self._words, states=[State.FAILED])
        with closing(self._client.act_on_all("retry", where, alone=alone)) as results:
            for some in results:
                count += sum(1 + len(result.along) for result in some if result.state is not None)
        self.refresh()
        return count

    def __repr__(self) -> str:
        return f"<Batch {self.id}>"


def made(
    client: Client,
    channel: Channel,
    calls: Iterable[Item],
    name: str | None,
    follow_ups: Mapping[str, FollowUp | None],
    options: Any,
) -> Batch:
    """Make a batch; see `Client.batch`."""
    caller = Caller()
    check = options.get("check", True)
    session = options.get("session")
    new = new_batch_of(name, follow_ups, caller, session=session, check_programs=check, check_targets=check)
    sender = BatchSender(channel, new_batch(), new=new)
    try:
        with closing(iterate(sender.send(marked(portions_of(calls, SpecMaker(options, caller)))))) as parts:
            for _ in parts:
                pass
    except BgdError:
        if sender.object is not None:
            with suppress(BgdError):
                (found(client, channel, sender.object)).cancel()
        raise
    if sender.object is None:
        raise Refused("a batch needs at least one call")
    return found(client, channel, sender.object)


def found(client: Client, channel: Channel, batch: int | str) -> Batch:
    """Look up a batch by its id, or the newest one with a name."""
    which = {"name": batch} if isinstance(batch, str) else {"batch": batch}
    [view] = _looked_up(channel, GetBatches(id=UNNUMBERED, **which))
    return Batch(client, channel, view)


def listed(client: Client, channel: Channel, name: str | None, before: int | None, limit: int) -> list[Batch]:
    """Return the newest batches."""
    request = checked(GetBatches(id=UNNUMBERED, name=name, before=before, limit=limit))
    return [Batch(client, channel, view) for view in _looked_up(channel, request)]


def _looked_up(channel: Channel, request: GetBatches) -> list[BatchView]:
    parts = run(channel.collect(request))
    return [view for part in parts for view in expected(part, BatchesPart).batches]
