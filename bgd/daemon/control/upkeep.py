"""Upkeep: what is asked about the daemon's disk, old jobs and backups."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from pathlib import Path

from bgd import clock
from bgd.daemon import checkup
from bgd.daemon.backups import Backups
from bgd.daemon.control.replying import Replies
from bgd.daemon.launching import LAUNCHER_PATIENCE, LauncherLink
from bgd.daemon.retention import Retention, kept_after
from bgd.daemon.supervisor import Supervisor
from bgd.wire.launching import LAUNCHING_PROTOCOL
from bgd.wire.replies import BackupPart, Checkup, End, Pruned
from bgd.wire.steering import GetBackup, GetCheckup, Prune
from bgd.wire.views import Finding, Level

Keeping = Prune | GetBackup | GetCheckup


class Upkeep:
    """Answers what takes its time, while others are served."""

    def __init__(
        self, supervisor: Supervisor, link: LauncherLink, retention: Retention, backups: Backups
    ) -> None:
        self._supervisor = supervisor
        self._link = link
        self._retention = retention
        self._backups = backups
        self._looking = asyncio.Lock()  # a look may take its time, and a thread of the few there are

    async def answer(self, request: Keeping, replies: Replies) -> None:
        """Answer one request, with one reply or a stream of them.

        Raises:
            Refused: it cannot be done.
        """
        match request:
            case Prune():
                await self._prune(request, replies)
                replies.send(End(request.id))
            case GetBackup():
                await self._send_backup(request, replies)
                replies.send(End(request.id))
            case GetCheckup():
                replies.send(Checkup(request.id, await self._findings()))

    async def _findings(self) -> list[Finding]:
        async with self._looking:
            found = await asyncio.to_thread(checkup.look, self._supervisor.config)
        lost = self._supervisor.lost_output.findings()
        return [*found, *lost, *_failed_backup(self._backups), _launcher(self._link)]

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


def _failed_backup(backups: Backups) -> list[Finding]:
    if backups.problem is None:
        return []
    return [
        Finding(
            "backups",
            Level.PROBLEM,
            f"the last try: {backups.problem}",
            "make that possible: it is tried again within the hour",
        )
    ]


def _launcher(link: LauncherLink) -> Finding:
    if not link.is_connected:
        if not link.problem and clock.elapsed() - link.looking_since < LAUNCHER_PATIENCE:
            return Finding(
                "launcher", Level.NOTE, "none has answered yet: it is being started", "ask again in a moment"
            )
        return Finding(
            "launcher",
            Level.PROBLEM,
            f"there is none, so nothing starts{': ' if link.problem else ''}{link.problem}",
            "the daemon's log says why; as a service: systemctl status bgd-launcher",
        )
    if _stands_still(link.pid):
        return Finding(
            "launcher",
            Level.PROBLEM,
            f"somebody has stopped it, so nothing starts, and no end is seen (pid {link.pid})",
            f"kill -CONT {link.pid}",
        )
    if link.protocol < LAUNCHING_PROTOCOL:
        return Finding(
            "launcher",
            Level.NOTE,
            f"it is of an earlier bgd (protocol {link.protocol}, this bgd speaks {LAUNCHING_PROTOCOL})",
            "when no job runs, end it (kill the pid that bgctl info names): what is new needs a new one",
        )
    return Finding("launcher", Level.OK, f"pid {link.pid}, protocol {link.protocol}")


def _stands_still(pid: int | None) -> bool:
    with suppress(OSError):  # it has gone, or may not be looked at
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].startswith("T")
    return False
