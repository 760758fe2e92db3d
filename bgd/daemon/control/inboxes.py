"""Hands out the ends of a session's jobs: each to one reader at a time, until it is acknowledged."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from bgd.daemon.control.reads import Answers, send_parts
from bgd.daemon.storage import inbox
from bgd.daemon.storage.store import Store
from bgd.daemon.streams import Subscriptions
from bgd.wire import replies, requests
from bgd.wire.views import JobEnd

if TYPE_CHECKING:
    from bgd.daemon.control.connection import ClientConnection


class Inboxes:
    """Answers requests about inboxes.

    It is on disk that an end was handed out before its bytes leave, so that a later reader is told. Who has
    it now is only in memory: if the daemon ends, its readers have lost their connections, too.
    """

    def __init__(self, subscriptions: Subscriptions, store: Store) -> None:
        self._subscriptions = subscriptions
        self._store = store
        # the events that each reader has, with their sessions
        self._leases: dict[ClientConnection, dict[int, str]] = {}
        self.answers: Answers = {
            requests.GetInbox: self._send,
            requests.AcknowledgeEnds: self._acknowledge,
        }

    async def _send(self, request: requests.GetInbox, client: ClientConnection) -> None:
        with self._subscriptions.subscribe_to_session((client.uid, request.session)) as subscription:
            while True:
                async with client.in_turn():  # what one request hands out, the next one hands out again
                    ends = await self._next(request, client)
                    await send_parts(ends, partial(replies.InboxPart, request.id), client)
                if ends or not request.wait:
                    return
                await subscription.changed.wait()
                subscription.changed.clear()

    async def _acknowledge(self, request: requests.AcknowledgeEnds, client: ClientConnection) -> replies.Done:
        await self._store.write(inbox.acknowledge, client.uid, request)
        for reader, leased in self._leases.items():
            if reader.uid == client.uid:
                for event in request.events:
                    leased.pop(event, None)
        return replies.Done(request.id)

    async def _next(self, request: requests.GetInbox, client: ClientConnection) -> list[JobEnd]:
        """Return the ends to send now, leased to the client and marked on disk, unless it only looks."""
        wanted = client.uid, request.session, request.limit
        if request.peek:
            return await self._store.read(inbox.unread, *wanted)
        found = await self._store.read(inbox.unread, *wanted, self._leased_to_others(client))
        taken = self._leased_to_others(client)  # again: another reader may have been faster
        ends = [end for end in found if end.event not in taken]
        if not ends:
            return []
        if client not in self._leases:
            client.when_lost.append(partial(self._release_all, client))
        self._leases.setdefault(client, {}).update({end.event: end.session for end in ends})
        try:
            known = await self._store.write(inbox.mark_handed_out, [end.event for end in ends])
        except BaseException:
            self._release(client, ends)
            raise
        held = known.keys() & self._leases.get(client, {})  # some may have been acknowledged meanwhile
        return [replace(end, redelivered=known[end.event]) for end in ends if end.event in held]

    def _leased_to_others(self, client: ClientConnection) -> set[int]:
        return {event for reader, leased in self._leases.items() if reader is not client for event in leased}

    def _release_all(self, client: ClientConnection) -> None:
        """Let others have what a client that has left did not acknowledge."""
        leased = self._leases.pop(client)
        self._subscriptions.notify_sessions({(client.uid, session) for session in leased.values()})

    def _release(self, client: ClientConnection, ends: Iterable[JobEnd]) -> None:
        """Let others have these ends, which could not be sent; a client that has left has no lease."""
        leased = self._leases.get(client, {})
        for end in ends:
            leased.pop(end.event, None)
        self._subscriptions.notify_sessions({(client.uid, end.session) for end in ends})
