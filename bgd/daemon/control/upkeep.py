"""Upkeep: what is asked about the daemon's disk, old jobs and backups."""

from __future__ import annotations

from contextlib import aclosing

from bgd.daemon.backups import Backups
from bgd.daemon.control.answers import Replies
from bgd.daemon.retention import Retention, kept_after
from bgd.daemon.supervisor import Supervisor
from bgd.wire.replies import BackupPart, End, Pruned
from bgd.wire.requests import GetBackup, Prune

Keeping = Prune | GetBackup


class Upkeep:
    """Answers with streams: what is asked takes its time, and others are served meanwhile."""

    def __init__(self, supervisor: Supervisor, retention: Retention, backups: Backups) -> None:
        self._supervisor = supervisor
        self._retention = retention
        self._backups = backups

    async def answer(self, request: Keeping, replies: Replies) -> None:
        """Answer one request with a stream.

        Raises:
            Refused: it cannot be done.
        """
        match request:
            case Prune():
                await self._prune(request, replies)
            case GetBackup():
                await self._send_backup(request, replies)
        replies.send(End(request.id))

    async def _prune(self, request: Prune, replies: Replies) -> None:
        keep = kept_after(request, self._supervisor.config)
        if request.dry_run:
            replies.send(Pruned(request.id, *await self._retention.rehearse(keep)))
            return
        replies.send(Pruned(request.id, 0, 0))
        async with aclosing(self._retention.prune(keep)) as passes:
            async for jobs, log_bytes in passes:
                await replies.send_in_step(Pruned(request.id, jobs, log_bytes))

    async def _send_backup(self, request: GetBackup, replies: Replies) -> None:
        async with self._backups.sent() as (size, pieces), aclosing(pieces):
            async for data in pieces:
                await replies.send_in_step(BackupPart(request.id, size, data))
