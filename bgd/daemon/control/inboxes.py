"""Hands out the ends of a session's jobs: each to one reader at a time, until it is acknowledged."""

from __future__ import annotations

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

    An end is marked on disk before it is sent, so a later reader learns that it was handed out before. Leases
    are only in memory: if the daemon ends, its readers lose their connections, too.
    """

    def __init__(self, subscriptions: Subscriptions, store: Store) -> None:
        self._subscriptions = subscriptions
        self._store = store
        # events that were sent to each reader, with their sessions
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
        deleted = await self._store.write(inbox.acknowledge, client.uid, request)
        for leased in self._leases.values():
            for event in deleted:
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
            leased = self._leases.get(client, {})  # it has none if it has left
            for end in ends:
                leased.pop(end.event, None)
            self._subscriptions.notify_sessions({(client.uid, request.session)})
            raise
        held = known.keys() & self._leases.get(client, {})  # some may have been acknowledged meanwhile
        return [replace(end, redelivered=known[end.event]) for end in ends if end.event in held]

    def _leased_to_others(self, client: ClientConnection) -> set[int]:
        return {event for reader, leased in self._leases.items() if reader is not client for event in leased}

    def _release_all(self, client: ClientConnection) -> None:
        """Let other readers have the ends that a client has not acknowledged before it left."""
        leased = self._leases.pop(client)
        self._subscriptions.notify_sessions({(client.uid, session) for session in leased.values()})
